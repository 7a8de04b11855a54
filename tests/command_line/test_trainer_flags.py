"""Lightning's Trainer flags at the command line: they work as documented, or are refused by name before training."""

import csv

import pytest
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from command_line.evaluate import EvaluateCLI
from command_line.fit import train
from command_line.fit_cli import FitCLI
from tests.command_line.test_fit import arguments


@pytest.fixture
def cli(sample, tmp_path):
    def parse(*args, kind=FitCLI):
        return kind(["--accelerator", "cpu", "--data_root", str(sample), "--num_workers", "0", *args])

    return lambda *args: parse("--run_dir", str(tmp_path / "run"), "--model.backbone", "thin", *args)


@pytest.mark.parametrize("flag", ["limit_train_batches", "limit_val_batches", "overfit_batches", "val_check_interval"])
def test_1_is_one_batch_and_1_point_0_all_of_them(cli, flag, tmp_path):
    made = cli(f"--trainer.{flag}", "1")
    assert isinstance(getattr(made.trainer, flag), int), "one batch"
    path = made.save_config()
    assert isinstance(getattr(cli("--config", str(path)).trainer, flag), int), "from the saved configuration too"
    assert isinstance(getattr(cli(f"--trainer.{flag}=1.0").trainer, flag), float)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trainer.limit_train_batches", "0"], "--trainer.limit_train_batches 0: train.py would have nothing to do"),
        (["--trainer.accumulate_grad_batches", "0"], "--trainer.accumulate_grad_batches 0: expected a whole number"),
        (["--trainer.check_val_every_n_epoch", "0"], "--trainer.check_val_every_n_epoch 0: expected a whole number"),
        (["--trainer.val_check_interval", "0"], "--trainer.val_check_interval 0: .*limit_val_batches 0"),
        (["--trainer.val_check_interval", "-0.5"], "--trainer.val_check_interval -0.5: "),
        (["--trainer.log_every_n_steps", "-1"], "--trainer.log_every_n_steps -1: "),
        (["--trainer.gradient_clip_val", "-1"], "--trainer.gradient_clip_val -1"),
        (["--trainer.min_epochs", "-1"], "--trainer.min_epochs -1: "),
        (["--num_nodes", "0"], "--trainer.num_nodes 0: "),
        (["--trainer.barebones", "true"], "--trainer.barebones true: .*main.py --mode benchmark-training"),
        (["--precision", "16-true"], "--precision 16-true: .*Train with 16-mixed or 32-true"),
        (["--precision", "bf16-true"], "--precision bf16-true: .*Train with bf16-mixed"),
        (["--precision", "transformer-engine"], "--precision transformer-engine: .*linear layers"),
        (["--batch_size", "1"], "--data.batch_size 1: .*at least 2 images"),
        (["--model.warmup_steps", "-1"], "--model.warmup_steps -1: expected a whole number, at least 0"),
        (["--model.learning_rate", ".inf"], "--model.learning_rate inf: expected a number above 0"),
        (["--save_every_n_steps", "0"], "--save_every_n_steps 0: "),
        (["--save_every_minutes", "-1"], "--save_every_minutes -1.0: "),
        (["--stall_seconds", "0"], "--stall_seconds 0.0: expected a number above 0"),
        (["--max_skipped_steps", "-1"], "--max_skipped_steps -1: "),
    ],
)
def test_what_would_come_to_nothing_is_refused_by_name_before_anything_runs(cli, tmp_path, flags, message):
    with pytest.raises(MisconfigurationException, match=message):
        cli(*flags)
    assert not (tmp_path / "run").exists()


def test_evaluate_needs_a_batch_to_evaluate(sample, random_detector):
    with pytest.raises(MisconfigurationException, match=r"limit_val_batches 0: evaluate\.py would have nothing to do"):
        EvaluateCLI(
            [
                *("--ckpt_path", str(random_detector), "--data_root", str(sample), "--accelerator", "cpu"),
                *("--trainer.limit_val_batches", "0"),
            ]
        )


def test_overfitting_takes_the_same_pictures_in_every_epoch(sample, tmp_path, monkeypatch):
    seen = []

    def step(self, batch, batch_idx):
        seen.append((self.current_epoch, batch["image_ids"].tolist(), float(batch["images"].sum())))
        return {"loss": sum((parameter * 0).sum() for parameter in self.parameters())}

    monkeypatch.setattr("ssd_module.SSDModule.training_step", step)
    quick = ("--trainer.overfit_batches", "2", "--max_epochs", "2", "--trainer.log_every_n_steps", "0")
    trainer = train(arguments(sample, tmp_path / "run", *quick))
    assert trainer.global_step == 4 and len(seen) == 4
    first, second = ([ids for epoch, ids, _ in seen if epoch == wanted] for wanted in (0, 1))
    assert first == second and len({image for ids in first for image in ids}) == 8
    assert {pixels for _, _, pixels in seen[:2]}.isdisjoint(pixels for _, _, pixels in seen[2:]), "augmented anew"
    with open(tmp_path / "run" / "logs" / "csv" / "version_0" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert not any(row.get("train/gradient_norm") for row in rows), "log_every_n_steps 0 logs no steps"
    assert any(row.get("train/loss_epoch") for row in rows)
