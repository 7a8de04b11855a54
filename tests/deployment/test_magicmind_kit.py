"""The kit for MagicMind: its NumPy finds what `detect` finds, and its files fit together."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from deployment.kit.postprocess import detect as numpy_detect
from deployment.proof import agreement, synthetic_pictures
from ssd.default_boxes import ssd300_default_boxes
from ssd.postprocess import Thresholds, detect


def trimmed(boxes, scores, labels):
    """The detections of each picture without padding."""
    return [(b[each > 0], s[each > 0], each[each > 0]) for b, s, each in zip(boxes, scores, labels, strict=True)]


@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0], ids="background {}".format)
@pytest.mark.parametrize("thresholds", [Thresholds(0.05, 0.5, 200, 200), Thresholds(0.02, 0.35, 20, 50)], ids=str)
def test_numpy_finds_what_detect_finds_among_few_candidates_and_many(spread, thresholds):
    generator = torch.Generator().manual_seed(0)
    offsets = torch.randn(2, 8732, 4, generator=generator) * 0.5
    logits = torch.randn(2, 8732, 6, generator=generator) * spread
    logits[..., 0] += 4
    boxes = ssd300_default_boxes()
    expected = trimmed(*(part.numpy() for part in detect(offsets, logits, boxes, *thresholds)))
    found = numpy_detect(offsets.numpy(), logits.numpy(), boxes.numpy(), *thresholds)
    seen = agreement(expected, found, thresholds)
    assert seen.first is None and seen.agreeing == seen.detections > 0 and seen.score < 1e-5


def test_of_no_candidates_numpy_makes_empty_arrays():
    boxes, scores, labels = numpy_detect(
        np.zeros((1, 8732, 4)), np.zeros((1, 8732, 60)), ssd300_default_boxes().numpy()
    )[0]
    assert boxes.shape == (0, 4) and scores.shape == labels.shape == (0,)


@pytest.mark.extras
def test_the_kits_files_fit_together_away_from_this_project(raw, about, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="needs the extra [onnx]")
    from deployment.magicmind_kit import write_kit

    kit = tmp_path / "kit"
    write_kit(raw, about("raw", 3), kit, synthetic_pictures(5), [f"{i}.jpg" for i in range(5)])
    snippet = (kit / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    done = subprocess.run([sys.executable, "-c", snippet], cwd=kit, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == 6 and all(int(count) == 200 and float(score) < 1e-5 for count, score in lines)
    import onnxruntime

    reference = np.load(kit / "reference.npz")
    session = onnxruntime.InferenceSession(kit / "model.onnx")
    offsets, logits = session.run(None, {"images": reference["images"][:3]})
    assert np.allclose(offsets, reference["offsets"][:3], atol=1e-4)
    assert np.allclose(logits, reference["logits"][:3], atol=1e-4) and int(reference["batch"]) == 3
    assert np.load(kit / "calibration.npy").shape == (5, 3, 300, 300)
    scripted, images = torch.jit.load(kit / "model.pt"), reference["images"][: int(reference["batch"])]
    offsets, logits = scripted(torch.from_numpy(images))
    np.testing.assert_allclose(offsets.detach().numpy(), reference["offsets"][: len(images)], atol=1e-5)
    np.testing.assert_allclose(logits.detach().numpy(), reference["logits"][: len(images)], atol=1e-5)
    assert json.loads((kit / "build.json").read_text())["precision_config"]["precision_mode"] == "qint8_mixed_float16"
    listed = {line.split("`")[1] for line in (kit / "README.md").read_text().splitlines() if line.startswith("| `")}
    named = {name for cell in listed for name in [cell]} | {"README.md", "calibration.txt", "postprocess.py"}
    assert named == {path.name for path in kit.iterdir()}
