"""What kinds of mistakes there are, and their cost: confusion of classes, TIDE's errors, reliability of scores, sizes.

Confusion and TIDE are the evaluator's, of a batch evaluation without crowd regions: it would count them as objects.
"""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import hotcoco
import numpy as np

from coco.annotations import CocoAnnotations
from evaluation.detections import Detections
from evaluation.errors import MATCH_IOU, NEAR_IOU, Matches

# Kinds of TIDE (Bolya et al. 2020) and what they mean at its thresholds, IoU 0.5 and 0.1; in the paper's order.
TIDE_KINDS = {
    "Cls": ("class", "on an object, named wrongly"),
    "Loc": ("localisation", "right class, box too far off (IoU 0.1 to 0.5)"),
    "Both": ("both", "wrong class, and box too far off"),
    "Dupe": ("duplicate", "right, but that object is found already"),
    "Bkg": ("background", "no object there (IoU below 0.1)"),
    "Miss": ("missed", "objects that nothing above found, well or badly"),
}
RELIABILITY_BINS = 10
INPUT_SIDE = 300  # px, of the network's input
# px, square roots of areas at 300x300: multiples of the finest map's step, 8 px, and smaller.
SIDE_EDGES = (0, 8, 16, 32, 64, 128, np.inf)


@dataclass(frozen=True)
class TideError:
    """One of TIDE's kinds of errors."""

    kind: str  # in words
    meaning: str
    cost: float  # AP at IoU 0.5 that mending all of them alone would add
    count: int


@dataclass(frozen=True)
class Reliability:
    """Detections by score, in `RELIABILITY_BINS` bins of equal width."""

    count: np.ndarray  # int64 [bins]
    score: np.ndarray  # float64 [bins], mean; NaN in an empty bin
    right: np.ndarray  # float64 [bins], share that is right at IoU 0.5; NaN in an empty bin
    error: float  # expected calibration error: mean of |score - right|, weighted by count; NaN without detections


class SizeRow(NamedTuple):
    """Objects of one size, as the network sees them."""

    low: float  # px at 300x300, square root of the area of the box
    high: float
    objects: int
    found: int  # by detections at the threshold
    found_at_all: int  # by any detection


def confusion_matrix(evaluator: hotcoco.COCOeval, detections: Detections, score_threshold: float) -> np.ndarray:
    """int64 [C + 1, C + 1]: objects by row, detections above the threshold by column, matched at IoU 0.5 whatever the
    class; in the last column objects that nothing matched, in the last row detections on no free object.

    Args:
        evaluator: `coco_sets.evaluate` of the detections, without crowds.
    """
    # Of all that score above: not of the best 100 of an image alone. `min_score` itself would be kept.
    above, most = float(np.nextafter(score_threshold, 1)), int(detections.counts.max(initial=1))
    found = evaluator.confusion_matrix(iou_thr=MATCH_IOU, max_det=max(most, 1), min_score=above)
    return np.asarray(found["matrix"]).astype(np.int64)


def tide_errors(evaluator: hotcoco.COCOeval) -> list[TideError]:
    """TIDE's six kinds, of all detections; `evaluator` as above."""
    found = evaluator.tide_errors(pos_thr=MATCH_IOU, bg_thr=NEAR_IOU)
    return [
        TideError(kind, meaning, float(found["delta_ap"][key]), int(found["counts"][key]))
        for key, (kind, meaning) in TIDE_KINDS.items()
    ]


def reliability(scores: np.ndarray, matches: Matches) -> Reliability:
    """Whether a score of 0.7 means that 7 of 10 are right. scores: [m], of the detections matched."""
    counted = matches.right | matches.wrong
    scores = scores[counted].astype(np.float64)
    place = np.minimum((scores * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    count = np.bincount(place, minlength=RELIABILITY_BINS)
    with np.errstate(invalid="ignore"):
        score = np.bincount(place, scores, RELIABILITY_BINS) / count
        right = np.bincount(place, matches.right[counted], RELIABILITY_BINS) / count
        error = float(np.nansum(count * np.abs(score - right)) / count.sum())
    return Reliability(count, score, right, error)


def sizes_at_input(annotations: CocoAnnotations, matches: Matches, score_threshold: float) -> list[SizeRow]:
    """How many objects of each size are found, by their size after the resize to 300x300."""
    pixels = np.repeat(annotations.widths.astype(np.float64) * annotations.heights, np.diff(annotations.first))
    areas = annotations.bboxes[:, 2:].prod(axis=1) * INPUT_SIDE**2 / pixels
    rows = []
    for low, high in itertools.pairwise(SIDE_EDGES):
        inside = matches.objects & (areas >= low**2) & (areas < high**2)
        best = matches.best_score[inside]
        found = (int((best > least).sum()) for least in (score_threshold, -1))
        rows.append(SizeRow(float(low), float(high), int(inside.sum()), *found))
    return rows
