"""The ONNX file: standard operators that find what `detect` finds, at any batch; what is no such file is refused."""

import numpy as np
import pytest
import torch

from checkpoints.__main__ import facts
from checkpoints.files import CheckpointError
from coco.augment import normalise
from deployment import onnx as to_onnx
from deployment.about import KEY, About
from deployment.engine import TorchEngine, open_exported, run_detector
from deployment.proof import agreement, prove, synthetic_pictures
from ssd.postprocess import detect

onnx = pytest.importorskip("onnx", reason="needs the extra [onnx]")
pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
pytestmark = pytest.mark.extras


@pytest.fixture(scope="module", params=[("detections", None), ("detections", 2), ("raw", 3)], ids=str)
def exported(request, raw, about, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    to_onnx.export(raw, about(*request.param), path)
    return path


def test_it_finds_what_our_own_network_finds_in_any_batches(exported, raw, about):
    engine = open_exported(exported)
    seen = prove(engine, TorchEngine(raw, about("raw")), synthetic_pictures(16))
    assert seen.agreeing == seen.detections > 500 and seen.first is None
    assert seen.score < 1e-5 and seen.box < 1e-5


def test_the_reference_itself_is_detect_on_the_module(raw, about, module):
    images = torch.from_numpy(np.stack(synthetic_pictures(3))).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = [part.numpy() for part in detect(*module(normalise(images)), module.default_boxes)]
    found = [part.numpy() for part in run_detector(TorchEngine(raw, about("raw")), images)]
    assert np.abs(expected[1] - found[1]).max() < 1e-5
    seen = agreement(list(zip(*expected, strict=True)), list(zip(*found, strict=True)), about("raw").thresholds)
    assert seen.first is None and seen.detections == 600


def test_a_higher_threshold_leaves_what_detect_leaves_and_a_lower_one_is_refused(exported, raw, about):
    engine, images = open_exported(exported), torch.from_numpy(np.stack(synthetic_pictures(2))).permute(0, 3, 1, 2)
    ours = TorchEngine(raw, about("raw"))
    middle = run_detector(ours, images)[1].median().item() + 1e-5
    high = [run_detector(each, images, middle)[1] for each in (engine, ours)]
    assert torch.allclose(*high, atol=1e-5) and 100 < (high[0] > 0).sum() < 300
    if engine.about.form == "detections":
        with pytest.raises(CheckpointError, match=r"--score_threshold 0\.01: .* 0\.05 or less; export it with --raw"):
            run_detector(engine, images, 0.01)
    else:
        assert (run_detector(engine, images, 0.01)[2] > 0).all()


def test_what_travels_with_it_comes_back(exported, module):
    about = open_exported(exported).about
    assert about.class_names == module.class_names and about.category_ids == (2, 3, 7, 40)
    told = facts(exported)
    assert (told["format"], told["batch"]) == ("exported, onnx, float32", about.batch)
    assert (told["class_names"], told["exported_from_sha256"]) == (list(about.class_names), "0" * 64)
    assert about.operating_point == module.operating_point and about.thresholds.score == 0.05
    assert about.backbone == "thin" and about.checkpoint == "0" * 64


def test_it_has_standard_operators_alone_and_nothing_of_this_machine(exported):
    model = onnx.load(exported)
    assert [each.domain for each in model.opset_import] == [""] and not model.functions
    suppressions = [node for node in model.graph.node if node.op_type == "NonMaxSuppression"]
    assert len(suppressions) == (0 if "raw" in model.metadata_props[0].value else 1)
    assert str(exported.parent).encode() not in exported.read_bytes() and b".py" not in exported.read_bytes()


def test_an_opset_that_the_exporter_writes_is_written_and_another_refused(raw, about):
    assert to_onnx.to_model(raw, about("raw", 1), 18).opset_import[0].version == 18
    with pytest.raises(CheckpointError, match=r"--opset 11: torch .* wrote opset 18 instead"):
        to_onnx.to_model(raw, about("raw", 1), 11)


def test_a_torn_file_a_foreign_one_and_one_that_contradicts_itself_are_refused_with_the_reason(exported, tmp_path):
    path, whole = tmp_path / "other.onnx", exported.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"other\.onnx: (not a readable ONNX file|not exported|its metadata)"):
            open_exported(path)
    model = onnx.load(exported)
    text = model.metadata_props[0].value
    for change, reason in (
        (("", ""), "not exported by this project"),
        ((KEY, text.replace('"disc", ', "")), "metadata `ssd300` is damaged"),
        ((KEY, text.replace('"disc"', "5")), "metadata `ssd300` is damaged"),
        ((KEY, "{}"), "metadata `ssd300` is damaged"),
        ((KEY, text.replace('"raw"', "''").replace('"detections"', '"raw"')), "inputs and outputs|is damaged"),
    ):
        model.metadata_props[0].key, model.metadata_props[0].value = change
        onnx.save(model, path)
        with pytest.raises(CheckpointError, match=reason):
            open_exported(path)
    with pytest.raises(CheckpointError, match=r"missing\.onnx: no such file"):
        open_exported(tmp_path / "missing.onnx")


def test_weights_are_not_read_from_other_files(exported, tmp_path):
    model = onnx.load(exported)
    onnx.save(model, tmp_path / "outside.onnx", save_as_external_data=True, location="weights.bin", size_threshold=64)
    with pytest.raises(CheckpointError, match=r"outside\.onnx: not a readable ONNX file"):
        open_exported(tmp_path / "outside.onnx")


def test_facts_survive_a_round_trip_as_text(about):
    for form, batch in (("raw", 1), ("detections", None)):
        assert About.from_text(about(form, batch).to_text(), "x") == about(form, batch)
