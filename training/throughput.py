"""How fast a run goes: images per second, the wait for data, the time of an epoch."""

import time
from typing import Any

import pytorch_lightning as pl
import torch


class Throughput(pl.Callback):
    """Logs, over each logging interval: `train/images_per_second` of all devices; `train/data_wait`, the share of the
    time that the first process waited for its batches; on an accelerator `train/memory_peak_mib`."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restart()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restart()

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self._waited += time.perf_counter() - self._batch_ended

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch["images"]) * trainer.world_size
        self._batch_ended = time.perf_counter()
        every = trainer.log_every_n_steps
        if trainer.is_last_batch or (every and (batch_idx + 1) % every == 0):
            passed = self._batch_ended - self._start
            # A tensor on the host: a number would be sent to the device, and read back in every step.
            pl_module.log("train/images_per_second", torch.tensor(self._images / passed), prog_bar=True, batch_size=1)
            pl_module.log("train/data_wait", torch.tensor(self._waited / passed), batch_size=1)
            device = pl_module.device
            if device.type != "cpu":
                peak = getattr(torch, device.type).max_memory_allocated(device) / 2**20
                pl_module.log("train/memory_peak_mib", torch.tensor(peak), batch_size=1)
            self._restart()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restart()  # in the middle of an epoch its time is not training's

    def _restart(self) -> None:
        self._images, self._waited = 0, 0.0
        self._start = self._batch_ended = time.perf_counter()


class EpochTime(pl.Callback):
    """Logs the seconds that an epoch's training took, `train/epoch_seconds`, without its validation; of an epoch that
    was resumed, those since then."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = self._end = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = self._end = time.perf_counter()

    def on_train_batch_end(self, *args: Any) -> None:
        self._end = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A tensor on the host: a number would be sent to the device and read back.
        pl_module.log("train/epoch_seconds", torch.tensor(self._end - self._start), rank_zero_only=True)
