"""Bit-exact resume: from any state that a run saves, the rest of it comes out as if nothing had happened."""

import copy
import csv
import json
import math
import shutil
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from checkpoints.files import CheckpointError
from checkpoints.operating_point import OperatingPoint, save_operating_point
from coco.sampler import TrainingSampler
from command_line.fit import train
from training.resuming import Geometry, Position, translate

EXACT_COLUMNS = (
    *("train/loss_step", "train/loss_epoch", "train/gradient_norm", "train/learning_rate"),
    *("val/mAP", "val/AR_100"),
)


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


def arguments(data, run_dir, *more):
    return [
        *("--accelerator", "cpu", "--data_root", str(data), "--run_dir", str(run_dir), "--deterministic", "true"),
        *("--batch_size", "2", "--num_workers", "0", "--model.backbone", "thin", "--model.warmup_steps", "2"),
        *("--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1", "--max_epochs", "2"),
        *("--keep_epochs", "true"),
        *("--save_every_n_steps", "1", "--trainer.num_sanity_val_steps", "0"),
        *more,
    ]


def run(data, run_dir, *more):
    return train(arguments(data, run_dir, *more))


def whole_state(run_dir):
    """What the last checkpoint holds, without paths and clocks."""
    state = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    del state["callbacks"], state["random_states"]  # paths; loader seeds, which nothing uses
    del state["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]  # counts the batch that it began twice
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
    assert trainer.global_step == torch.load(straight / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    expected = logged(straight)
    step = torch.load(checkpoint, weights_only=True)["global_step"]
    found = logged(run_dir)
    assert found.items() <= expected.items()
    assert {key for key in expected if key[1] >= step} <= found.keys(), "something was not logged again"
    assert_equal(whole_state(run_dir), whole_state(straight))


KEPT = ["1_step", "2_step", "3_validation", "3_step", "4_step", "5_step", "6_validation"]
QUICK = KEPT[1:4]  # the middle of an epoch, its validation, its end


def test_a_run_saves_after_every_step_before_every_validation_and_after_every_epoch(straight):
    kept = {path.stem.removeprefix("kept_") for path in (straight / "checkpoints").glob("kept_*")}
    assert kept == {*KEPT, "6_end"}


def test_a_checkpoint_that_was_given_score_thresholds_goes_on_as_before(small, straight, tmp_path):
    checkpoint = shutil.copy(straight / "checkpoints" / "kept_3_step.ckpt", tmp_path / "with_point.ckpt")
    save_operating_point(checkpoint, OperatingPoint("f1", (0.5,) * 4, 2, ""))
    assert_goes_on_exactly(small, straight, tmp_path / "run", checkpoint)


@pytest.mark.parametrize("kept", [*QUICK, *(pytest.param(k, marks=pytest.mark.slow) for k in KEPT if k not in QUICK)])
def test_a_run_goes_on_to_the_bit_from_any_saved_state(kept, small, straight, tmp_path):
    assert_goes_on_exactly(small, straight, tmp_path / "run", straight / "checkpoints" / f"kept_{kept}.ckpt")


def test_a_run_goes_on_to_the_bit_from_the_best_checkpoint_saved_after_a_validation_within_an_epoch(small, tmp_path):
    more = ("--trainer.val_check_interval", "2", "--keep_epochs", "false")
    run(small, tmp_path / "straight", *more)
    best = tmp_path / "straight" / "checkpoints" / "best.ckpt"
    kept = best.with_name(f"kept_{torch.load(best, weights_only=True)['global_step']}_best.ckpt")
    assert_goes_on_exactly(small, tmp_path / "straight", tmp_path / "run", best.rename(kept), *more)


def test_workers_that_load_ahead_begin_at_the_right_sample_of_the_right_epoch(small, straight, tmp_path):
    checkpoint = straight / "checkpoints" / "kept_4_step.ckpt"
    assert_goes_on_exactly(small, straight, tmp_path / "run", checkpoint, "--num_workers", "2")


VARIANTS = {
    "accumulation": ["--trainer.accumulate_grad_batches", "2"],
    "a moving average": ["--trainer.callbacks+=pytorch_lightning.callbacks.EMAWeightAveraging"],
    "validation in the middle of an epoch": ["--trainer.val_check_interval", "2"],
    "validation after some epochs": ["--trainer.check_val_every_n_epoch", "2"],
    "a number of steps": ["--trainer.max_steps", "5"],
    "bf16": ["--precision", "bf16-mixed"],
    "some classes, two as one, and a validation part of its own": [
        *(
            "--data.classes",
            "disc,angular",
            "--data.merge_classes",
            "angular=square+triangle",
            "--data.val_share",
            "0.3",
        ),
    ],
    "tiles": ["--data.tiles", "200", "--data.tile_overlap", "0.3", "--trainer.limit_train_batches", "3"],
    "the options of short runs": [
        *("--model.optimizer", "adamw", "--model.schedule", "cosine", "--model.background_prior", "0.75"),
        *("--data.augmentation.zoom_out", "3", "--data.augmentation.crop_side", "0.6", "--data.augmentation.hue", "0"),
        *("--trainer.gradient_clip_val", "5", "--trainer.callbacks+=pytorch_lightning.callbacks.EMAWeightAveraging"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_saved_state_goes_on_to_the_bit_with(variant, small, tmp_path):
    flags = VARIANTS[variant]
    straight = tmp_path / "straight"
    run(small, straight, "--trainer.callbacks+=tests.training.test_resuming.KeepEverySave", *flags)
    kept = [path for path in (straight / "checkpoints").glob("kept_*.ckpt") if not path.stem.endswith("_end")]
    assert len(kept) >= 5
    for checkpoint in (*kept, straight / "checkpoints" / "epoch000.ckpt"):
        assert_goes_on_exactly(small, straight, tmp_path / checkpoint.stem, checkpoint, *flags)


def test_a_cosine_of_a_longer_run_goes_on_at_its_place_and_another_optimiser_is_refused(small, tmp_path, caplog):
    cosine = ("--model.schedule", "cosine", "--model.warmup_steps", "0", "--trainer.limit_val_batches", "0")
    run(small, tmp_path / "run", *cosine, "--max_epochs", "1")
    last = str(tmp_path / "run" / "checkpoints" / "last.ckpt")
    with caplog.at_level("INFO"):
        run(small, tmp_path / "longer", *cosine, "--max_epochs", "2", "--ckpt_path", last, WITNESS)
    assert "a cosine is stretched" in caplog.text
    used = [row[3] for row in witnessed(tmp_path / "longer")]  # after each step: the next one's
    assert used[:2] == pytest.approx([2.6e-3 * 2 / 32 * (1 + math.cos(math.pi * step / 6)) / 2 for step in (4, 5)])
    with pytest.raises(CheckpointError, match=r"--model.optimizer adamw: the run to resume has sgd"):
        run(small, tmp_path / "other", *cosine, "--model.optimizer", "adamw", "--ckpt_path", last)


class WitnessSamples(pl.Callback):
    """Writes the image ids of every step, and the step, epoch and rate that Lightning counts."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        ids = batch["image_ids"].tolist()
        row = [trainer.global_step, trainer.current_epoch, batch_idx, rate, ids]
        with (Path(trainer.default_root_dir) / f"samples_{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


WITNESS = "--trainer.callbacks+=tests.training.test_resuming.WitnessSamples"


def witnessed(run_dir, rank=0):
    return [json.loads(line) for line in (run_dir / f"samples_{rank}.jsonl").read_text().splitlines()]


def test_a_larger_batch_goes_on_with_the_samples_left_and_ends_its_epochs(small, straight, tmp_path, caplog):
    checkpoint = straight / "checkpoints" / "kept_1_step.ckpt"
    with caplog.at_level("INFO"):
        trainer = run(small, tmp_path / "run", "--ckpt_path", str(checkpoint), "--batch_size", "3", WITNESS)
    assert "1 device(s) x batch 3, where the checkpoint had 1 device(s) x batch 2: epoch 0 goes on at its sample 2" in (
        caplog.text
    )
    order = [TrainingSampler(trainer.datamodule.train_annotations.trainable, 1, seed=0, start=(e, 0)) for e in (0, 1)]
    ids = [
        [trainer.datamodule.train_annotations.image_ids[i] for _, i in sampler] for sampler in order
    ]  # 7 in each epoch, in its order
    assert len(ids[0]) == 7
    rows = witnessed(tmp_path / "run")
    assert [row[4] for row in rows] == [ids[0][2:5], ids[1][:3], ids[1][3:6]], (
        "two steps of an epoch are left, not four"
    )
    assert [row[:3] for row in rows] == [[2, 0, 1], [3, 1, 0], [4, 1, 1]]
    rate = 2.6e-3 * 3 / 32
    assert [row[3] for row in rows] == pytest.approx([rate] * 3), "the rate of a run with this batch"
    steps = {step for name, step in logged(tmp_path / "run") if name == "val/mAP"}
    assert len(steps) == 2, "both validations happened"
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} >= {"epoch000.ckpt", "epoch001.ckpt"}


def test_other_samples_than_the_checkpoints_are_refused_unless_asked_for(small, straight, tmp_path):
    checkpoint = str(straight / "checkpoints" / "kept_4_step.ckpt")
    with pytest.raises(CheckpointError, match=r"other samples \(seed 0 -> 1\).*--data.allow_other_samples true"):
        run(small, tmp_path / "refused", "--ckpt_path", checkpoint, "--seed", "1")
    with pytest.raises(CheckpointError, match=r"other samples \(augmentation\.flip 0\.5 -> 0\.0\)"):
        run(small, tmp_path / "refused", "--ckpt_path", checkpoint, "--data.augmentation.flip", "0")
    flags = ("--seed", "1", "--data.allow_other_samples", "true")
    assert run(small, tmp_path / "run", "--ckpt_path", checkpoint, *flags).global_step == 6


COUNTERS = {
    "epoch_loop.state_dict": {"_batches_that_stepped": 9},
    "epoch_loop.batch_progress": {
        "total": {"ready": 10, "completed": 9, "started": 10, "processed": 10},
        "current": {"ready": 4, "completed": 3, "started": 4, "processed": 4},
        "is_last_batch": False,
    },
    "epoch_loop.scheduler_progress": {
        "total": {"ready": 10, "completed": 10},
        "current": {"ready": 4, "completed": 4},
    },
    "epoch_loop.automatic_optimization.optim_progress": {
        "optimizer": {"step": {"total": {"ready": 10, "completed": 10}, "current": {"ready": 4, "completed": 4}}}
    },
    "epoch_progress": {"current": {"ready": 2, "processed": 1}},
}


@pytest.mark.parametrize(
    ("new", "batches", "steps"),
    [
        (Geometry(batch_size=4, devices=1), 8, 20),  # an epoch has 12 batches; the 18 samples left make 4 of them
        (Geometry(batch_size=4, devices=4), 2, 5),
        (Geometry(batch_size=2, devices=2, accumulated=3), 9, 7),
    ],
)
def test_counters_of_other_devices_end_the_epoch_when_its_samples_are_used_up(new, batches, steps):
    checkpoint = {
        "loops": {"fit_loop": copy.deepcopy(COUNTERS)},
        "lr_schedulers": [{"last_epoch": 10, "base_lrs": [0.08]}],
        "global_step": 10,
    }
    old = Geometry(batch_size=4, devices=2)  # 6 batches an epoch; 4 of the second one are trained
    place = translate(checkpoint, Position(1, 32, 4), old, new, images=50)
    loops = checkpoint["loops"]["fit_loop"]
    assert place == Position(1, 32, loops["epoch_loop.batch_progress"]["current"]["ready"])
    assert (place.batches, checkpoint["global_step"]) == (batches, steps)
    left = 50 // new.batch - place.batches
    assert 0 <= left * new.batch <= 50 - 32, "no more than the samples left"
    assert place.batches % new.accumulated == 0, "no optimiser step of fewer batches"
    assert loops["epoch_loop.batch_progress"]["current"]["completed"] == batches - 1, "as far behind as it was"
    assert checkpoint["lr_schedulers"][0] == {"last_epoch": steps, "base_lrs": [pytest.approx(0.01 * new.step)]}


def test_a_number_of_steps_without_one_of_epochs_is_enough(small, tmp_path):
    run(small, tmp_path / "run", "--max_epochs", "-1", "--trainer.max_steps", "2", "--trainer.limit_val_batches", "0")
    assert whole_state(tmp_path / "run")["global_step"] == 2
