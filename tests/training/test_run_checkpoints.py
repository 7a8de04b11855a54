"""The best checkpoint of a run that was moved, and ModelCheckpoints of the user's beside the run's own."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from command_line.fit import print_results, train
from evaluation.metric import CocoMeanAveragePrecision
from training.run_checkpoints import RunCheckpoint, find_states, what_is_kept


def arguments(data: Path, run_dir: Path, *more: str) -> list[str]:
    return [
        *("--accelerator", "cpu", "--data_root", str(data), "--run_dir", str(run_dir), "--batch_size", "4"),
        *("--num_workers", "0", "--model.backbone", "thin", "--model.warmup_steps", "3"),
        *("--trainer.limit_train_batches", "2", "--trainer.num_sanity_val_steps", "0", "--trainer.logger", "false"),
        *("--trainer.enable_progress_bar", "false", "--keep_epochs", "false", *more),
    ]


@pytest.fixture
def worse_every_epoch(monkeypatch):
    """Validations that give mAP 0.5, 0.4, 0.3 ..."""
    compute, given = CocoMeanAveragePrecision.compute, iter((0.5, 0.4, 0.3, 0.2))
    monkeypatch.setattr(CocoMeanAveragePrecision, "compute", lambda self: {**compute(self), "mAP": next(given)})


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree], ids=["moved", "copied"])
def test_a_run_that_was_moved_or_copied_keeps_its_best(sample, tmp_path, worse_every_epoch, how):
    train(arguments(sample, tmp_path / "old", "--max_epochs", "1"))
    how(str(tmp_path / "old"), str(tmp_path / "new"))
    trainer = train(arguments(sample, tmp_path / "new", "--max_epochs", "2", "--ckpt_path", "last"))
    best = next(callback for callback in trainer.checkpoint_callbacks if getattr(callback, "monitor", None) == "mAP")
    assert float(best.best_model_score) == 0.5
    assert best.best_model_path == str(tmp_path / "new" / "checkpoints" / "best.ckpt")
    assert torch.load(best.best_model_path, weights_only=True)["global_step"] == 2, "of the first epoch"


def test_every_kth_epoch_is_kept_and_what_is_kept_is_said(sample, tmp_path, capsys):
    train(arguments(sample, tmp_path / "run", "--max_epochs", "3", "--keep_epochs", "2"))
    kept = {path.name: path.stat().st_size for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert set(kept) == {"best.ckpt", "last.ckpt", "epoch001.ckpt"}
    said = re.search(r"checkpoints: best, last and one every 2 epochs, about (\d+) MB each", capsys.readouterr().out)
    assert said is not None and 1e6 * int(said[1]) == pytest.approx(kept["last.ckpt"], rel=0.1)


def test_what_the_checkpoints_of_a_whole_run_take_is_said():
    model = torch.nn.Linear(5000, 5000, bias=False)  # 100 MB, and as much of momentum
    told = "best, last and one every 10 epochs, about 200 MB each, 1.6 GB in all (--keep_epochs)"
    assert what_is_kept(model, 10, 65) == told
    assert what_is_kept(model, True, -1) == "best, last and every epoch, about 200 MB each"
    assert what_is_kept(model, False, 65).startswith("best and last, about 200 MB each")


def test_a_best_file_that_did_not_come_along_is_none(tmp_path):
    best = RunCheckpoint(tmp_path, "best", monitor="mAP", mode="max")
    gone = {"dirpath": "/old", "best_model_path": "/old/best.ckpt", "best_model_score": 1.0, "best_k_models": {}}
    states = {best.state_key: gone}
    find_states([best], states)
    assert states[best.state_key]["best_model_score"] is None and states[best.state_key]["dirpath"] == best.dirpath


def test_the_state_of_an_older_run_is_found_wherever_it_was_saved(tmp_path):
    best = RunCheckpoint(tmp_path, "best", monitor="mAP", mode="max")
    (tmp_path / "best.ckpt").write_bytes(b"")
    saved = {"dirpath": "C:\\runs\\1", "best_model_path": "C:\\runs\\1\\best.ckpt", "best_model_score": 0.3}
    states = {best.older_state_key: {**saved, "best_k_models": {"C:\\runs\\1\\best.ckpt": 0.3}}}
    find_states([best], states)
    found = states[best.state_key]
    assert found["best_model_path"] == str(tmp_path / "best.ckpt") and found["best_model_score"] == 0.3
    assert found["best_k_models"] == {str(tmp_path / "best.ckpt"): 0.3}


def test_a_model_checkpoint_of_the_users_stands_beside_the_runs_own(sample, tmp_path):
    like_ours = ModelCheckpoint(tmp_path / "mine", "mine", monitor="mAP", mode="max")
    train(arguments(sample, tmp_path / "run", "--max_epochs", "1"), [like_ours])
    assert (tmp_path / "mine" / "mine.ckpt").is_file()
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_the_best_may_be_that_of_the_least_validation_loss_and_early_stopping_may_watch_it(
    sample, tmp_path, capsys, caplog
):
    stop = ("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/loss")
    # Nothing is learned, so the first loss is the least, but for running statistics.
    still = (
        "--model.learning_rate",
        "1e-12",
        "--trainer.callbacks.patience",
        "1",
        "--trainer.callbacks.min_delta",
        "9",
    )
    trainer = train(arguments(sample, tmp_path, "--max_epochs", "5", "--best_by", "val/loss", *stop, *still))
    assert trainer.current_epoch == 2, "the second epoch was no better"
    (best,) = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, RunCheckpoint)][:1]
    assert best.monitor == "val/loss" and best.mode == "min"
    print_results(trainer)
    told = f"best checkpoint (val/loss {float(best.best_model_score):.3f}): {best.best_model_path}"
    assert told in capsys.readouterr().out
    with caplog.at_level("INFO"):
        train(arguments(sample, tmp_path, "--max_epochs", "3", "--ckpt_path", "last"))
    assert "best_by val/loss -> mAP" in caplog.text


def test_the_best_by_an_unknown_number_is_refused(sample, tmp_path):
    with pytest.raises(
        MisconfigurationException, match=r"--best_by AP: expected one of mAP, val/mAP, .* val/loss\. By"
    ):
        train(arguments(sample, tmp_path, "--best_by", "AP"))
