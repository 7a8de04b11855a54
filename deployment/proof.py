"""The proof of an export: its detections beside PyTorch's on the same pictures, as sets: near-ties swap places."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from checkpoints.files import CheckpointError
from coco.decoding import INPUT_SIZE, resize
from coco.sample_pictures import draw_picture
from deployment.engine import Engine, run_detector
from ssd.postprocess import Thresholds

BATCHES = (1, 7, 8)  # pictures a call, in turn, of a file that takes any number


class Bounds(NamedTuple):
    """How far two detections may be apart to agree: their scores, and their boxes in parts of the picture (of
    themselves where they are larger); the share of detections that must; and, if not the export's, the score from which
    they count."""

    score: float
    box: float
    share: float
    threshold: float | None = None


# Rounding is about 1e-6; a pair of boxes whose IoU is the threshold to the last digits may fall either way.
EXACT = Bounds(1e-4, 1e-4, 0.999)
HALVED = Bounds(0.02, 0.01, 0.98)  # float16 keeps 11 bits of a weight
QUANTISED = Bounds(0.2, 0.05, 0.8, 0.3)  # of what prediction shows; whether that is good enough the mAP says

Found = tuple[np.ndarray, np.ndarray, np.ndarray]  # boxes [n, 4], scores [n], labels [n]


class Agreement(NamedTuple):
    """How far two sides agree. detections: of both, each pair counted once. score, box: largest differences of pairs,
    boxes in parts of the picture (of themselves where they are larger). first: the first picture that differs, and
    how."""

    pictures: int
    detections: int
    agreeing: int
    score: float
    box: float
    first: str | None
    bounds: Bounds

    def __str__(self) -> str:
        return (
            f"{self.agreeing} of {self.detections} detections agree (scores within {self.bounds.score:g}, boxes within "
            f"{self.bounds.box:g}) on {self.pictures} pictures; largest differences: "
            f"scores {self.score:.1e}, boxes {self.box:.1e} of the picture"
        )

    def check(self, path: object) -> None:
        """Raises CheckpointError where too few agree."""
        if self.agreeing < self.bounds.share * self.detections:
            raise CheckpointError(f"{path}: does not detect what PyTorch does: {self}. First, {self.first}")


def prove(engine: Engine, reference: Engine, pictures: Sequence[np.ndarray], bounds: Bounds = EXACT) -> Agreement:
    """Runs both on pictures, uint8 RGB [300, 300, 3]: PyTorch one by one, the file in several batches."""
    stacked = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    ones = [stacked[i : i + 1] for i in range(len(stacked))]
    thresholds = engine.about.thresholds
    if bounds.threshold is not None:
        thresholds = thresholds._replace(score=bounds.threshold)
    expected = [found for images in ones for found in _detections(reference, images, thresholds)]
    found = [found for images in _batches(stacked) for found in _detections(engine, images, thresholds)]
    return agreement(expected, found, thresholds, bounds)


def agreement(
    expected: Sequence[Found], found: Sequence[Found], thresholds: Thresholds, bounds: Bounds = EXACT
) -> Agreement:
    """Of two sides' detections, picture by picture.

    Each is paired with the nearest of its label whose score and box are within the bounds. Those without a
    partner count as differing, but for those that the score threshold or the most detections of a picture may drop.
    """
    detections, agreeing, score, box, first = 0, 0, 0.0, 0.0, None
    for index, (ours, theirs) in enumerate(zip(expected, found, strict=True)):
        pairs = _pairs(ours, theirs, bounds)
        agreeing += len(pairs)
        lone = [
            (side, i)
            for which, (side, other) in enumerate(((ours, theirs), (theirs, ours)))
            for i in sorted(set(range(len(side[1]))) - {pair[which] for pair in pairs})
            if side[1][i] > _lowest(other, thresholds) + bounds.score
        ]
        detections += len(pairs) + len(lone)
        for i, j in pairs:
            score = max(score, abs(float(ours[1][i]) - float(theirs[1][j])))
            box = max(box, _distance(ours[0][i], theirs[0][j : j + 1]).item())
        if lone and first is None:
            side, i = lone[0]
            whose = "PyTorch" if side is ours else "the file"
            first = (
                f"picture {index}: only {whose} has label {side[2][i]}, score {side[1][i]:.6f}, box "
                f"{np.round(side[0][i], 5).tolist()}"
            )
    return Agreement(len(expected), detections, agreeing, score, box, first, bounds)


def synthetic_pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    """Pictures of the built-in sample's kind, uint8 RGB [300, 300, 3]."""
    generators = (np.random.default_rng((seed, index)) for index in range(count))
    return [resize(np.asarray(draw_picture(generator)[0]), (INPUT_SIZE, INPUT_SIZE)) for generator in generators]


def _batches(images: torch.Tensor) -> Iterator[torch.Tensor]:
    start, sizes = 0, iter(BATCHES)
    while start < len(images):
        size = next(sizes, BATCHES[-1])
        yield images[start : start + size]
        start += size


def _detections(engine: Engine, images: torch.Tensor, thresholds: Thresholds) -> list[Found]:
    boxes, scores, labels = (part.numpy() for part in run_detector(engine, images, thresholds.score))
    return [(boxes[i][found], scores[i][found], labels[i][found]) for i, found in enumerate(labels > 0)]


def _lowest(found: Found, thresholds: Thresholds) -> float:
    """What a detection must score to be among those of a picture."""
    full = len(found[1]) == thresholds.max_detections
    return float(found[1].min()) if full else thresholds.score


def _pairs(ours: Found, theirs: Found, bounds: Bounds) -> list[tuple[int, int]]:
    left = set(range(len(theirs[1])))
    pairs = []
    for i in range(len(ours[1])):
        distance = _distance(ours[0][i], theirs[0])
        near = (theirs[2] == ours[2][i]) & (np.abs(theirs[1] - ours[1][i]) <= bounds.score) & (distance <= bounds.box)
        candidates = [int(j) for j in np.flatnonzero(near) if j in left]
        if candidates:
            nearest = min(candidates, key=lambda j: distance[j])
            left.remove(nearest)
            pairs.append((i, nearest))
    return pairs


def _distance(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Of a box to each of [n, 4], in parts of the picture or of the box where that is larger."""
    return np.abs(boxes - box).max(axis=1) / max(1.0, float(np.abs(box).max()))
