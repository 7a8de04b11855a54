"""Which detections are right or wrong and which objects were missed: COCOeval's matching at one IoU, box by box.

The C++ evaluator behind the metric keeps no such flags. The kinds of wrong detections follow TIDE (Bolya et al. 2020).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from coco.annotations import CocoAnnotations
from evaluation.detections import Detections

MATCH_IOU = 0.5
MOST_DETECTIONS = 100  # per image and class; COCOeval counts no more
NEAR_IOU = 0.1  # a wrong detection that overlaps an object of its class by less than this is on background (TIDE)


@dataclass(frozen=True)
class Matches:
    """m detections against the M annotations of their file.

    A detection that is neither right nor wrong does not count: it lies in a crowd region, or behind the
    `MOST_DETECTIONS` best of its image and class.
    """

    right: np.ndarray  # bool [m], true positives
    wrong: np.ndarray  # bool [m], false positives
    truth: np.ndarray  # int64 [m], row of the annotation that a detection was matched with, -1 = none
    objects: np.ndarray  # bool [M], annotations to be found: in the images evaluated and no crowd region
    best_score: np.ndarray  # float64 [M], score of the detection that found the object, -1 = none

    def missed(self, score_threshold: float) -> np.ndarray:
        """bool [M], the objects that no detection of at least this score found."""
        return self.objects & (self.best_score < score_threshold)


@dataclass(frozen=True)
class Mistake:
    """A wrong detection or a missed object of one image."""

    kind: str  # "missed", or of a detection: "duplicate", "wrong class", "wrong place" or "background"
    label: int  # 1..C, of the detection or of the missed object
    box: np.ndarray  # float64 [4], xyxy in pixels
    score: float | None  # of the detection; None for a missed object
    truth_label: int | None  # of the object that a wrong detection overlaps most; None on background
    iou: float  # with that object


def match_detections(annotations: CocoAnnotations, detections: Detections, iou_threshold: float = MATCH_IOU) -> Matches:
    """COCOeval's greedy matching for objects of all sizes, over the images of `detections`.

    By descending score, a detection takes the free object of its class that it overlaps most, from `iou_threshold` on;
    failing that, it may lie in a crowd region, which any number of detections may do.
    """
    boxes, truth_boxes = detections.xywh, annotations.bboxes
    truth = np.full(len(boxes), -1)
    counted = np.zeros(len(boxes), bool)
    objects = np.zeros(len(truth_boxes), bool)
    for rows, truths in _images(annotations, detections):
        objects[truths] = ~annotations.iscrowd[truths]
        labels = detections.labels[rows]
        counted[rows] = np.bincount(labels)[labels] <= MOST_DETECTIONS
        # Only where there is something to decide: most classes of an image have no object and few detections.
        for label in np.union1d(annotations.labels[truths], labels[~counted[rows]]):
            found = rows[labels == label]
            counted[found] = False
            found = found[np.argsort(-detections.scores[found], kind="stable")][:MOST_DETECTIONS]
            there = truths[annotations.labels[truths] == label]
            counted[found] = True
            if len(there):
                crowd = annotations.iscrowd[there]
                matched = _greedy(box_iou(boxes[found], truth_boxes[there], crowd), crowd, iou_threshold)
                truth[found] = np.where(matched >= 0, there[matched], -1)
    right = truth >= 0
    right[right] = ~annotations.iscrowd[truth[right]]
    best_score = np.full(len(truth_boxes), -1.0)
    best_score[truth[right]] = detections.scores[right]
    return Matches(right, counted & (truth < 0), truth, objects, best_score)


def mistakes_per_image(
    annotations: CocoAnnotations, detections: Detections, matches: Matches, score_threshold: float
) -> np.ndarray:
    """int64 [n], for each image of `detections` its wrong detections of at least this score and its missed objects."""
    wrong = matches.wrong & (detections.scores >= score_threshold)
    missed = matches.missed(score_threshold)
    return np.array([wrong[rows].sum() + missed[truths].sum() for rows, truths in _images(annotations, detections)])


def image_mistakes(
    annotations: CocoAnnotations, detections: Detections, matches: Matches, index: int, score_threshold: float
) -> tuple[np.ndarray, list[Mistake]]:
    """Of image `index` of `detections`: rows of the right detections, and the mistakes, best score first."""
    rows, truths = next(islice(_images(annotations, detections), index, None))
    rows = rows[detections.scores[rows] >= score_threshold]
    wrong = rows[matches.wrong[rows]]
    wrong = wrong[np.argsort(-detections.scores[wrong], kind="stable")]
    objects = truths[matches.objects[truths]]
    mistakes = [_wrong_detection(annotations, detections, row, objects) for row in wrong]
    for row in truths[matches.missed(score_threshold)[truths]]:
        x, y, width, height = annotations.bboxes[row]
        box = np.array([x, y, x + width, y + height])
        mistakes.append(Mistake("missed", int(annotations.labels[row]), box, None, None, 0.0))
    return rows[matches.right[rows]], mistakes


def wrong_detection(annotations: CocoAnnotations, detections: Detections, matches: Matches, row: int) -> Mistake:
    """What is wrong with the detection of this row."""
    image_id = detections.image_ids[np.searchsorted(np.cumsum(detections.counts), row, side="right")]
    i = np.searchsorted(annotations.image_ids, image_id)
    truths = np.arange(annotations.first[i], annotations.first[i + 1])
    return _wrong_detection(annotations, detections, row, truths[matches.objects[truths]])


def box_iou(boxes: np.ndarray, truths: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """[D, 4] and [G, 4] xywh -> IoU [D, G]; with a crowd region, the part of the box that lies in it."""
    low = np.maximum(boxes[:, None, :2], truths[None, :, :2])
    high = np.minimum((boxes[:, :2] + boxes[:, 2:])[:, None], (truths[:, :2] + truths[:, 2:])[None])
    both = (high - low).clip(0).prod(axis=2)
    areas, truth_areas = boxes[:, 2:].prod(axis=1), truths[:, 2:].prod(axis=1)
    union = np.where(crowd, areas[:, None], areas[:, None] + truth_areas - both)
    return np.divide(both, union, out=np.zeros_like(both), where=both > 0)


def _images(annotations: CocoAnnotations, detections: Detections) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each image of `detections` its rows there, and its rows in the annotations."""
    ends = np.cumsum(detections.counts)
    indices = np.searchsorted(annotations.image_ids, detections.image_ids)
    for start, end, i in zip(ends - detections.counts, ends, indices, strict=True):
        yield np.arange(start, end), np.arange(annotations.first[i], annotations.first[i + 1])


def _greedy(ious: np.ndarray, crowd: np.ndarray, iou_threshold: float) -> np.ndarray:
    """[D, G] by descending score -> int64 [D], the column that each row takes, -1 = none."""
    taken = np.full(len(ious), -1)
    free = ~crowd
    for row in np.flatnonzero((ious >= iou_threshold).any(axis=1)):
        for allowed in (free, crowd):
            overlaps = np.where(allowed, ious[row], -1)
            if overlaps.max() >= iou_threshold:
                taken[row] = len(overlaps) - 1 - overlaps[::-1].argmax()  # of equals the last, as COCOeval
                break
        if taken[row] >= 0:
            free[taken[row]] = False
    return taken


def _wrong_detection(annotations: CocoAnnotations, detections: Detections, row: int, objects: np.ndarray) -> Mistake:
    label, score, truth_labels = int(detections.labels[row]), float(detections.scores[row]), annotations.labels[objects]
    box = detections.boxes[row].astype(np.float64)
    xywh = np.concatenate((box[:2], box[2:] - box[:2]))[None]
    (overlaps,) = box_iou(xywh, annotations.bboxes[objects], np.zeros(len(objects), bool))
    same = np.where(truth_labels == label, overlaps, 0)
    best_same, best = same.max(initial=0), overlaps.max(initial=0)
    if best_same >= MATCH_IOU:
        kind, nearest = "duplicate", int(same.argmax())
    elif best >= MATCH_IOU:
        kind, nearest = "wrong class", int(overlaps.argmax())
    elif best_same >= NEAR_IOU:
        kind, nearest = "wrong place", int(same.argmax())
    else:
        kind, nearest = "background", None
    truth_label, iou = (None, 0.0) if nearest is None else (int(truth_labels[nearest]), float(overlaps[nearest]))
    return Mistake(kind, label, box, score, truth_label, iou)
