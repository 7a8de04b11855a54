"""The proof compares sets of detections, and finds every difference that a user would."""

import numpy as np
import pytest

from checkpoints.files import CheckpointError
from deployment.engine import TorchEngine
from deployment.proof import agreement, prove, synthetic_pictures
from ssd.postprocess import Thresholds

THRESHOLDS = Thresholds(0.05, 0.5, 200, 200)


@pytest.fixture
def found():
    """Forty detections of a picture, by descending score."""
    rng = np.random.default_rng(0)
    low = rng.random((40, 2), np.float32) * 0.5
    boxes = np.concatenate([low, low + 0.1 + rng.random((40, 2), np.float32) * 0.3], axis=1)
    return boxes, np.sort(rng.uniform(0.1, 1, 40).astype(np.float32))[::-1], rng.integers(1, 5, 40)


def changed(found, index, box=0.0, score=0.0, label=0):
    boxes, scores, labels = (part.copy() for part in found)
    boxes[index] += box
    scores[index] += score
    labels[index] = labels[index] % 4 + label if label else labels[index]
    return boxes, scores, labels


def without(found, index):
    return tuple(np.delete(part, index, axis=0) for part in found)


def test_the_order_of_ties_is_no_difference(found):
    boxes, scores, labels = found
    turned = boxes[::-1], scores[::-1], labels[::-1]
    seen = agreement([found], [turned], THRESHOLDS)
    assert (seen.detections, seen.agreeing, seen.score, seen.box, seen.first) == (40, 40, 0, 0, None)


@pytest.mark.parametrize("change", [{"box": 1e-3}, {"score": -1e-3}, {"label": 1}])
def test_a_detection_that_moved_scored_or_was_called_otherwise_fails_and_says_where(found, change):
    seen = agreement([found, found], [found, changed(found, 7, **change)], THRESHOLDS)
    assert seen.agreeing == 79 and seen.detections == 81, "both sides' lone ones count"
    assert f"picture 1: only PyTorch has label {found[2][7]}, score {found[1][7]:.6f}" in seen.first
    with pytest.raises(CheckpointError, match=r"x\.onnx: does not detect what PyTorch does: 79 of 81 .*picture 1"):
        seen.check("x.onnx")


def test_differences_within_rounding_are_measured(found):
    seen = agreement([found], [changed(changed(found, 3, box=2e-6), 5, score=3e-6)], THRESHOLDS)
    assert seen.agreeing == 40 and seen.box == pytest.approx(2e-6, rel=0.1)
    assert seen.score == pytest.approx(3e-6, rel=0.1)


def test_a_detection_at_the_score_threshold_may_be_on_one_side_alone(found):
    at = changed(found, 39, score=0.05 + 2e-6 - float(found[1][39]))
    assert agreement([at], [without(at, 39)], THRESHOLDS).first is None
    assert agreement([without(found, 39)], [found], THRESHOLDS).first.startswith("picture 0: only the file")


def test_the_last_of_a_full_picture_may_be_another(found):
    full = THRESHOLDS._replace(max_detections=39)
    tied = changed(found, 39, score=float(found[1][38]) - float(found[1][39]))
    assert agreement([without(tied, 38)], [without(tied, 39)], full).first is None


def test_our_own_network_agrees_with_itself_in_any_batches_and_not_with_another(raw, about):
    reference = TorchEngine(raw, about("raw"))
    pictures = synthetic_pictures(9)
    seen = prove(reference, reference, pictures)
    assert seen.pictures == 9 and seen.agreeing == seen.detections > 100
    other = TorchEngine(lambda images: tuple(part * 1.01 for part in raw(images)), about("raw"))
    with pytest.raises(CheckpointError, match="does not detect"):
        prove(other, reference, pictures).check("other")
