"""OpenVINO's files: the detections of `detect` in float32, near ones in bfloat16 and int8; wrong files are refused."""

import shutil

import numpy as np
import pytest

from checkpoints.files import CheckpointError
from deployment import openvino as to_openvino
from deployment.engine import TorchEngine, open_exported
from deployment.proof import Bounds, prove, synthetic_pictures
from prediction.exported import about_of

for name in ("onnx", "onnxscript", "openvino"):
    pytest.importorskip(name, reason="needs the extra [openvino]")
pytestmark = pytest.mark.extras
NEAR = Bounds(score=0.1, box=0.1, share=0.5)


@pytest.fixture(scope="module", params=[("detections", None), ("raw", 2)], ids=str)
def exported(request, raw, about, tmp_path_factory):
    path = tmp_path_factory.mktemp("openvino") / "model.xml"
    to_openvino.export(raw, about(*request.param), path)
    return path


def test_it_finds_what_our_own_network_finds_in_any_batches(exported, raw, about):
    seen = prove(open_exported(exported), TorchEngine(raw, about("raw")), synthetic_pictures(16))
    assert seen.agreeing == seen.detections > 500 and seen.first is None
    assert seen.score < 1e-5 and seen.box < 1e-5


def test_bfloat16_is_computed_where_it_is_asked_for_and_only_there(exported):
    images = np.stack(synthetic_pictures(2)).transpose(0, 3, 1, 2).copy()
    full, again, short = (open_exported(exported, bf16).run(images)[1] for bf16 in (False, False, True))
    assert np.array_equal(full, again) and np.allclose(full, short, atol=0.1)


def test_results_stay_when_it_runs_again(exported):
    engine = open_exported(exported)
    images = np.stack(synthetic_pictures(4)).transpose(0, 3, 1, 2).copy()
    first = engine.run(images[:2])
    kept = [array.copy() for array in first]
    engine.run(images[2:])
    assert all(np.array_equal(array, copy) for array, copy in zip(first, kept, strict=True))


def test_weights_in_float16_halve_the_file_and_find_nearly_the_same(exported, raw, module, about, tmp_path):
    to_openvino.export(raw, about_of(module, "detections", None, numbers="float16"), tmp_path / "half.xml")
    sizes = [path.with_suffix(".bin").stat().st_size for path in (tmp_path / "half.xml", exported)]
    assert sizes[0] < 0.6 * sizes[1]
    engine = open_exported(tmp_path / "half.xml")
    assert engine.about.numbers == "float16"
    prove(engine, TorchEngine(raw, about("raw")), synthetic_pictures(8), NEAR).check("float16")


@pytest.mark.parametrize("form", ["detections", "raw"])
def test_int8_quantises_the_network_and_finds_nearly_the_same(raw, module, about, tmp_path, form):
    pytest.importorskip("nncf", reason="needs the extra [quantise]")
    pictures = synthetic_pictures(8, seed=1)
    to_openvino.export(raw, about_of(module, form, 1, numbers="int8"), tmp_path / "model.xml", pictures)
    text = (tmp_path / "model.xml").read_text()
    assert text.count('type="FakeQuantize"') > 20
    engine = open_exported(tmp_path / "model.xml")
    assert engine.about.numbers == "int8" and engine.about.form == form
    prove(engine, TorchEngine(raw, about("raw")), synthetic_pictures(8), NEAR).check("int8")


def test_a_torn_file_a_foreign_one_and_one_with_other_weights_are_refused_with_the_reason(exported, tmp_path):
    def refused(reason):
        with pytest.raises(CheckpointError, match=rf"model\.xml: .*({reason})"):
            open_exported(path)

    path = tmp_path / "model.xml"
    shutil.copy(exported, path)
    refused(r"model\.bin, its weights, is not beside it")
    weights = bytearray(exported.with_suffix(".bin").read_bytes())
    weights[len(weights) // 2] ^= 1
    path.with_suffix(".bin").write_bytes(weights)
    refused(r"model\.bin beside it is damaged, or of another export")
    path.with_suffix(".bin").write_bytes(weights[: len(weights) // 2])
    refused("not a readable OpenVINO file|is damaged")
    shutil.copy(exported.with_suffix(".bin"), path.with_suffix(".bin"))
    text = exported.read_text()
    path.write_text(text[: len(text) // 2])
    refused("not a readable OpenVINO file")
    path.write_text(text.replace("<ssd300 ", "<other "))
    refused("not exported by this project")
    path.write_text("<net></net>")
    refused("not a readable OpenVINO file|not exported")
