"""The Python of docs/deployment.md, as a reader would paste it, beside a Detector on the same picture."""

import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from deployment import onnx as to_onnx
from deployment import openvino as to_openvino
from deployment.graph import RawGraph
from prediction import Detector
from prediction.exported import about_of
from ssd_module import load_module
from tests.conftest import PROJECT

pytestmark = pytest.mark.extras
SNIPPETS = re.findall(r"```python\n(.*?)```", (PROJECT / "docs" / "deployment.md").read_text(), re.DOTALL)


@pytest.mark.parametrize(("index", "package"), [(0, "onnxruntime"), (1, "openvino")])
def test_a_snippet_prints_what_a_detector_finds(thin_detector, tmp_path, index, package):
    for name in ("onnx", "onnxscript", package):
        pytest.importorskip(name, reason="needs the extra [openvino]")
    module = load_module(thin_detector)
    raw, about = RawGraph(module.model), about_of(module, "detections")
    to_onnx.export(raw, about, tmp_path / "model.onnx") if index == 0 else to_openvino.export(
        raw, about, tmp_path / "model.xml"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)  # so that no resize differs
    Image.fromarray(pixels).save(tmp_path / "street.jpg", quality=100)
    snippet = SNIPPETS[index].replace("score > 0.3", "score > 0.1").replace('"CPU")', '"CPU", FLOAT32)')
    snippet = f'FLOAT32 = {{"INFERENCE_PRECISION_HINT": "f32"}}\n{snippet}'
    done = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    printed = re.findall(r"(\w+) ([\d.]+) \[(.*?)\]", done.stdout, re.DOTALL)
    (found,) = Detector(module, "cpu", score_threshold=0.1)(tmp_path / "street.jpg")
    assert len(printed) == len(found) > 3
    assert sorted(name for name, _, _ in printed) == sorted(found.class_names)
    assert np.allclose([float(score) for _, score, _ in printed], found.scores, atol=1e-4)
    boxes = np.array([[float(number) for number in box.split()] for _, _, box in printed])
    assert np.allclose(np.sort(boxes.sum(axis=1)), np.sort(found.boxes.sum(axis=1)), atol=0.5)
