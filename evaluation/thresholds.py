"""Which score threshold to use: of best F1, or the lowest of at least a given precision; per class, and for all.

Right and wrong are those of `match_detections`. They do not change with the threshold, since a detection of lower score
takes nothing from one of higher. How firm a point is, a bootstrap over images says.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from coco.annotations import CocoAnnotations
from evaluation.detections import Detections
from evaluation.errors import Matches

RESAMPLES = 200  # of the images; ends of a 95 % interval from fewer would be those of a few resamples
INTERVAL = (2.5, 97.5)  # percentiles
_RULE = re.compile(r"f1|precision=(0?\.\d+|1|1\.0*)")

Interval = tuple[float, float]


class Rule(NamedTuple):
    """How a threshold is chosen."""

    precision: float | None = None  # at least; None: the best F1

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """`f1` or `precision=0.9`; ValueError for anything else."""
        found = _RULE.fullmatch(text)
        if not found or (found[1] and float(found[1]) == 0):
            raise ValueError(f"{text!r}: expected f1, or precision= and a number above 0 and up to 1: precision=0.9")
        return cls(float(found[1]) if found[1] else None)

    def title(self) -> str:
        return "Best F1" if self.precision is None else f"Precision of at least {self.precision:g}"

    def __str__(self) -> str:
        return "f1" if self.precision is None else f"precision={self.precision:g}"


@dataclass(frozen=True)
class OperatingPoint:
    """Detections that score above `threshold` are kept; precision, recall and F1 of these, at IoU 0.5.

    The intervals hold 95 % of the resamples: of the threshold, what each would choose; of the others, their value at
    the threshold chosen here. It is chosen on these images, so on others F1 is a little lower.
    """

    threshold: float
    precision: float
    recall: float
    f1: float
    threshold_interval: Interval
    precision_interval: Interval
    recall_interval: Interval
    f1_interval: Interval


class _Curves(NamedTuple):
    """Detections in segments (a class, or all), by descending score within each."""

    scores: np.ndarray  # float64 [m]
    right: np.ndarray  # bool [m]; the others are wrong
    image: np.ndarray  # int64 [m], 0..n-1
    cut: np.ndarray  # bool [m], whether a threshold can lie behind the detection: the next one scores less
    starts: np.ndarray  # int64 [S + 1], where segments begin, and the end
    objects: np.ndarray  # float64 [S, n], objects to be found per image


def operating_points(
    annotations: CocoAnnotations,
    detections: Detections,
    matches: Matches,
    rules: Sequence[Rule],
    lowest: float,
    seed: int = 0,
) -> dict[Rule, list[OperatingPoint | None]]:
    """For each rule the points of the C classes, and last the one of all classes' detections together.

    None where no threshold answers to the rule: a class without objects or right detections, or never so precise.

    Args:
        lowest: the score above which `detections` are complete; no threshold lies below it.
        seed: of the resamples.
    """
    label, image = annotations.labels[matches.objects], _image_of_objects(annotations, detections, matches)
    objects = np.zeros((len(annotations.class_names), len(detections.image_ids)))
    np.add.at(objects, (label - 1, image), 1)
    by_class = _curves(detections, matches, detections.labels.astype(np.int64) - 1, objects)
    together = _curves(detections, matches, np.zeros(len(detections.labels), np.int64), objects.sum(axis=0)[None])
    images = len(detections.image_ids)
    weights = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / max(images, 1)), RESAMPLES)
    each, whole = (_points(curves, rules, weights.astype(float), lowest) for curves in (by_class, together))
    return {rule: [*each[rule], *whole[rule]] for rule in rules}


def _image_of_objects(annotations: CocoAnnotations, detections: Detections, matches: Matches) -> np.ndarray:
    """int64, for each object its image's place in `detections`."""
    image_ids = np.repeat(annotations.image_ids, np.diff(annotations.first))
    return np.searchsorted(detections.image_ids, image_ids[matches.objects])


def _curves(detections: Detections, matches: Matches, segment: np.ndarray, objects: np.ndarray) -> _Curves:
    counted = np.flatnonzero(matches.right | matches.wrong)
    order = counted[np.lexsort((-detections.scores[counted], segment[counted]))]
    scores, segment = detections.scores[order].astype(np.float64), segment[order]
    cut = np.ones(len(order), bool)
    cut[:-1] = (scores[1:] < scores[:-1]) | (segment[1:] != segment[:-1])
    image = np.repeat(np.arange(len(detections.counts)), detections.counts)[order]
    starts = np.searchsorted(segment, np.arange(len(objects) + 1))
    return _Curves(scores, matches.right[order], image, cut, starts, objects)


def _points(
    curves: _Curves, rules: Sequence[Rule], weights: np.ndarray, lowest: float
) -> dict[Rule, list[OperatingPoint | None]]:
    """For each rule a point per segment; weights: [resamples, n]."""
    chosen = _chosen(curves, rules, np.ones(curves.objects.shape[1]))
    again = [_chosen(curves, rules, each) for each in weights]
    points = {}
    for rule in rules:
        thresholds = np.array([_thresholds(curves, each[rule], lowest) for each in again])  # [resamples, S]
        points[rule] = [
            _point(curves, segment, last, thresholds[:, segment], weights, lowest) if last >= 0 else None
            for segment, last in enumerate(chosen[rule])
        ]
    return points


def _chosen(curves: _Curves, rules: Sequence[Rule], weights: np.ndarray) -> dict[Rule, np.ndarray]:
    """int64 [S] for each rule, per segment the last detection that is kept, -1 = none answers to it; each image counts
    as often as weights [n] says."""
    lengths = np.diff(curves.starts)
    full = np.flatnonzero(lengths)  # what follows knows no empty segments
    starts, lengths = curves.starts[:-1][full], lengths[full]
    weight = weights[curves.image]
    right, kept = (_running(values, starts, lengths) for values in (weight * curves.right, weight))
    objects = (curves.objects @ weights)[full]
    usable = curves.cut & (right > 0) & np.repeat(objects > 0, lengths)
    chosen = {}
    for rule in rules:
        last = np.full(len(curves.starts) - 1, -1)
        if rule.precision is None:
            f1 = np.where(usable, 2 * right / np.maximum(kept + np.repeat(objects, lengths), 1), -1)
            best = np.repeat(np.maximum.reduceat(f1, starts), lengths) if len(starts) else f1
            answers = np.flatnonzero(usable & (f1 == best))
            place = np.searchsorted(answers, starts)  # the first of equals
            there = place < len(answers)
            first = answers[place[there]]
            inside = first < (starts + lengths)[there]
            last[full[there][inside]] = first[inside]
        elif len(starts):
            # 1e-12: 9 right of 10 are a precision of 0.9, whatever the rounding.
            enough = usable & (right >= (rule.precision - 1e-12) * kept)
            last[full] = np.maximum.reduceat(np.where(enough, np.arange(len(enough)), -1), starts)
        chosen[rule] = last
    return chosen


def _running(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Sums from the beginning of each segment."""
    sums = np.cumsum(values)
    before = np.where(starts > 0, sums[np.maximum(starts, 1) - 1], 0) if len(starts) else starts
    return sums - np.repeat(before, lengths)


def _thresholds(curves: _Curves, last: np.ndarray, lowest: float) -> np.ndarray:
    """float64 [S], halfway between the last score kept and the next; NaN where there is none."""
    ends = curves.starts[1:]
    kept = np.append(curves.scores, np.nan)[np.where(last < 0, -1, last)]
    behind = np.where(last + 1 < ends, np.append(curves.scores, np.nan)[last + 1], lowest)
    # In float32, as detections are filtered; the half of two neighbours may be the upper one.
    middle = ((kept + behind) / 2).astype(np.float32).astype(np.float64)
    return np.where(middle < kept, middle, np.where(np.isnan(kept), np.nan, behind))


def _point(
    curves: _Curves, segment: int, last: int, thresholds: np.ndarray, weights: np.ndarray, lowest: float
) -> OperatingPoint:
    rows = slice(curves.starts[segment], last + 1)
    images = curves.objects.shape[1]
    right = np.bincount(curves.image[rows], curves.right[rows], images)
    counts = np.stack((right, np.bincount(curves.image[rows], minlength=images), curves.objects[segment]))  # [3, n]
    own = _rates(*counts.sum(axis=1, keepdims=True))
    resampled = _rates(*(counts @ weights.T))
    chosen = np.full(len(curves.starts) - 1, -1)
    chosen[segment] = last
    threshold = float(_thresholds(curves, chosen, lowest)[segment])
    precision, recall, f1 = (float(value[0]) for value in own)
    intervals = [_interval(values) for values in (thresholds, *resampled)]
    return OperatingPoint(threshold, precision, recall, f1, *intervals)


def _rates(right: np.ndarray, kept: np.ndarray, objects: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Precision, recall and F1; NaN where there is nothing to divide by."""
    with np.errstate(invalid="ignore"):
        return right / kept, right / objects, 2 * right / (kept + objects)


def _interval(values: np.ndarray) -> Interval:
    low, high = np.nanpercentile(values, INTERVAL)
    return float(low), float(high)
