"""Saving in the published recipe's format, from a module or while training."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from checkpoints.files import remove_unfinished, write_durably
from checkpoints.finite import broken_tensors, in_words
from checkpoints.operating_point import KEY, saved_form
from checkpoints.progress import reopen_epoch
from checkpoints.published import from_ours
from training.dllogger import DLLogger
from training.finite import NonFiniteWeightsError
from training.position import epoch_was_cut


def save_reference_checkpoint(module: Any, path: str | Path) -> None:
    """Writes an `SSDModule` in the published format (`checkpoints.published.from_ours`).

    Of a module in training it writes everything a run goes on with; of another, epoch and iteration 0 and the weights.
    The file appears whole or not at all.

    Raises:
        CheckpointError: it could not be written. NonFiniteWeightsError: the state is broken.
    """
    ours = _as_checkpoint(module)
    if broken := broken_tensors(ours):
        raise NonFiniteWeightsError(f"{path}: not written, since {in_words(broken)}")
    write_durably(from_ours(ours), Path(path))


def _as_checkpoint(module: Any) -> dict[str, Any]:
    trainer: pl.Trainer | None = module._trainer  # None outside a run, where `module.trainer` would raise
    ours: dict[str, Any] = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}
    if module.operating_point and not trainer:
        ours[KEY] = saved_form(module.operating_point)
    if trainer:
        fit_loop = trainer.fit_loop.state_dict()
        if epoch_was_cut(trainer):
            reopen_epoch(fit_loop)
        ours |= {
            "global_step": trainer.global_step,
            "loops": {"fit_loop": fit_loop},
            "optimizer_states": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "MixedPrecision": trainer.precision_plugin.state_dict(),
        }
    return ours


class SavePublished(pl.Callback):
    """Writes `directory/epoch_<n>.pt` in the published format after every epoch."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            remove_unfinished(self.directory)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.save_check(_as_checkpoint(pl_module), trainer)  # on all ranks
        if not trainer.is_global_zero:
            return
        path = self.directory / f"epoch_{trainer.current_epoch}.pt"
        save_reference_checkpoint(pl_module, path)
        for logger in trainer.loggers:
            if isinstance(logger, DLLogger):
                logger.log((trainer.current_epoch, trainer.global_step - 1), {"model path": str(path)})
