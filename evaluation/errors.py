"""Which detections are right or wrong and which objects were missed, box by box, and what is wrong.

The kinds of wrong detections follow TIDE (Bolya et al. 2020).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from coco.annotations import CocoAnnotations
from evaluation.coco_sets import annotation_rows
from evaluation.detections import Detections
from evaluation.matching import AREAS, box_iou, match

MATCH_IOU = 0.5
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
    """COCOeval's matching (`evaluation.matching`) for objects of all sizes, over the images of `detections`."""
    found = match(annotations, detections, np.array([iou_threshold]), AREAS[:1])
    truth = np.full(len(detections.scores), -1)
    truth[found.rows[found.position]] = found.truth
    counted = np.zeros(len(truth), bool)
    counted[found.rows] = True
    _, there = annotation_rows(annotations, np.searchsorted(annotations.image_ids, detections.image_ids))
    objects = np.zeros(len(annotations.labels), bool)
    objects[there] = ~annotations.iscrowd[there]
    right = truth >= 0
    right[right] = ~annotations.iscrowd[truth[right]]
    best_score = np.full(len(objects), -1.0)
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


def _images(annotations: CocoAnnotations, detections: Detections) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each image of `detections` its rows there, and its rows in the annotations."""
    ends = np.cumsum(detections.counts)
    indices = np.searchsorted(annotations.image_ids, detections.image_ids)
    for start, end, i in zip(ends - detections.counts, ends, indices, strict=True):
        yield np.arange(start, end), np.arange(annotations.first[i], annotations.first[i + 1])


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
