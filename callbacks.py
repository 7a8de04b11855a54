"""What training watches beside Lightning's own callbacks: non-finite losses, images per second, AP of every class."""

import time
from typing import Any

import pytorch_lightning as pl
import torch

from pictures import tensorboard


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message gives step, parts and images."""


class StopOnNonFiniteLoss(pl.Callback):
    """Stops training when a loss is not finite, naming the step, the parts of the loss and the images.

    The losses stay on the device and are read together whenever Lightning reads scalars for the loggers anyway (every
    `log_every_n_steps`), and before validation, epoch end and every checkpoint: no sync of its own in a step, and no
    checkpoint of broken weights. The progress bar gets the latest of them.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[int, dict[str, torch.Tensor], Any]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        parts = {name: value.detach() for name, value in outputs.items()}
        self._pending.append((trainer.global_step, parts, batch["image_ids"]))
        if len(self._pending) >= trainer.log_every_n_steps:
            # From the host: what is logged for the progress bar Lightning reads again in every step.
            pl_module.log("loss", self._check()[-1], prog_bar=True, logger=False, batch_size=1)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._check()

    def _check(self) -> torch.Tensor:
        """The pending losses, on the host."""
        pending, self._pending = self._pending, []
        if not pending:
            return torch.empty(0)
        losses = torch.stack([parts["loss"] for _, parts, _ in pending]).float().cpu()
        bad = (~losses.isfinite()).nonzero()
        if len(bad):
            step, parts, image_ids = pending[int(bad[0])]
            values = ", ".join(f"{name} {float(value):g}" for name, value in parts.items())
            raise NonFiniteLossError(
                f"the loss is not finite at step {step}: {values}; image ids {', '.join(map(str, image_ids))}. "
                "The last checkpoint is from before this step. Lower --model.learning_rate or lengthen "
                "--model.warmup_steps; if it is always the same images, look at their boxes"
            )
        return losses


class ImagesPerSecond(pl.Callback):
    """Logs training throughput over all devices, `train/images_per_second`, over each logging interval."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restart()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch["images"]) * trainer.world_size
        if (batch_idx + 1) % trainer.log_every_n_steps == 0 or trainer.is_last_batch:
            # A tensor on the host: a number would be sent to the device, and read back in every step.
            rate = torch.tensor(self._images / (time.perf_counter() - self._start))
            pl_module.log("train/images_per_second", rate, prog_bar=True, batch_size=1)
            self._restart()

    def _restart(self) -> None:
        self._images, self._start = 0, time.perf_counter()


class ClassPrecision(pl.Callback):
    """Draws the AP of every class in TensorBoard, `class_AP/<name>`, after each validation while training.

    Only there: 80 columns more would drown the rest of a table.
    """

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        logger = tensorboard(trainer)
        if logger is None or trainer.sanity_checking or not trainer.is_global_zero:
            return
        for row in pl_module.metric.per_class():
            if row["ground_truths"]:
                logger.experiment.add_scalar(f"class_AP/{row['name']}", row["AP"], trainer.global_step)
