"""Frozen parts, for good (`--model.freeze`) or for some epochs (Lightning's BackboneFinetuning)."""

import re

import pytest
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from checkpoints.files import CheckpointError
from command_line.fit import train
from ssd_module import SSDModule
from tests.test_ssd_module import save
from tests.training.test_resuming import arguments, assert_goes_on_exactly, run

THAW = (
    "--trainer.callbacks+=pytorch_lightning.callbacks.BackboneFinetuning",
    "--trainer.callbacks.unfreeze_backbone_at_epoch=1",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A checkpoint to start from, with running statistics of its own."""
    module = SSDModule("thin", 4, ("disc", "square", "triangle", "cross"), (2, 3, 7, 40))
    module.train()(torch.randn(4, 3, 300, 300))
    path = tmp_path_factory.mktemp("source") / "source.ckpt"
    save(path, module)
    return path


def tensors(path):
    return torch.load(path, weights_only=True)["state_dict"]


def changed(before, after):
    return {key for key, value in before.items() if not torch.equal(value, after[key])}


@pytest.mark.parametrize("parts", ["backbone", "norm", "[backbone,norm]"])
def test_frozen_parts_stay_to_the_bit_with_their_statistics_and_all_else_is_trained(small, source, tmp_path, parts):
    flags = ("--finetune_from", str(source), "--model.freeze", parts, "--max_epochs", "1", "--model.warmup_steps", "0")
    trainer = run(small, tmp_path / "run", *flags)
    before, after = tensors(source), tensors(tmp_path / "run" / "checkpoints" / "last.ckpt")
    norms = {
        f"model.{name}.{key}"
        for name, layer in trainer.lightning_module.model.named_modules()
        if isinstance(layer, torch.nn.BatchNorm2d)
        for key in layer.state_dict()
    }
    backbone = {key for key in before if key.startswith("model.backbone.")}
    frozen = (backbone if "backbone" in parts else set()) | (norms if "norm" in parts else set())
    touched = changed(before, after)
    assert not touched & frozen
    # Not all of the smallest maps: in a few steps they match no object.
    assert {key for key in before if not re.search(r"extra_blocks.[34]|heads.[345]", key)} - frozen <= touched


def test_a_run_with_frozen_parts_goes_on_exactly(small, source, tmp_path):
    flags = ("--finetune_from", str(source), "--model.freeze", "backbone")
    run(small, tmp_path / "straight", *flags, "--trainer.callbacks+=tests.training.test_resuming.KeepEverySave")
    kept = tmp_path / "straight" / "checkpoints" / "kept_2_step.ckpt"
    assert_goes_on_exactly(small, tmp_path / "straight", tmp_path / "run", kept, *flags)


def test_a_resumed_run_freezes_what_it_froze(small, source, tmp_path):
    flags = ("--finetune_from", str(source), "--max_epochs", "1", "--trainer.limit_train_batches", "1")
    run(small, tmp_path / "run", *flags, "--model.freeze", "norm")
    with pytest.raises(
        CheckpointError, match=r"^--model.freeze \[\]: the run to resume has \[norm\]. Resume with that"
    ):
        run(small, tmp_path / "run", *flags, "--max_epochs", "2", "--ckpt_path", "last")


def test_a_random_backbone_is_not_frozen(small, tmp_path):
    with pytest.raises(MisconfigurationException, match=r"--model.freeze backbone: it would keep random weights"):
        run(small, tmp_path / "run", "--model.freeze", "backbone")


def test_an_unknown_part_is_refused(small, tmp_path):
    with pytest.raises(MisconfigurationException, match=r"--model.freeze heads: expected backbone or norm, or a list"):
        run(small, tmp_path / "run", "--model.freeze", "heads")


def test_one_image_is_enough_where_no_statistics_are_taken(small, source, tmp_path):
    flags = ("--finetune_from", str(source), "--model.freeze", "norm", "--batch_size", "1", "--max_epochs", "1")
    trainer = run(small, tmp_path / "run", *flags, "--trainer.limit_train_batches", "1")
    assert trainer.global_step == 1


def test_lightnings_backbone_finetuning_releases_the_backbone_and_its_run_goes_on_exactly(small, source, tmp_path):
    flags = ("--finetune_from", str(source), *THAW, "--max_epochs", "3", "--model.milestones", "[2]")
    keep = "--trainer.callbacks+=tests.training.test_resuming.KeepEverySave"
    trainer = train([*arguments(small, tmp_path / "straight"), *flags, keep])
    checkpoints = tmp_path / "straight" / "checkpoints"
    weights = "model.backbone.0.weight"
    assert torch.equal(tensors(checkpoints / "epoch000.ckpt")[weights], tensors(source)[weights])
    assert not torch.equal(tensors(checkpoints / "epoch001.ckpt")[weights], tensors(source)[weights])
    heads, _, released = trainer.optimizers[0].param_groups
    assert released["weight_decay"] == heads["weight_decay"] > 0
    for kept in ("kept_2_step", "kept_7_step"):  # before and after the epoch of the release
        run_dir = tmp_path / kept
        assert_goes_on_exactly(small, tmp_path / "straight", run_dir, checkpoints / f"{kept}.ckpt", *flags)
