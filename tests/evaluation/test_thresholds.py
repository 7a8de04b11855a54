"""The chosen threshold against every threshold tried, and its interval against a data set that is really resampled."""

import json

import numpy as np
import pytest

from coco.annotations import CocoAnnotations
from evaluation import thresholds
from evaluation.detections import Detections
from evaluation.errors import match_detections
from evaluation.thresholds import Rule, operating_points
from tests.evaluation.test_metric import random_set
from tests.evaluation.test_report import found, write_truth

F1, NINE_TENTHS = Rule(), Rule(0.9)
LOWEST = 0.01


def detected(path, results):
    """The annotations of a file, and results as the `Detections` of all its images."""
    annotations = CocoAnnotations.load(path)
    labels = {category: label for label, category in enumerate(annotations.category_ids, start=1)}
    results = sorted(results, key=lambda each: each["image_id"])
    boxes = np.array([each["bbox"] for each in results]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    counts = np.searchsorted([each["image_id"] for each in results], annotations.image_ids, "right")
    counts = np.diff(counts, prepend=0)
    scores = np.array([each["score"] for each in results], np.float32)
    found_labels = np.array([labels[each["category_id"]] for each in results], np.int16)
    return annotations, Detections(annotations.image_ids, counts, boxes, scores, found_labels)


def points(path, results, rules=(F1, NINE_TENTHS), **how):
    annotations, detections = detected(path, results)
    return operating_points(annotations, detections, match_detections(annotations, detections), rules, LOWEST, **how)


def rates_above(path, results, threshold):
    """Right, kept and objects of what scores above the threshold, matched anew; by class, and last of all classes."""
    annotations, detections = detected(
        path, [each for each in results if np.float32(each["score"]) > np.float32(threshold)]
    )
    matches = match_detections(annotations, detections)
    rates = []
    for label in range(1, len(annotations.class_names) + 1):
        ours = detections.labels == label
        right = (matches.right & ours).sum()
        rates.append(
            (right, right + (matches.wrong & ours).sum(), (matches.objects & (annotations.labels == label)).sum())
        )
    return [*rates, tuple(map(sum, zip(*rates, strict=True)))]


@pytest.mark.parametrize("seed", range(3))
def test_no_other_threshold_is_better(tmp_path, seed):
    path, results = random_set(tmp_path, images=25, seed=seed)
    for result in results[::2]:
        result["score"] = round(result["score"], 1) or 0.1  # ties, which no threshold can part
    chosen = points(path, results)
    all_tried = [rates_above(path, results, threshold) for threshold in {LOWEST, *(r["score"] for r in results)}]
    for place in range(5):
        tried = [rates[place] for rates in all_tried if rates[place][0]]
        best = chosen[F1][place]
        assert best.f1 == pytest.approx(max(2 * right / (kept + objects) for right, kept, objects in tried))
        right, kept, objects = rates_above(path, results, best.threshold)[place]
        assert (best.precision, best.recall) == pytest.approx((right / kept, right / objects)), "at that threshold"
        precise = [right / objects for right, kept, objects in tried if right >= 0.9 * kept]
        sure = chosen[NINE_TENTHS][place]
        assert (sure is None) == (not precise)
        if sure:
            assert sure.recall == pytest.approx(max(precise)) and sure.precision >= 0.9
            right, kept, objects = rates_above(path, results, sure.threshold)[place]
            assert (sure.precision, sure.recall) == pytest.approx((right / kept, right / objects))


def test_the_interval_is_of_images_drawn_again_with_those_drawn_twice_counted_twice(tmp_path, monkeypatch):
    path, results = random_set(tmp_path, images=25)
    monkeypatch.setattr(thresholds, "RESAMPLES", 1)
    chosen = points(path, results, seed=3)
    truth = json.loads(path.read_text())
    weights = np.random.default_rng(3).multinomial(25, np.full(25, 1 / 25))
    assert weights.max() > 1 and weights.min() == 0
    drawn = {"images": [], "annotations": [], "categories": truth["categories"]}
    drawn_results = []
    for image, weight in zip(truth["images"], weights, strict=True):
        for _ in range(weight):
            new = len(drawn["images"]) + 1
            drawn["images"].append({**image, "id": new})
            own = [each for each in truth["annotations"] if each["image_id"] == image["id"]]
            drawn["annotations"] += [
                {**each, "id": len(drawn["annotations"]) + 1 + i, "image_id": new} for i, each in enumerate(own)
            ]
            drawn_results += [{**each, "image_id": new} for each in results if each["image_id"] == image["id"]]
    again = tmp_path / "drawn.json"
    again.write_text(json.dumps(drawn))
    expected = points(again, drawn_results)
    for rule in chosen:
        for place, (ours, theirs) in enumerate(zip(chosen[rule], expected[rule], strict=True)):
            if ours and theirs:  # perhaps not the same number, but the same detections
                low, high = ours.threshold_interval
                kept = [rates_above(again, drawn_results, each)[place] for each in (low, theirs.threshold)]
                assert kept[0] == kept[1] and low == high
    whole = chosen[F1][-1]
    right, kept, objects = rates_above(again, drawn_results, whole.threshold)[-1]
    assert whole.precision_interval == pytest.approx((right / kept,) * 2)
    assert whole.recall_interval == pytest.approx((right / objects,) * 2)
    assert whole.f1_interval == pytest.approx((2 * right / (kept + objects),) * 2)


def test_the_same_seed_gives_the_same_intervals_and_more_images_narrower_ones(tmp_path):
    (tmp_path / "few").mkdir()
    few, many = random_set(tmp_path / "few", images=20), random_set(tmp_path, images=300)
    once, again, other = (points(*few, seed=seed)[F1][-1] for seed in (0, 0, 1))
    assert once == again and once != other
    low, high = once.f1_interval
    assert low < once.f1 < high
    narrow = points(*many)[F1][-1].f1_interval
    assert narrow[1] - narrow[0] < (high - low) / 2


def test_no_threshold_where_there_is_nothing_to_find_or_nothing_right(tmp_path):
    path = write_truth(tmp_path, [(1, 1, [0, 0, 50, 50], 0), (1, 3, [60, 0, 40, 40], 0)], classes=4)
    results = [found(1, 1, (0, 0, 50, 50), 0.9), found(1, 2, (0, 0, 50, 50), 0.8), found(1, 3, (0, 60, 9, 9), 0.7)]
    chosen = points(path, results)
    assert [point is None for point in chosen[F1]] == [False, True, True, True, False]
    assert chosen[F1][0].threshold == pytest.approx((0.9 + LOWEST) / 2) and chosen[F1][0].recall == 1
    assert chosen[NINE_TENTHS][-1].threshold == pytest.approx(0.85)
    assert points(path, []) == {F1: [None] * 5, NINE_TENTHS: [None] * 5}


def test_a_threshold_parts_scores_that_are_neighbours_in_float32(tmp_path):
    path = write_truth(tmp_path, [(1, 1, [0, 0, 50, 50], 0)])
    low = np.float32(0.7)
    high = np.nextafter(low, np.float32(1))
    results = [found(1, 1, (0, 0, 50, 50), float(high)), found(1, 1, (100, 0, 50, 50), float(low))]
    threshold = points(path, results)[F1][0].threshold
    assert high > np.float32(threshold) and not low > np.float32(threshold)


@pytest.mark.parametrize("text", ["f1", "precision=0.9", "precision=.75", "precision=1"])
def test_a_rule_reads_as_it_is_written(text):
    assert Rule.parse(str(Rule.parse(text))) == Rule.parse(text)


@pytest.mark.parametrize("text", ["", "F2", "precision", "precision=0", "precision=1.5", "precision=-1", "precision=x"])
def test_anything_else_is_no_rule(text):
    with pytest.raises(ValueError, match="expected f1, or precision="):
        Rule.parse(text)
