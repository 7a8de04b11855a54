"""An exported file wherever a checkpoint is taken: the same detections, the same numbers, and no other promises."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from coco.augment import denormalise, normalise
from command_line.evaluate import evaluate
from command_line.predict import predict
from command_line.shared import with_selection_of
from deployment import onnx as to_onnx
from deployment.graph import RawGraph
from prediction import Detector
from prediction.exported import about_of
from ssd_module import load_module

for name in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(name, reason="needs the extra [onnx]")
pytestmark = pytest.mark.extras


@pytest.fixture(scope="module")
def exported(thin_detector, tmp_path_factory):
    module = load_module(thin_detector)
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    to_onnx.export(RawGraph(module.model), about_of(module, "detections", checkpoint="0" * 64), path)
    return path


def test_pixels_come_back_exactly_from_what_a_data_module_made_of_them():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    assert torch.equal(denormalise(normalise(every)), every)


@pytest.mark.parametrize(("threshold", "engine"), [(None, "auto"), (0.1, "auto"), (0.1, "onnx"), (None, "openvino")])
def test_a_detector_of_it_finds_what_that_of_the_checkpoint_finds(exported, thin_detector, sample, threshold, engine):
    pytest.importorskip("openvino", reason="needs the extra [openvino]")
    paths = sorted((sample / "val2017").glob("*.jpg"))
    other = Detector(exported if engine == "auto" else thin_detector, score_threshold=threshold, engine=engine)
    ours, theirs = Detector(thin_detector, "cpu", score_threshold=threshold)(paths), other(paths)
    assert sum(map(len, ours)) > 20
    for expected, found in zip(ours, theirs, strict=True):
        assert np.allclose(expected.scores, found.scores, atol=1e-5) and expected.size == found.size
        assert sorted(expected.class_names) == sorted(found.class_names)


def test_it_looks_at_tiles_as_the_checkpoint_does(exported, thin_detector, sample):
    """But for the few of hundreds of nearly equal boxes whose overlap rounding puts on the threshold's other side."""
    paths = sorted((sample / "val2017").glob("*.jpg"))[:3]
    settings = {"score_threshold": 0.1, "tiles": 200}
    for ours, theirs in zip(
        Detector(thin_detector, "cpu", **settings)(paths), Detector(exported, **settings)(paths), strict=True
    ):
        scores = np.abs(ours.scores[:, None] - theirs.scores) < 1e-5
        boxes = (np.abs(ours.boxes[:, None] - theirs.boxes) < 0.1).all(2)
        same = scores & boxes & (ours.labels[:, None] == theirs.labels)
        assert len(ours) > 20 and same.any(1).mean() > 0.9 and same.any(0).mean() > 0.9


def test_evaluation_of_it_gives_the_numbers_and_the_report_of_the_checkpoint(exported, thin_detector, sample, tmp_path):
    common = ["--data_root", str(sample), "--num_workers", "0", "--batch_size", "3"]
    numbers = [
        evaluate(["--ckpt_path", str(path), *common, "--report", str(tmp_path / path.suffix)])
        for path in (thin_detector, exported)
    ]
    assert numbers[1] == pytest.approx(numbers[0], abs=1e-4) and numbers[0]["mAP"] >= 0
    assert all((tmp_path / suffix / "index.html").is_file() for suffix in (".ckpt", ".onnx"))


def test_predict_writes_the_tables_of_the_checkpoint(exported, thin_detector, sample, tmp_path):
    for path in (thin_detector, exported):
        args = ["--ckpt_path", str(path), str(sample / "val2017"), "--output", str(tmp_path / path.suffix)]
        assert predict([*args, "--draw", "false", "--classes", "disc,cross", "--score_threshold", "0.1"]) == 0
    ours, theirs = (json.loads(next((tmp_path / s).glob("*.json")).read_text()) for s in (".ckpt", ".onnx"))
    assert len(ours) == len(theirs) > 20 and {each["category_id"] for each in theirs} == {2, 40}


def test_what_its_run_chose_of_the_classes_is_chosen_in_its_evaluation(thin_detector, tmp_path):
    module = load_module(thin_detector)
    about = replace(about_of(module, "raw", 1), selection={"classes": ["disc", "cross"], "val_seed": 0})
    to_onnx.export(RawGraph(module.model), about, tmp_path / "model.onnx")
    chosen = with_selection_of(tmp_path / "model.onnx", {"data_root": "x", "classes": None})
    assert chosen == {"data_root": "x", "classes": ["disc", "cross"]}


def test_an_exported_file_is_for_its_own_engine(exported, sample, tmp_path):
    args = ["--ckpt_path", str(exported), str(sample), "--output", str(tmp_path), "--engine", "openvino"]
    with pytest.raises(MisconfigurationException, match=r"--engine openvino: .*model\.onnx is for onnx"):
        predict(args)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--save_thresholds", "true"], "--save_thresholds: .*model.onnx is an exported file; give its checkpoint"),
        (["--compile", "true"], "--compile: "),
        (["--accelerator", "cuda"], "--accelerator cuda: onnx runs on the CPU"),
        (["--precision", "bf16-mixed"], "--precision bf16-mixed: onnx computes in 32-true here"),
    ],
)
def test_what_an_exported_file_cannot_do_is_refused(exported, sample, tmp_path, args, message):
    with pytest.raises(MisconfigurationException, match=message):
        evaluate(["--ckpt_path", str(exported), "--data_root", str(sample), *args])
    if args[0] in ("--accelerator", "--precision"):
        with pytest.raises(MisconfigurationException, match=message):
            predict(["--ckpt_path", str(exported), str(sample), "--output", str(tmp_path), *args])
