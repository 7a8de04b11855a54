"""COCO's numbers of an evaluation whose images are drawn again, fast: what a bootstrap over images needs.

Matches depend on one image each, so they are found once. Drawing images again only weighs the detections, and precision
as COCOeval interpolates it changes where an object is found: so only those places are looked at.
"""

from typing import NamedTuple

import numpy as np

from coco.annotations import CocoAnnotations
from evaluation.detections import Detections
from evaluation.matching import AREAS, IOU_THRESHOLDS, MOST_DETECTIONS, in_range, match

RECALLS = np.linspace(0, 1, 101)
# A recall of exactly k / 100 is for some k below COCOeval's threshold of that name, which is rounded up.
_REACHED = np.arange(101) / 100 >= RECALLS


# COCO's six recalls: of so many detections an image and class, and objects of which range of `AREAS`.
RECALLED = ((1, 0), (10, 0), *((MOST_DETECTIONS, size) for size in range(4)))


class Numbers(NamedTuple):
    """NaN where there is nothing to measure."""

    twelve: np.ndarray  # float64 [12], in COCO's order
    classes: np.ndarray  # float64 [C], AP of each class


class Resampled:
    """COCO's numbers of these detections, for images drawn any number of times each.

    They are COCOeval's over as many copies of each image, but for the order of detections of one image and class that
    score exactly the same. Matches lie in segments: one per IoU threshold, size range and class.
    """

    def __init__(self, annotations: CocoAnnotations, detections: Detections) -> None:
        found = match(annotations, detections)
        images, classes = len(detections.image_ids), len(annotations.class_names)
        self._shape = (len(IOU_THRESHOLDS), len(AREAS), classes)
        image = np.repeat(np.arange(images), detections.counts)[found.rows]
        label = detections.labels[found.rows].astype(np.int64) - 1
        is_inside = np.array([in_range(detections.xywh[found.rows, 2:].prod(axis=1), limits) for limits in AREAS])

        # Detections inside a size range count there, right or wrong. Of the matched ones outside it those that are
        # right count too, and of those inside the ones matched with what is ignored do not.
        right = ~found.ignored[found.size, found.truth]
        change = right.astype(np.int32) - is_inside[found.size, found.position]
        kept = right | (change != 0)
        size, position, self._right, change = found.size[kept], found.position[kept], right[kept], change[kept]
        self._image = image[position]
        self._segment = (found.threshold[kept].astype(np.int64) * len(AREAS) + size) * classes + label[position]
        self._filled, self._first = np.unique(self._segment, return_index=True)
        self._lengths = np.diff(self._first, append=len(position))
        self._start = np.repeat(self._first, self._lengths)
        # Added, precisions of each segment are above those of the next.
        self._apart = 2.0 * np.repeat(np.arange(len(self._first))[::-1], self._lengths)
        self._changed = np.flatnonzero(change)
        self._change = change[self._changed]
        self._changes = np.searchsorted(self._changed, np.arange(len(position)), side="right")
        self._changes_before = np.searchsorted(self._changed, self._start)
        self._recalled = [
            self._counts(self._right & (size == of) & (found.rank[position] < most), label[position])
            for most, of in RECALLED
        ]

        # Where the detections up to a match, and those before its class, end among the ones inside its size range.
        class_start = np.searchsorted(label, np.arange(classes))[label[position]]
        self._inside = [image[rows] for rows in is_inside]
        self._first_sum = np.cumsum([0, *(len(rows) + 1 for rows in self._inside)])
        before = np.concatenate((np.zeros((len(AREAS), 1), int), np.cumsum(is_inside, axis=1)), axis=1)
        self._upto = self._first_sum[size] + before[size, position + 1]
        self._from = self._first_sum[size] + before[size, class_start]

        place = np.full(len(annotations), -1)
        place[np.searchsorted(annotations.image_ids, detections.image_ids)] = np.arange(images)
        truth_image = np.repeat(place, np.diff(annotations.first))
        rows = [np.flatnonzero(~ignored & (truth_image >= 0)) for ignored in found.ignored]
        self._objects = [(annotations.labels[own] - 1, truth_image[own]) for own in rows]

    def numbers(self, weights: np.ndarray) -> Numbers:
        """weights: int [n], how often each image of the detections is there."""
        classes, weights = self._shape[-1], weights.astype(np.int32)
        objects = np.array([np.bincount(label, weights[image], classes) for label, image in self._objects])  # [A, C]
        weight = weights[self._image]
        right = weight * self._right
        precision, reached = self._curves(weights, weight, right, objects.astype(np.int64))
        largest = np.maximum.accumulate((precision + self._apart)[::-1])[::-1] - self._apart  # from there on
        average = np.zeros(self._shape)
        if len(reached):
            average.ravel()[self._filled] = np.add.reduceat(reached * largest, self._first) / len(RECALLS)
        with np.errstate(invalid="ignore", divide="ignore"):
            average = np.where(objects > 0, average, np.nan)
            recalls = [
                np.bincount(label, count * weights[image], classes) / (len(IOU_THRESHOLDS) * objects[size])
                for (label, image, count), (_, size) in zip(self._recalled, RECALLED, strict=True)
            ]
        twelve = [average[:, 0], average[0, 0], average[5, 0], *(average[:, size] for size in (1, 2, 3)), *recalls]
        return Numbers(np.array([_mean(values) for values in twelve]), average[:, 0].mean(axis=0))

    def _curves(
        self, weights: np.ndarray, weight: np.ndarray, right: np.ndarray, objects: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """At each match: the precision, and how many of COCOeval's recall thresholds are reached there first."""
        inside = np.zeros(self._first_sum[-1], np.int32)
        for first, image in zip(self._first_sum, self._inside, strict=False):
            np.cumsum(weights[image], dtype=np.int32, out=inside[first + 1 : first + 1 + len(image)])
        changes = _sums(self._change * weight[self._changed])
        found = _sums(right)
        found = found[1:] - found[self._start]
        counted = inside[self._upto] - inside[self._from]
        counted += changes[self._changes] - changes[self._changes_before]
        thresholds, first = _recalls_reached(objects.ravel())
        reached = thresholds[np.repeat(first[self._filled % objects.size], self._lengths) + found]
        new = np.diff(reached, prepend=0)
        new[self._first] = reached[self._first]
        return found / np.maximum(counted, 1), new

    def _counts(self, matches: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of these matches, over all IoU thresholds: class, image, and how many it has of it."""
        pairs, counts = np.unique(np.stack((label[matches], self._image[matches])), axis=1, return_counts=True)
        return pairs[0], pairs[1], counts


def _recalls_reached(objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each number of objects n: how many recall thresholds 0..n found objects reach, and where that n's begin."""
    counts = objects + 1
    first = np.cumsum(counts) - counts
    hundredths = 100 * (np.arange(counts.sum()) - np.repeat(first, counts))
    objects = np.repeat(np.maximum(objects, 1), counts)
    whole = hundredths // objects
    return whole + 1 - ((whole * objects == hundredths) & ~_REACHED[whole]), first


def _sums(values: np.ndarray) -> np.ndarray:
    """Of the first 0, 1, 2... values."""
    sums = np.zeros(len(values) + 1, np.int32)
    np.cumsum(values, dtype=np.int32, out=sums[1:])
    return sums


def _mean(values: np.ndarray) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if there.size else float("nan")
