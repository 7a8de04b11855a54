"""Whether one set of detections is better than another: differences with intervals from a paired bootstrap over images.

Both are looked at on the same images, drawn again and again with replacement (Efron and Tibshirani 1993), so what makes
an image hard for both cancels. Interval: the middle 95 % of the differences seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coco.annotations import CocoAnnotations
from coco.names import plain
from evaluation.bootstrap import Resampled
from evaluation.detections import Detections
from evaluation.numbers import NUMBERS

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """One number of A and of B, and the interval of B - A; NaN where there is nothing to measure."""

    name: str
    a: float
    b: float
    low: float
    high: float

    @property
    def beyond_noise(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Comparison:
    """COCO's twelve numbers, and the AP of every class."""

    images: int
    resamples: int
    numbers: Sequence[Difference]
    classes: Sequence[Difference]


def compare(
    annotations: CocoAnnotations, a: Detections, b: Detections, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Args:
        a, b: of the same images. seed: of the resamples.

    Raises:
        ValueError: they are not of the same images.
    """
    if not np.array_equal(a.image_ids, b.image_ids):
        raise ValueError(f"a has {len(a.image_ids)} images and b {len(b.image_ids)}, or others: expected the same ones")
    images = len(a.image_ids)
    sides = [Resampled(annotations, detections) for detections in (a, b)]
    whole = [np.concatenate(side.numbers(np.ones(images, np.int32))) for side in sides]
    rng = np.random.default_rng(seed)
    differences = np.empty((resamples, len(whole[0])))
    for row in differences:
        weights = np.bincount(rng.integers(images, size=images), minlength=images)
        first, second = (np.concatenate(side.numbers(weights)) for side in sides)
        row[:] = second - first
    low, high = _interval(differences)
    names = (*NUMBERS, *annotations.class_names)
    columns = (column.tolist() for column in (*whole, low, high))
    rows = [Difference(name, *row) for name, *row in zip(names, *columns, strict=True)]
    return Comparison(images, resamples, rows[: len(NUMBERS)], rows[len(NUMBERS) :])


def sentence(comparison: Comparison) -> str:
    """Which is better, in mAP, or that they cannot be told apart."""
    found = comparison.numbers[0]
    over = f"{comparison.images} image{'s' * (comparison.images != 1)}"
    if np.isnan(found.a):
        return f"There is nothing to compare: no objects are annotated in these {over}."
    if found.a == found.b and found.low == found.high == 0:
        return f"A and B have the same mAP, {found.a:.3f}, over {over} and over any of them drawn again."
    low, high, difference = (round(value, 3) + 0.0 for value in (found.low, found.high, found.b - found.a))  # no -0.000
    if not found.beyond_noise:
        return (
            f"No difference beyond noise over {over}: B - A is {difference:+.3f} mAP, 95 % interval {low:+.3f} to "
            f"{high:+.3f}."
        )
    better = "B"
    if found.b < found.a:
        better, low, high = "A", -high + 0.0, -low
    return f"{better} is better by {abs(difference):.3f} mAP, 95 % interval {low:.3f} to {high:.3f}, over {over}."


def number_table(comparison: Comparison) -> str:
    """COCO's twelve numbers of A and B; a star where the interval leaves out zero."""
    return _table("COCO metric", comparison.numbers)


def class_table(comparison: Comparison) -> str:
    """The AP of every class that has objects, from what B gained most to what it lost, and how many differ."""
    there = [row for row in comparison.classes if not np.isnan(row.a)]
    stars = sum(row.beyond_noise for row in there)
    chance = (1 - CONFIDENCE) * len(there)
    note = f"* {stars} of {len(there)} classes, of which about {chance:.1f} would be starred if nothing had changed"
    return "\n".join((_table("class, AP", sorted(there, key=lambda row: row.a - row.b)), note))


def _interval(differences: np.ndarray) -> np.ndarray:
    """[resamples, n] -> [2, n]; NaN where no resample has a number."""
    ends = np.full((2, differences.shape[1]), np.nan)
    there = ~np.isnan(differences).all(axis=0)
    ends[:, there] = np.nanquantile(differences[:, there], ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2), axis=0)
    return ends


def _table(heading: str, rows: Sequence[Difference]) -> str:
    names = [plain(row.name) for row in rows]
    width = max(map(len, (heading, *names)))
    lines = [
        f"{name:<{width}} {_cell(row.a)} {_cell(row.b)} {_cell(row.b - row.a, '+')}  "
        f"{_cell(row.low, '+')} .. {_cell(row.high, '+')}{' *' * row.beyond_noise}"
        for name, row in zip(names, rows, strict=True)
    ]
    head = f"{heading:<{width}}      A      B  B - A  95 % interval"
    return "\n".join(("", head, "-" * (width + 42), *lines))


def _cell(value: float, sign: str = "") -> str:
    return f"{'-':>6}" if np.isnan(value) else f"{round(value, 3) + 0.0:{sign}6.3f}"  # no -0.000
