"""The evaluator's diagnostics against small oracles of our own, and ours against counting by hand."""

import numpy as np
import pytest

from evaluation import coco_sets
from evaluation.diagnostics import confusion_matrix, reliability, sizes_at_input, tide_errors
from evaluation.errors import match_detections
from evaluation.matching import box_iou
from tests.evaluation.test_metric import random_set
from tests.evaluation.test_report import found, write_truth
from tests.evaluation.test_thresholds import detected

KINDS = ["class", "localisation", "both", "duplicate", "background", "missed"]


def diagnosed(path, results):
    annotations, detections = detected(path, results)
    return annotations, detections, coco_sets.evaluate(annotations, detections, crowds=False)


def images_of(annotations, detections):
    """Per image, best score first: detections' rows, objects' rows without crowds, IoU."""
    ends = np.cumsum(detections.counts)
    for i, (start, end) in enumerate(zip(ends - detections.counts, ends, strict=True)):
        rows = np.arange(start, end)
        rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
        truths = np.arange(annotations.first[i], annotations.first[i + 1])
        truths = truths[~annotations.iscrowd[truths]]
        no_crowd = np.zeros(len(truths), bool)
        yield rows, truths, box_iou(detections.xywh[rows], annotations.bboxes[truths], no_crowd)


def confusion_oracle(annotations, detections, threshold):
    classes = len(annotations.class_names)
    matrix = np.zeros((classes + 1, classes + 1), int)
    for rows, truths, ious in images_of(annotations, detections):
        free = np.ones(len(truths), bool)
        for row, overlaps in zip(rows, ious, strict=True):
            if detections.scores[row] <= threshold:
                continue
            overlaps = np.where(free, overlaps, -1)
            place = overlaps.argmax() if len(overlaps) else -1
            column = detections.labels[row] - 1
            if place >= 0 and overlaps[place] >= 0.5:
                free[place] = False
                matrix[annotations.labels[truths[place]] - 1, column] += 1
            else:
                matrix[-1, column] += 1
        np.add.at(matrix, (annotations.labels[truths[free]] - 1, classes), 1)
    return matrix


def average_precision(scores, right, objects):
    """COCO's 101-point AP."""
    if not objects:
        return None
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    places = np.searchsorted(hits / objects, np.linspace(0, 1, 101), side="left")
    return np.append(precision, 0)[np.minimum(places, len(precision))].mean()


def tide_oracle(annotations, detections):
    """TIDE's definition, word by word: {kind: (cost, count)}."""
    classes = len(annotations.class_names)
    matches = match_detections(annotations, detections)
    kind, target = np.full(len(detections.labels), "", object), np.full(len(detections.labels), -1)
    fixable = set()
    for rows, truths, ious in images_of(annotations, detections):
        for row, overlaps in zip(rows, ious, strict=True):
            if matches.right[row]:
                continue
            same = annotations.labels[truths] == detections.labels[row]
            best_same, best_other = (np.where(chosen, overlaps, 0).max(initial=0) for chosen in (same, ~same))
            if 0.1 <= best_same <= 0.5:
                kind[row], target[row] = "localisation", truths[np.where(same, overlaps, -1).argmax()]
            elif best_other >= 0.5 and best_same < 0.1:
                kind[row], target[row] = "class", truths[np.where(~same, overlaps, -1).argmax()]
            elif best_same > 0.5:
                kind[row] = "duplicate"
            elif max(best_same, best_other) <= 0.1:
                kind[row] = "background"
            else:
                kind[row] = "both"
            if target[row] >= 0:
                fixable.add(target[row])
    missed = [row for row in np.flatnonzero(matches.missed(0)) if row not in fixable]

    def mean_ap(labels, right, kept, objects):
        values = [
            average_precision(detections.scores[kept & (labels == c)], right[kept & (labels == c)], objects[c - 1])
            for c in range(1, classes + 1)
        ]
        return np.mean([value for value in values if value is not None])

    objects = np.bincount(annotations.labels[matches.objects], minlength=classes + 1)[1:]
    everything = np.ones(len(kind), bool)
    base = mean_ap(detections.labels, matches.right, everything, objects)
    costs = {}
    for name in KINDS:
        labels, right, kept, there = detections.labels.copy(), matches.right.copy(), everything.copy(), objects.copy()
        if name == "missed":
            there -= np.bincount(annotations.labels[missed].astype(int), minlength=classes + 1)[1:]
        else:
            taken = set(matches.truth[matches.right])
            for row in np.argsort(-detections.scores, kind="stable"):
                # As in the authors' code, an object is given to the best of all that could be mended, of either kind.
                free = target[row] >= 0 and target[row] not in taken
                taken.add(target[row])
                if kind[row] == name and free:
                    right[row], labels[row] = True, annotations.labels[target[row]]
                elif kind[row] == name:
                    kept[row] = False
        costs[name] = (mean_ap(labels, right, kept, there) - base, int((kind == name).sum()))
    costs["missed"] = (costs["missed"][0], len(missed))
    return costs


@pytest.mark.parametrize("seed", range(3))
def test_the_confusion_matrix_is_that_of_matching_whatever_the_class(tmp_path, seed):
    annotations, detections, evaluator = diagnosed(*random_set(tmp_path, crowd=0.3, seed=seed))
    for threshold in (0.0, 0.4):
        matrix = confusion_matrix(evaluator, detections, threshold)
        assert matrix.tolist() == confusion_oracle(annotations, detections, threshold).tolist()
        assert matrix[:-1].sum() == (~annotations.iscrowd).sum(), "every object once, no crowd region"
        assert matrix[:, :-1].sum() == (detections.scores > threshold).sum(), "every detection once"


@pytest.mark.parametrize("seed", range(3))
def test_the_six_kinds_and_their_costs_are_those_of_TIDE(tmp_path, seed):
    annotations, detections, evaluator = diagnosed(*random_set(tmp_path, crowd=0.3, seed=seed))
    expected = tide_oracle(annotations, detections)
    errors = tide_errors(evaluator)
    assert [error.kind for error in errors] == KINDS
    assert [error.count for error in errors] == [expected[kind][1] for kind in KINDS]
    assert [error.cost for error in errors] == pytest.approx([expected[kind][0] for kind in KINDS], abs=1e-9)


def test_no_diagnostic_is_empty_where_there_are_mistakes(tmp_path):
    """As those of an evaluator would be that was fed batch by batch: all zero, without an error."""
    annotations, detections, evaluator = diagnosed(*random_set(tmp_path, images=120))
    assert all(error.count and error.cost > 0 for error in tide_errors(evaluator))
    matrix = confusion_matrix(evaluator, detections, 0.2)
    assert (matrix[:-1, :-1].diagonal() > 0).all() and (matrix[-1, :-1] > 0).all() and (matrix[:-1, -1] > 0).all()
    matches = match_detections(annotations, detections)
    assert (reliability(detections.scores, matches).count > 0).all()
    assert sum(row.objects > 0 for row in sizes_at_input(annotations, matches, 0.2)) > 3


def test_reliability_is_the_share_that_is_right_among_like_scores(tmp_path):
    path = write_truth(tmp_path, [(1, 1, [0, 0, 50, 50], 0), (1, 1, [60, 0, 40, 40], 0)])
    right = [found(1, 1, (0, 0, 50, 50), 0.92), found(1, 1, (60, 0, 40, 40), 0.32)]
    wrong = [found(1, 1, (0, 60, 20, 20), 0.98), found(1, 1, (60, 60, 20, 20), 0.1), found(1, 2, (1, 1, 9, 9), 1.0)]
    annotations, detections = detected(path, right + wrong)
    chart = reliability(detections.scores, match_detections(annotations, detections))
    assert chart.count.tolist() == [0, 1, 0, 1, 0, 0, 0, 0, 0, 3]
    assert chart.right[[1, 3, 9]] == pytest.approx([0, 1, 1 / 3])
    assert chart.score[[3, 9]] == pytest.approx([0.32, 2.9 / 3])
    assert chart.error == pytest.approx((0.1 + 0.68 + 3 * (2.9 / 3 - 1 / 3)) / 5)


def test_sizes_are_those_after_the_resize_to_the_networks_input(tmp_path):
    # 200x100 pictures: 10x10 px become 15x30, 21.2 px a side; 4x4 become 8.5; 100x90 become 201.
    boxes = [[0, 0, 10, 10], [50, 0, 4, 4], [80, 0, 100, 90]]
    path = write_truth(tmp_path, [*((1, 1, box, 0) for box in boxes), (1, 1, [0, 50, 20, 20], 1)])
    annotations, detections = detected(path, [found(1, 1, boxes[0], 0.9), found(1, 1, boxes[2], 0.2)])
    rows = sizes_at_input(annotations, match_detections(annotations, detections), 0.5)
    assert [(row.low, row.objects, row.found, row.found_at_all) for row in rows if row.objects] == [
        (8, 1, 0, 0), (16, 1, 1, 1), (128, 1, 0, 1)
    ]  # fmt: skip


def test_nothing_found_and_nothing_to_find_has_diagnostics_too(tmp_path):
    for directory, objects in (("some", [(1, 1, [0, 0, 50, 50], 0)]), ("none", [])):
        (tmp_path / directory).mkdir()
        annotations, detections, evaluator = diagnosed(write_truth(tmp_path / directory, objects), [])
        assert confusion_matrix(evaluator, detections, 0.5).sum() == len(objects)
        assert tide_errors(evaluator)[-1].count == len(objects)
        matches = match_detections(annotations, detections)
        assert reliability(detections.scores, matches).count.sum() == 0
        assert sum(row.objects for row in sizes_at_input(annotations, matches, 0.5)) == len(objects)
