"""export.py: what it writes and says; a file that would not detect what PyTorch does never appears."""

import hashlib
import shutil
import sys

import pytest
import torch

from checkpoints.files import CheckpointError
from command_line import export
from command_line.shared import UsageError
from deployment import onnx as to_onnx
from deployment.engine import open_exported
from tests.checkpoints.test_published import golden_state


def run(path, output, *more, format="onnx"):
    export.main(["--ckpt_path", str(path), "--format", format, "--output", str(output), *more])


@pytest.fixture
def with_onnx():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="needs the extra [onnx]")


@pytest.mark.extras
def test_an_export_is_proven_on_the_data_sets_pictures(with_onnx, thin_detector, sample, tmp_path, capsys):
    output = tmp_path / "new" / "model.onnx"
    run(thin_detector, output, "--data_root", str(sample))
    said = capsys.readouterr().out
    assert "any number of pictures a call" in said and "the first 10 validation pictures: " in said
    agreeing, _, detections = said.partition("pictures: ")[2].split()[:3]
    assert agreeing == detections and int(agreeing) > 100
    about = open_exported(output).about
    assert about.checkpoint == hashlib.sha256(thin_detector.read_bytes()).hexdigest()
    assert [path.name for path in output.parent.iterdir()] == ["model.onnx"]


@pytest.mark.extras
def test_without_a_data_set_the_pictures_are_said_to_be_synthetic(with_onnx, thin_detector, tmp_path, capsys):
    run(thin_detector, tmp_path / "model.onnx", "--raw", "--batch", "4")
    said = capsys.readouterr().out
    assert "4 picture(s) a call, raw offsets" in said and "synthetic pictures, since there is no --data_root" in said
    assert open_exported(tmp_path / "model.onnx").about.batch == 4


@pytest.mark.extras
def test_an_export_that_detects_otherwise_never_appears(with_onnx, thin_detector, tmp_path, monkeypatch):
    class Shifted(to_onnx.RawGraph):
        def forward(self, images):
            offsets, logits = super().forward(images)
            return offsets + 0.01, logits

    whole = to_onnx.to_model

    def faulty(raw, *args):
        raw.__class__ = Shifted
        try:
            return whole(raw, *args)
        finally:
            raw.__class__ = to_onnx.RawGraph

    monkeypatch.setattr(to_onnx, "to_model", faulty)
    output = tmp_path / "model.onnx"
    output.write_text("of before")
    with pytest.raises(CheckpointError, match=r"model\.onnx: does not detect what PyTorch does.*First, picture 0"):
        run(thin_detector, output, "--raw")
    assert output.read_text() == "of before" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--batch", "0"], "--batch 0: expected a number from 1 on, or dynamic"),
        (["--raw", "--batch", "dynamic"], "--raw --batch dynamic: raw outputs are for engines of fixed shapes"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(thin_detector, tmp_path, args, message):
    with pytest.raises(UsageError, match=message):
        run(thin_detector, tmp_path / "model.onnx", *args)


def test_a_name_and_a_flag_of_another_format_are_refused(thin_detector, tmp_path):
    with pytest.raises(UsageError, match=r"--output .*model\.pt: --format onnx is written to \.onnx"):
        run(thin_detector, tmp_path / "model.pt")
    with pytest.raises(UsageError, match="--raw: not with --format published"):
        run(thin_detector, tmp_path / "model.pt", "--raw", format="published")
    with pytest.raises(UsageError, match="--int8: not with --format onnx, but with openvino"):
        run(thin_detector, tmp_path / "model.onnx", "--int8")
    with pytest.raises(UsageError, match="--fp16 and --int8: one of them"):
        run(thin_detector, tmp_path / "model.xml", "--int8", "--fp16", "--calibrate", ".", format="openvino")
    with pytest.raises(UsageError, match="--int8 and --calibrate DIR: one needs the other"):
        run(thin_detector, tmp_path / "model.xml", "--int8", format="openvino")


def test_a_package_that_is_missing_is_named_with_the_line_that_installs_it(thin_detector, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(CheckpointError, match=r"onnx is not installed; pip install onnx onnxscript onnxruntime"):
        run(thin_detector, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.extras
def test_int8_is_calibrated_and_refused_where_it_costs_too_much(thin_detector, sample, tmp_path, capsys, monkeypatch):
    for name in ("onnx", "onnxscript", "openvino", "nncf"):
        pytest.importorskip(name, reason="needs the extra [quantise]")
    monkeypatch.setattr(export, "QUANTISED", export.QUANTISED._replace(share=0))  # random weights: near nothing
    monkeypatch.setattr(export, "CALIBRATION", 4)
    output = tmp_path / "model.xml"
    args = ["--int8", "--calibrate", str(sample / "train2017"), "--data_root", str(sample), "--limit", "6"]
    run(thin_detector, output, *args, "--accuracy_drop", "1", format="openvino")
    said = capsys.readouterr().out
    assert "mAP on 6 images: PyTorch 0." in said and "as openvino, int8, any number of pictures" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    assert open_exported(output).about.numbers == "int8"

    def copied(raw, about, path, calibration):
        for suffix in (".xml", ".bin"):
            shutil.copy(output.with_suffix(suffix), path.with_suffix(suffix))

    monkeypatch.setattr(export.openvino, "export", copied)
    with pytest.raises(CheckpointError, match=r"int8 loses .* mAP, more than --accuracy_drop -1"):
        run(thin_detector, tmp_path / "none.xml", *args, "--accuracy_drop", "-1", format="openvino")
    assert not (tmp_path / "none.xml").exists()


@pytest.mark.extras
def test_a_kit_is_a_directory_of_its_own_with_proven_outputs(with_onnx, thin_detector, sample, tmp_path, capsys):
    args = ["--calibrate", str(sample / "train2017"), "--batch", "2"]
    run(thin_detector, tmp_path / "kit", *args, format="magicmind_kit")
    assert "16 of the calibration's pictures" in (said := capsys.readouterr().out) and "2 picture(s) a call" in said
    assert len((tmp_path / "kit" / "calibration.txt").read_text().splitlines()) == 24
    with pytest.raises(UsageError, match="kit: exists; a kit is written to a directory of its own"):
        run(thin_detector, tmp_path / "kit", *args, format="magicmind_kit")
    with pytest.raises(UsageError, match="--format magicmind_kit and --calibrate DIR: one needs the other"):
        run(thin_detector, tmp_path / "other", format="magicmind_kit")


@pytest.mark.extras
def test_a_checkpoint_of_the_published_recipe_with_its_80_classes_is_exported_and_proven(with_onnx, tmp_path, capsys):
    torch.save({"epoch": 3, "iteration": 12, "model": golden_state("resnet18")}, tmp_path / "published.pt")
    run(tmp_path / "published.pt", tmp_path / "model.onnx")
    agreeing, _, detections = capsys.readouterr().out.partition("--data_root: ")[2].split()[:3]
    assert agreeing == detections and int(agreeing) > 1000
    about = open_exported(tmp_path / "model.onnx").about
    assert about.backbone == "resnet18" and len(about.class_names) == 80 and about.category_ids[-1] == 90


def test_a_pt2_file_takes_any_number_of_pictures_and_is_raw(thin_detector, tmp_path, capsys):
    run(thin_detector, tmp_path / "model.pt2", format="torch_export")
    assert "as torch_export, float32, any number of pictures a call, raw offsets" in capsys.readouterr().out
    with pytest.raises(UsageError, match="--opset: not with --format torch_export, but with onnx"):
        run(thin_detector, tmp_path / "model.pt2", "--opset", "18", format="torch_export")
