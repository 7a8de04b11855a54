"""LastCheckpoint keeps `last.ckpt`, the state to resume from: in steps, in minutes, and when the run is told to stop.

It saves between two optimiser steps only, before every validation and after every epoch, so a resumed run does exactly
what the undisturbed one would have done.
"""

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.environments import SLURMEnvironment
from typing_extensions import override

NOTHING, SAVE, REQUEUE, STOP = range(4)  # what a rank asks for; the greatest over all ranks is done by all


class Preempted(Exception):
    """The run was told to stop, and `path` (None before the first step) holds its state."""

    def __init__(self, signum: int, step: int, path: Path | None) -> None:
        saved = f"its state is in {path}" if path else "before there was anything to save"
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}; {saved}")
        self.path = path


class LastCheckpoint(Checkpoint):
    """Saves `directory/last.ckpt` every `every_n_steps` optimiser steps and every `every_minutes`, whichever is given.

    On SIGTERM and SIGINT it saves at the next optimiser step, or stops a validation, before which it has saved, and
    raises Preempted on all ranks, once the step's numbers are logged. A second SIGINT interrupts at once.
    Under SLURM with auto-requeue, SIGTERM and the requeue signal stay Lightning's; what it does on SIGUSR1 is put off
    to the next optimiser step.
    """

    def __init__(self, directory: Path, every_n_steps: int | None = None, every_minutes: float | None = 10.0) -> None:
        self.path = directory / "last.ckpt"
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self._signum: int | None = None  # of the last signal that asked this process to stop
        self._requeue: Any = None  # Lightning's handler of SIGUSR1
        self._requeue_asked = False
        self._saved_step: int | None = None
        self._stopping = False  # as soon as the numbers of the step or the epoch, which is saved, have been logged

    @override
    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._take_signals()

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_at = time.monotonic()
        self._take_signals()

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop_if_asked(trainer)

    @override
    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        self._stop_if_asked(trainer)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # after the last batch of an epoch, on_validation_start or on_train_epoch_end saves
        if self._validates_next(trainer, batch_idx):
            return  # on_validation_start saves; from here Lightning would go on without the validation
        asked = self._agreed(trainer, self._wish() or (SAVE if self._is_due(trainer) else NOTHING))
        if asked:
            self._save(trainer)
        self._act(trainer, asked)

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking and self._is_fitting(trainer):
            batches = trainer.fit_loop.epoch_loop.val_loop.batch_progress.total
            batches.ready = batches.started = batches.completed  # the one begun, says on_save_checkpoint, was none
            self._save(trainer)
            self._stop_if_asked(trainer)

    @override
    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if self._is_fitting(trainer):
            self._act(trainer, self._agreed(trainer, self._wish()))
            self._stop_if_asked(trainer)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._save(trainer)
        self._act(trainer, self._agreed(trainer, self._wish()))

    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.validating and self._is_fitting(trainer):
            # Saved before a validation, or after it by another callback (the best): both go on with the validation.
            # From its end Lightning would go on without the end of the epoch. To a resuming one it is still to be done
            # only if it had begun its first batch.
            begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
            loops = checkpoint["loops"]["fit_loop"]
            loops["epoch_loop.val_loop.batch_progress"] = {
                "total": begun,
                "current": dict(begun),
                "is_last_batch": False,
            }

    def _is_fitting(self, trainer: pl.Trainer) -> bool:
        return trainer.state.fn == "fit"

    def _validates_next(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        """Whether Lightning validates after this batch, in the middle of an epoch."""
        every_epochs, every_batches = trainer.check_val_every_n_epoch, trainer.val_check_batch
        if not trainer.enable_validation or not isinstance(every_batches, int):
            return False
        if every_epochs is None:
            return (trainer.fit_loop.total_batch_idx + 1) % every_batches == 0
        return (trainer.current_epoch + 1) % every_epochs == 0 and (batch_idx + 1) % every_batches == 0

    def _is_due(self, trainer: pl.Trainer) -> bool:
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0:
            return True
        return self.every_minutes is not None and time.monotonic() - self._saved_at >= 60 * self.every_minutes

    def _wish(self) -> int:
        return STOP if self._signum is not None else REQUEUE if self._requeue_asked else NOTHING

    def _agreed(self, trainer: pl.Trainer, wish: int) -> int:
        """The greatest wish of all ranks; a signal or a clock may reach them in different steps."""
        if trainer.world_size == 1:
            return wish
        flag = torch.tensor(wish, dtype=torch.int32, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(flag, reduce_op="max"))

    def _act(self, trainer: pl.Trainer, asked: int) -> None:
        self._stopping = asked == STOP
        if asked == REQUEUE:
            self._requeue_asked = False
            self._requeue(signal.SIGUSR1, None)

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        if self._stopping:
            saved = self.path if self._saved_step is not None else None
            raise Preempted(self._signum or signal.SIGTERM, trainer.global_step, saved)

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()
        self._saved_step = trainer.global_step

    def _take_signals(self) -> None:
        """After Lightning took them for itself: its SIGTERM handler runs a collective in the middle of a step."""
        if threading.current_thread() is not threading.main_thread():
            return
        previous = signal.getsignal(signal.SIGUSR1) if hasattr(signal, "SIGUSR1") else None  # Windows has none
        if SLURMEnvironment.detect() and callable(previous):
            if previous != self._note_requeue:
                self._requeue = previous
                signal.signal(signal.SIGUSR1, self._note_requeue)
        else:
            signal.signal(signal.SIGTERM, self._note_stop)
        signal.signal(signal.SIGINT, self._note_stop)

    def _note_stop(self, signum: int, frame: FrameType | None) -> None:
        if self._signum == signal.SIGINT == signum:
            raise KeyboardInterrupt
        self._signum = signum
        again = "; once more to stop at once, without it" if signum == signal.SIGINT else ""
        # Not print: the signal may have come in the middle of one.
        os.write(2, f"\n{signal.Signals(signum).name}: saving after this step, then stopping{again}\n".encode())

    def _note_requeue(self, signum: int, frame: FrameType | None) -> None:
        self._requeue_asked = True
