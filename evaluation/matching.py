"""COCOeval's matching of detections with objects, at many IoU thresholds and sizes at once, in plain arrays.

The evaluator behind the metric does the same, but hands its matches out as a dict per image, class and size.
"""

from dataclasses import dataclass

import numpy as np

from coco.annotations import CocoAnnotations
from evaluation.coco_sets import annotation_rows
from evaluation.detections import Detections

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
MOST_DETECTIONS = 100  # per image and class; COCOeval counts no more
AREAS = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))  # all, small, medium, large, in square pixels


@dataclass(frozen=True)
class Matching:
    """k detections that count, by class and descending score (of equals as COCOeval orders them), and their matches.

    A detection without a match is wrong, or if it is outside the size range does not count.
    """

    rows: np.ndarray  # int64 [k], rows of the detections
    rank: np.ndarray  # int64 [k], 0 for the best of its image and class
    threshold: np.ndarray  # int8 [e], of each match: which IoU threshold,
    size: np.ndarray  # int8 [e], which size range,
    position: np.ndarray  # int64 [e], which of the k detections, ascending within threshold and size,
    truth: np.ndarray  # int64 [e], with which row of the annotations: an object, or what is `ignored` there
    ignored: np.ndarray  # bool [A, M], of the annotations: crowd regions, and objects outside the size range


def match(
    annotations: CocoAnnotations,
    detections: Detections,
    iou_thresholds: np.ndarray = IOU_THRESHOLDS,
    areas: tuple[tuple[float, float], ...] = AREAS,
) -> Matching:
    """By descending score, a detection takes the free object of its class and image that it overlaps most, from the
    threshold on; failing that, what is ignored; crowd regions take any number.
    """
    image = np.repeat(np.arange(len(detections.counts)), detections.counts)
    classes = len(annotations.class_names) + 1
    pair = image * classes + detections.labels  # of image and class
    rows = np.lexsort((-detections.scores, pair))
    rank = _rank_within(pair[rows])
    rows, rank = rows[rank < MOST_DETECTIONS], rank[rank < MOST_DETECTIONS]
    pair = pair[rows]
    ignored = np.array([annotations.iscrowd | ~in_range(annotations.areas, area) for area in areas])

    images = np.searchsorted(annotations.image_ids, detections.image_ids)
    truth_image, truths = annotation_rows(annotations, images)
    truth_pair = np.searchsorted(images, truth_image) * classes + annotations.labels[truths]
    by_pair = np.argsort(truth_pair, kind="stable")
    truths, truth_pair = truths[by_pair], truth_pair[by_pair]

    pairs, first_truth, truth_count = np.unique(truth_pair, return_index=True, return_counts=True)
    first = np.searchsorted(pair, pairs)
    count = np.searchsorted(pair, pairs, side="right") - first
    boxes = detections.xywh[rows]
    parts: list[tuple[np.ndarray, ...]] = []
    width = 2 ** np.ceil(np.log2(truth_count)).astype(int)  # of alike pairs, padded to one width, at once
    for some_width in np.unique(width):
        alike = np.flatnonzero((width == some_width) & (count > 0))
        alike = alike[np.argsort(-count[alike], kind="stable")]
        column = np.arange(some_width)
        there = column < truth_count[alike, None]
        table = truths[np.where(there, first_truth[alike, None] + column, 0)]  # [P, G]
        parts += _match_pairs(annotations, boxes, first[alike], count[alike], table, there, ignored, iou_thresholds)

    order = np.lexsort((-detections.scores[rows], detections.labels[rows]))  # stable, so of equals by image and rank
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    empty = (np.zeros(0, np.int64),) * 4
    found, truth, threshold, size = (np.concatenate(part) for part in zip(empty, *parts, strict=True))
    position = place[found]
    by = np.lexsort((position, size, threshold))
    return Matching(
        rows[order],
        rank[order],
        threshold[by].astype(np.int8),
        size[by].astype(np.int8),
        position[by],
        truth[by],
        ignored,
    )


def box_iou(boxes: np.ndarray, truths: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """xywh [D, 4] and [G, 4], or [D, G, 4] -> IoU [D, G]; with a crowd region, the part of the box that lies in it."""
    boxes = boxes[:, None]
    low = np.maximum(boxes[..., :2], truths[..., :2])
    high = np.minimum(boxes[..., :2] + boxes[..., 2:], truths[..., :2] + truths[..., 2:])
    both = (high - low).clip(0).prod(axis=-1)
    areas = boxes[..., 2:].prod(axis=-1)
    union = np.where(crowd, areas, areas + truths[..., 2:].prod(axis=-1) - both)
    return np.divide(both, union, out=np.zeros_like(both), where=both > 0)


def in_range(areas: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Whether each area is within the limits, ends included."""
    return (areas >= limits[0]) & (areas <= limits[1])


def _match_pairs(
    annotations: CocoAnnotations,
    boxes: np.ndarray,
    first: np.ndarray,
    count: np.ndarray,
    table: np.ndarray,
    there: np.ndarray,
    ignored: np.ndarray,
    iou_thresholds: np.ndarray,
) -> list[tuple[np.ndarray, ...]]:
    """P pairs of image and class side by side, each one's next best detection in turn.

    Args:
        boxes: xywh, those of pair p from first[p] on, count[p] of them, descending. table: [P, G] rows of annotations,
            where `there`.
    """
    truth_boxes, crowd = annotations.bboxes[table], annotations.iscrowd[table]
    ignore = ignored[:, table].transpose(1, 0, 2)[:, None]  # [P, 1, A, G]
    free = np.ones((len(table), len(iou_thresholds), len(ignored), table.shape[1]), bool) & there[:, None, None]
    lowest = iou_thresholds.min()
    parts: list[tuple[np.ndarray, ...]] = []
    for turn in range(count.max(initial=0)):
        active = np.searchsorted(-count, -turn)  # pairs with more detections than that
        ious = box_iou(boxes[first[:active] + turn], truth_boxes[:active], crowd[:active])
        near = np.flatnonzero(((ious >= lowest) & there[:active]).any(axis=1))
        if not len(near):
            continue
        reach = (ious[near, None] >= iou_thresholds[:, None])[:, :, None] & free[near]  # [N, T, A, G]
        overlap = np.where(reach, ious[near, None, None], -1)
        regular = np.where(ignore[near], -1, overlap)
        some = (regular >= 0).any(axis=-1)
        best = np.where(some, _last_largest(regular), _last_largest(overlap))  # without a regular one, of the ignored
        n, t, a = np.nonzero(some | (overlap >= 0).any(axis=-1))
        taken, pair = best[n, t, a], near[n]
        free[pair, t, a, taken] = crowd[pair, taken]
        parts.append((first[pair] + turn, table[pair, taken], t, a))
    return parts


def _last_largest(values: np.ndarray) -> np.ndarray:
    """Index of the largest along the last axis, of equals the last, as COCOeval."""
    return values.shape[-1] - 1 - values[..., ::-1].argmax(axis=-1)


def _rank_within(groups: np.ndarray) -> np.ndarray:
    """For sorted groups, each entry's place in its own, from 0."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))
