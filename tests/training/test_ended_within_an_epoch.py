"""A run that max_steps, max_time or early stopping ended within an epoch, and one that is finished: extended, it goes
on as if it had not been ended."""

import json
import re

import pytest
import pytorch_lightning as pl
import torch

from command_line.fit import main, train
from datamodule import COCODataModule
from tests.training.test_resuming import (
    arguments,
    assert_equal,
    assert_goes_on_exactly,
    logged,
    run,
    whole_state,
)
from training.finished import finished

STOP = "--trainer.callbacks+=tests.training.test_ended_within_an_epoch.StopAt"


class StopAt(pl.Callback):
    """Asks to stop as Lightning's Timer does (max_time), after this batch of the run."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer, *args):
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            trainer.should_stop = True


def state(run_dir):
    """What there is to compare of a run that was limited otherwise; and the validations that the limit caused."""
    found = whole_state(run_dir)
    del found["made_with"]["trainer"]
    return found


def assert_extended_is_straight(small, straight, run_dir, limit, *more, extended=()):
    run(small, run_dir, *more, *limit)
    ended = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    trainer = run(small, run_dir, *more, *extended, "--ckpt_path", "last")
    assert ended["global_step"] < trainer.global_step
    assert_equal(state(run_dir), state(straight))
    steps = {key for key in logged(straight) if key[0] in ("train/loss_step", "train/loss_epoch")}
    assert {key: logged(run_dir)[key] for key in steps} == {key: logged(straight)[key] for key in steps}
    return ended


def test_three_steps_extended_to_six_are_six_in_one_go(small, straight, tmp_path):
    """Within an epoch of three steps: two of them, then the rest."""
    limit = ("--trainer.max_steps", "2")
    ended = assert_extended_is_straight(small, straight, tmp_path / "run", limit, extended=("--trainer.max_steps", "6"))
    assert ended["COCODataModule"]["position"] == {"epoch": 0, "samples": 4, "batches": 2}
    assert ended["loss_sums"][0][1] == 4, "the epoch's mean goes on with its images"


def test_a_step_limit_at_the_end_of_an_epoch_ends_the_epoch(small, straight, tmp_path):
    ended = assert_extended_is_straight(small, straight, tmp_path / "run", ("--trainer.max_steps", "3"))
    assert ended["COCODataModule"]["position"] == {"epoch": 1, "samples": 0, "batches": 0}


VARIANTS = {
    "two workers": ("4", ["--num_workers", "2"]),
    "accumulation": ("1", ["--trainer.accumulate_grad_batches", "2"]),
    "accumulation, at the end of an epoch": ("2", ["--trainer.accumulate_grad_batches", "2"]),
    "a validation at the step of the limit": ("2", ["--trainer.val_check_interval", "2"]),
    "a validation before it": ("5", ["--trainer.val_check_interval", "1"]),
    "a moving average": ("2", ["--trainer.callbacks+=pytorch_lightning.callbacks.EMAWeightAveraging"]),
    "no saves but those of the end": ("2", ["--save_every_n_steps", "null"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_limit_within_an_epoch_leaves_no_trace_with(variant, small, tmp_path):
    steps, more = VARIANTS[variant]
    run(small, tmp_path / "straight", *more)
    limit = ("--trainer.max_steps", steps)
    assert_extended_is_straight(small, tmp_path / "straight", tmp_path / "run", limit, *more)


@pytest.mark.parametrize(
    ("batch", "more"),
    [
        pytest.param("2", ["--trainer.limit_val_batches", "0"], marks=pytest.mark.slow),
        pytest.param("1", ["--trainer.limit_val_batches", "0", "--trainer.accumulate_grad_batches", "2"]),
        pytest.param("5", [], marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_asked_to_stop_ends_between_two_optimiser_steps_and_goes_on_there(batch, more, small, tmp_path):
    """As by max_time, without its clock. In the second case it is asked between two accumulated batches."""
    run(small, tmp_path / "straight", *more)
    stop = (STOP, "--trainer.callbacks.batch", batch)
    assert_extended_is_straight(small, tmp_path / "straight", tmp_path / "run", stop, *more)


@pytest.mark.slow
def test_a_validation_that_was_interrupted_after_the_last_step_is_made_and_no_further_step(small, tmp_path):
    limit = ("--trainer.max_steps", "3")
    run(small, tmp_path / "straight", *limit, "--trainer.callbacks+=tests.training.test_resuming.KeepEverySave")
    interrupted = tmp_path / "straight" / "checkpoints" / "kept_3_validation.ckpt"
    assert_goes_on_exactly(small, tmp_path / "straight", tmp_path / "run", interrupted, *limit)
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()


def test_a_finished_run_says_so_and_how_to_extend_it_and_changes_nothing(small, tmp_path, capsys):
    run_dir = tmp_path / "run"
    run(small, run_dir, "--max_epochs", "1")
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(arguments(small, run_dir, "--max_epochs", "1", "--ckpt_path", "last")) is None
    told = capsys.readouterr().out
    assert "this run is finished, by --max_epochs 1: 1 epoch(s), 3 steps, last mAP 0." in told and ", best mAP " in told
    assert "To extend it: --max_epochs N, N above 1" in told
    train(arguments(small, run_dir, "--trainer.max_steps", "3", "--ckpt_path", "last"))
    assert "by --trainer.max_steps 3" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.is_file()} == before
    assert json.loads((run_dir / "run.json").read_text())["resumed_from"] is None


def checkpoint_of(epochs, steps, seconds=0.0, validating=0):
    progress = {"total": {"ready": validating, "started": validating, "processed": 0, "completed": 0}}
    return {
        "loops": {
            "fit_loop": {
                "epoch_progress": {"current": {"processed": epochs}},
                "epoch_loop.val_loop.batch_progress": progress,
            }
        },
        "global_step": steps,
        "callbacks": {"Timer": {"time_elapsed": {"train": seconds}}},
        "COCODataModule": {"geometry": {"batch_size": 2, "devices": 1, "accumulated": 1}},
    }


@pytest.mark.parametrize(
    ("limits", "checkpoint", "told"),
    [
        ({"max_time": "00:00:01:00"}, checkpoint_of(1, 9, seconds=61.0), "by --trainer.max_time.*more than its 61 s"),
        ({"max_time": "00:00:02:00"}, checkpoint_of(1, 9, seconds=61.0), None),
        ({"max_steps": 9}, checkpoint_of(1, 9), "by --trainer.max_steps 9.*--trainer.max_steps N, N above 9"),
        ({"max_steps": 9}, checkpoint_of(1, 9, validating=1), None),  # a validation that a kill interrupted
        ({"max_steps": 9, "accumulate_grad_batches": 2}, checkpoint_of(1, 9), None),  # counted anew
        ({"max_epochs": 3}, checkpoint_of(4, 9), r"by --max_epochs 3: 4 epoch\(s\).*--max_epochs N, N above 4"),
        ({"max_epochs": -1}, checkpoint_of(4, 9), None),
    ],
)
def test_a_run_is_finished_when_a_limit_of_the_trainer_is_reached(limits, checkpoint, told):
    trainer = pl.Trainer(**{"max_epochs": 5, **limits}, accelerator="cpu", logger=False, enable_checkpointing=False)
    found = finished(checkpoint, "last.ckpt", trainer, COCODataModule(batch_size=2))
    assert found is None if told is None else re.search(told, found)


@pytest.mark.slow
def test_an_extended_run_has_its_milestones_at_the_same_epochs(small, tmp_path, caplog):
    """One epoch, extended to three, is three in one go: the milestone before, at and after the extension."""
    more = ("--model.milestones", "[1, 2]", "--model.warmup_steps", "0")
    run(small, tmp_path / "straight", *more, "--max_epochs", "3")
    limit = ("--max_epochs", "1")
    with caplog.at_level("INFO"):
        assert_extended_is_straight(
            small, tmp_path / "straight", tmp_path / "run", limit, *more, extended=("--max_epochs", "3")
        )
    assert "trainer.max_epochs 1 -> 3 (milestones stay at their epochs" in caplog.text
    group = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0][
        "param_groups"
    ][0]
    assert group["lr"] == pytest.approx(2.6e-3 * 2 / 32 * 0.1**2)
