"""Weights as safetensors are a checkpoint like any other, and plain weights to everybody else."""

import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints.__main__ import facts
from checkpoints.files import CheckpointError, read_checkpoint, read_outline
from checkpoints.finding import resume_path
from checkpoints.operating_point import OperatingPoint, save_operating_point
from checkpoints.published_layout import to_reference_state
from checkpoints.safe_weights import is_safetensors
from command_line import export
from ssd.model import SSD300
from ssd_module import SSDModule, load_module


@pytest.fixture
def written(thin_detector, tmp_path):
    """A checkpoint with thresholds and a selection, and its weights as safetensors."""
    checkpoint = torch.load(thin_detector, weights_only=True)
    checkpoint["COCODataModule"] = {"selection": {"classes": ["disc"]}, "position": 5}
    torch.save(checkpoint, tmp_path / "best.ckpt")
    save_operating_point(tmp_path / "best.ckpt", OperatingPoint("f1", (0.5, 0.0, 0.25, 0.5), 10, "digest"))
    arguments = [
        "--ckpt_path",
        tmp_path / "best.ckpt",
        "--format",
        "safetensors",
        "--output",
        tmp_path / "a.safetensors",
    ]
    export.main([str(argument) for argument in arguments])
    return tmp_path / "best.ckpt", tmp_path / "a.safetensors"


def test_they_are_taken_like_the_checkpoint_that_they_were_made_of(written, tmp_path):
    module, again = map(load_module, written)
    assert dict(again.hparams) == dict(module.hparams) and again.operating_point == module.operating_point
    for key, value in module.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    assert read_outline(written[1])["COCODataModule"] == {"selection": {"classes": ["disc"]}}
    (tmp_path / "other.name").write_bytes(written[1].read_bytes())
    found = facts(tmp_path / "other.name")
    assert (found["format"], found["class_names"]) == ("of this project, weights alone", list(module.class_names))


def test_others_read_the_networks_own_names(written):
    network = SSD300("thin", 4)
    network.load_state_dict(load_file(written[1]))
    for key, value in load_module(written[0]).model.state_dict().items():
        assert torch.equal(network.state_dict()[key], value)


def test_thresholds_are_saved_in_them_and_training_is_not_gone_on_with(written):
    point = OperatingPoint("precision=0.9", (0.75,) * 4, 3, "other")
    save_operating_point(written[1], point)
    assert is_safetensors(written[1]) and load_module(written[1]).operating_point == point
    with pytest.raises(CheckpointError, match=r"no run to resume in it.*--finetune_from .*a\.safetensors"):
        resume_path(str(written[1]), None)


def test_a_file_of_others_may_have_the_recipes_names(tmp_path):
    state = to_reference_state(SSDModule("thin", 2).model.state_dict())
    save_file({f"module.1.{key}": value for key, value in state.items()}, tmp_path / "theirs.safetensors")
    assert load_module(tmp_path / "theirs.safetensors").hparams.num_classes == 2
    save_file({"weight": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match=r"foreign\.safetensors: its backbone is none of"):
        load_module(tmp_path / "foreign.safetensors")


def test_a_damaged_file_is_refused_by_name(written, tmp_path):
    content, path = written[1].read_bytes(), tmp_path / "damaged.safetensors"
    long = struct.pack("<Q", 2**30) + b"{" + bytes(100)
    for damaged in (content[:-1], content[:1000], content.replace(b'"F32"', b'"F64"', 1), long, content[:9]):
        path.write_bytes(damaged)
        with pytest.raises(
            CheckpointError, match=r"damaged\.safetensors: not a readable checkpoint, damaged or cut off"
        ):
            read_checkpoint(path)
    for metadata in ("[", "5", '{"hyper_parameters": [], "state_dict": 1}', "[" * 10**5):
        save_file({"weight": torch.zeros(3)}, path, {"ssd300": metadata})
        with pytest.raises(CheckpointError, match=r"damaged\.safetensors"):
            load_module(path)
