"""Bit-exact resume: from any state that a run saves, the rest of it comes out as if nothing had happened."""

import csv
import os
import shutil
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from coco.sample import write_sample
from train import train

EXACT_COLUMNS = ("train/loss_step", "train/loss_epoch", "train/gradient_norm", "lr-SGD/pg1", "val/mAP", "val/AR_100")


class KeepEverySave(pl.Callback):
    """Copies each state of last.ckpt: named after the step and what comes next."""

    def _keep(self, trainer, name):
        trainer.strategy.checkpoint_io.wait()
        last = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        if last.exists():
            shutil.copy(last, last.with_name(f"kept_{trainer.global_step}_{name}.ckpt"))

    def on_train_batch_start(self, trainer, *args):
        self._keep(trainer, "step")

    def on_validation_batch_start(self, trainer, *args):
        if not trainer.sanity_checking:
            self._keep(trainer, "validation")

    def on_train_end(self, trainer, *args):
        self._keep(trainer, "end")


@pytest.fixture(autouse=True)
def fresh_run_dir(monkeypatch):
    monkeypatch.delenv("SSD_RUN_DIR", raising=False)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Seven training pictures: three steps of two, and one left over."""
    directory = tmp_path_factory.mktemp("small")
    write_sample(directory, train_images=8, val_images=2)
    return directory


def arguments(data, run_dir, *more):
    return [
        *("--accelerator", "cpu", "--data_root", str(data), "--run_dir", str(run_dir), "--deterministic", "true"),
        *("--batch_size", "2", "--num_workers", "0", "--model.backbone", "resnet18", "--model.warmup_steps", "2"),
        *("--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1", "--max_epochs", "2"),
        *("--save_every_n_steps", "1", "--trainer.num_sanity_val_steps", "0"),
        *more,
    ]


def run(data, run_dir, *more):
    os.environ.pop("SSD_RUN_DIR", None)
    return train(arguments(data, run_dir, *more))


def whole_state(run_dir):
    """What the last checkpoint holds, without paths and clocks."""
    state = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    del state["callbacks"], state["random_states"]  # paths; loader seeds, which nothing uses
    return state


def logged(run_dir):
    """(column, step) -> value, of all versions of the log; the later wins."""
    values = {}
    for path in sorted((run_dir / "logs" / "csv").glob("version_*/metrics.csv")):
        for row in csv.DictReader(path.open()):
            values |= {(name, int(row["step"])): row[name] for name in EXACT_COLUMNS if row.get(name)}
    return values


def assert_equal(found, expected, path=""):
    """Equal to the bit, in nested containers."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), path
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for key in expected:
            assert_equal(found[key], expected[key], f"{path}/{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), path
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_equal(one, other, f"{path}/{i}")
    else:
        assert found == expected, path


def assert_goes_on_exactly(small, straight, run_dir, checkpoint, *more):
    trainer = run(small, run_dir, "--ckpt_path", str(checkpoint), *more)
    assert trainer.current_epoch == 2
    expected = logged(straight)
    step = int(checkpoint.stem.split("_")[1]) if checkpoint.stem.startswith("kept") else 0
    found = logged(run_dir)
    assert found.items() <= expected.items()
    assert {key for key in expected if key[1] >= step} <= found.keys(), "something was not logged again"
    assert_equal(whole_state(run_dir), whole_state(straight))


@pytest.fixture(scope="module")
def straight(small, tmp_path_factory) -> Path:
    """An undisturbed run, with every state that it saved."""
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    run(small, run_dir, "--trainer.callbacks+=tests.test_resuming.KeepEverySave")
    return run_dir


KEPT = ["1_step", "2_step", "3_validation", "3_step", "4_step", "5_step", "6_validation"]


def test_a_run_saves_after_every_step_before_every_validation_and_after_every_epoch(straight):
    kept = {path.stem.removeprefix("kept_") for path in (straight / "checkpoints").glob("kept_*")}
    assert kept == {*KEPT, "6_end"}


@pytest.mark.parametrize("kept", KEPT[1:4])
def test_a_run_goes_on_to_the_bit_from_the_middle_the_validation_and_the_end_of_an_epoch(
    kept, small, straight, tmp_path
):
    assert_goes_on_exactly(small, straight, tmp_path / "run", straight / "checkpoints" / f"kept_{kept}.ckpt")


def test_a_run_goes_on_to_the_bit_from_the_best_checkpoint_saved_after_a_validation_within_an_epoch(small, tmp_path):
    more = ("--trainer.val_check_interval", "2", "--keep_epochs", "false")
    run(small, tmp_path / "straight", *more)
    best = tmp_path / "straight" / "checkpoints" / "best.ckpt"
    kept = best.with_name(f"kept_{torch.load(best, weights_only=True)['global_step']}_best.ckpt")
    assert_goes_on_exactly(small, tmp_path / "straight", tmp_path / "run", best.rename(kept), *more)
