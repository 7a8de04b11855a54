"""No checkpoint of broken weights replaces a good one, and what `last` finds can go on."""

from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from command_line.published import main as published
from ssd_module import SSDModule
from tests.training.test_resuming import run
from training.finite import NonFiniteWeightsError, SaveCheck
from training.losses import LossMonitor, NonFiniteLossError
from training.published_saving import save_reference_checkpoint

EMA = "--trainer.callbacks+=pytorch_lightning.callbacks.EMAWeightAveraging"


class Overflow(pl.Callback):
    """One number of the gradients is infinite (or `value`) in this step, as when they overflow before the loss."""

    def __init__(self, step: int, value: float = float("inf")) -> None:
        self.step, self.value = step, value

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step + 1 == self.step:
            gradient = next(pl_module.model.parameters()).grad
            gradient[(0,) * gradient.dim()] = self.value


def overflow(step, *more):
    return ("--trainer.callbacks+=tests.training.test_finite.Overflow", "--trainer.callbacks.step", str(step), *more)


def good(path):
    return all(value.isfinite().all() for value in torch.load(path, weights_only=True)["state_dict"].values())


def test_weights_that_broke_in_a_step_with_a_finite_loss_are_not_saved_and_the_run_can_go_on(small, tmp_path):
    without = ("--trainer.limit_val_batches", "0", "--max_epochs", "1")
    message = (
        r"after step 2, 2 tensor\(s\).*momentum_buffer.*broke between step 1, where all was finite, and step 2\."
        r".*: ssd300 replay \S+run --step 2$"
    )
    with pytest.raises(NonFiniteWeightsError, match=message):
        run(small, tmp_path / "run", *without, *overflow(2))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 1 and good(last)
    assert not list(last.parent.glob("epoch*")) and not list(last.parent.glob(".*"))
    assert run(small, tmp_path / "run", *without, "--ckpt_path", "last").global_step == 3
    assert good(last)


VARIANTS = {
    "no saves between": ["--save_every_n_steps", "null"],
    "a number so large that the next step would be infinite": ["--trainer.callbacks.value", "1e35"],
    "a NaN": ["--trainer.callbacks.value", ".nan"],
    "accumulation": ["--trainer.accumulate_grad_batches", "2", "--trainer.callbacks.step", "4"],
    "bf16-mixed": ["--precision", "bf16-mixed"],
    "a moving average": [EMA],
    "weights alone, of the best": [
        "--trainer.callbacks+=pytorch_lightning.callbacks.ModelCheckpoint",
        *("--trainer.callbacks.save_weights_only", "true", "--trainer.callbacks.monitor", "mAP"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_last_step_before_a_validation_leaves_neither_best_nor_epoch_with(variant, small, tmp_path):
    more = VARIANTS[variant]
    with pytest.raises(NonFiniteWeightsError, match="not finite"):
        run(small, tmp_path / "run", *overflow(6), *more)
    saved = {path.name for path in (tmp_path / "run" / "checkpoints").glob("*.ckpt")}
    assert {"last.ckpt", "best.ckpt", "epoch000.ckpt"} <= saved and "epoch001.ckpt" not in saved
    assert all(good(tmp_path / "run" / "checkpoints" / name) for name in saved)


def test_all_ranks_stop_when_the_state_or_the_loss_of_one_is_broken(monkeypatch):
    monkeypatch.setattr("training.finite.gathered", lambda own: [own, ["state_dict.model.bn1.running_var"]])
    with pytest.raises(NonFiniteWeightsError, match=r"bn1\.running_var"):
        SaveCheck()({"global_step": 5, "state_dict": {"weight": torch.ones(1)}})
    monkeypatch.setattr("training.losses.gathered", lambda own: [own, "the loss is not finite at step 7"])
    monitor = LossMonitor()
    trainer = SimpleNamespace(is_last_batch=False, accumulate_grad_batches=1, global_step=7, log_every_n_steps=50)
    monitor.on_train_batch_end(trainer, None, {"loss": torch.tensor(1.0)}, {"image_ids": [1]}, 0)
    with pytest.raises(NonFiniteLossError, match="step 7"):
        monitor.on_validation_start(trainer, None)


def test_the_published_format_is_not_written_of_broken_weights(tmp_path):
    module = SSDModule("thin", 2)
    save_reference_checkpoint(module, tmp_path / "1.pt")
    before = (tmp_path / "1.pt").read_bytes()
    torch.nn.init.constant_(module.model.logit_heads[0].bias, torch.nan)
    with pytest.raises(NonFiniteWeightsError, match=r"1\.pt: not written.*logit_heads\.0\.bias"):
        save_reference_checkpoint(module, tmp_path / "1.pt")
    assert (tmp_path / "1.pt").read_bytes() == before


@pytest.mark.slow
def test_the_published_command_saves_no_broken_weights(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = [
        "--backbone",
        "thin",
        "--data",
        str(small),
        "--bs",
        "2",
        "--epochs",
        "2",
        "--save",
        "models",
        "--no-cuda",
    ]
    own = [
        "--model.backbone_weights=null",
        "--num_workers=0",
        "--trainer.enable_progress_bar=false",
        "--evaluation",
        "5",
    ]
    with pytest.raises(NonFiniteWeightsError):
        published([*flags, *own, *overflow(5)])
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["epoch_0.pt"]
