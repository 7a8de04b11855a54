"""LastCheckpoint keeps `last.ckpt`, the state to resume from: in steps, in minutes, and when the run is told to stop.

It saves between two optimiser steps only, before every validation and after every epoch, so a resumed run does exactly
what the undisturbed one would have done.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.environments import SLURMEnvironment
from typing_extensions import override

from training import stop_signals
from training.ranks import Greatest

# Of SLURM: the default of Lightning's SLURMEnvironment, and the one that its documentation chooses.
REQUEUE_SIGNALS = tuple(signal.Signals[name] for name in ("SIGUSR1", "SIGHUP") if hasattr(signal, name))
NOTHING, SAVE, REQUEUE, STOP = range(4)  # what a rank asks for; the greatest over all ranks is done by all


class Preempted(Exception):
    """The run was told to stop, and `path` (None where there is nothing yet) holds its state."""

    def __init__(self, signum: int, step: int, path: Path | str | None) -> None:
        saved = f"its state is in {path}" if path else "before there was anything to save"
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {step}; {saved}")
        self.path = path


class LastCheckpoint(Checkpoint):
    """Saves `directory/last.ckpt` every `every_n_steps` optimiser steps and every `every_minutes`, whichever is given.

    On SIGTERM, SIGINT and SIGHUP, unless the process was started to ignore it, it saves at the next optimiser step (on
    several devices at the one after, by when they agree without having waited), or stops a validation, before which it
    has saved, and raises Preempted on all ranks, once the step's numbers are logged. A second
    SIGINT interrupts at once. `told_to_stop` says whether a signal came too late for that.
    Under SLURM with auto-requeue, SIGTERM and the requeue signal stay Lightning's; what it does on SIGUSR1 is put off
    to the next optimiser step.
    """

    def __init__(self, directory: Path, every_n_steps: int | None = None, every_minutes: float | None = 10.0) -> None:
        self.path = directory / "last.ckpt"
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.asked: int | None = None  # the last signal that asked this process to stop
        self._heeded = stop_signals.heeded()  # before Lightning takes some
        self._interrupted_at: float | None = None
        self._requeue: Any = None  # Lightning's handler of SLURM's requeue signal
        self._requeue_asked = False
        self._saved_step: int | None = None
        self._greatest = Greatest()  # wish of all ranks
        self._stopping = False  # as soon as the numbers of the step or the epoch, which is saved, have been logged

    @property
    def told_to_stop(self) -> bool:
        """By a signal to this process or, as far as they agreed on it, to another one."""
        return self._stopping or self.asked is not None

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if SLURMEnvironment.detect() and "SIGHUP" in signal.Signals.__members__ and _in_main_thread():
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # Lightning takes it, if at all, only so

    @override
    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._take_signals()

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_at = time.monotonic()
        self._greatest = Greatest()
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
        asked = self._agreed_before(trainer, self._wish() or (SAVE if self._minutes_are_over() else NOTHING))
        if asked or (self.every_n_steps and trainer.global_step % self.every_n_steps == 0):
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

    def _minutes_are_over(self) -> bool:
        return self.every_minutes is not None and time.monotonic() - self._saved_at >= 60 * self.every_minutes

    def _wish(self) -> int:
        return STOP if self.asked is not None else REQUEUE if self._requeue_asked else NOTHING

    def _agreed(self, trainer: pl.Trainer, wish: int) -> int:
        """The greatest wish of all ranks; a signal or a clock may reach them in different steps."""
        if trainer.world_size == 1:
            return wish
        before = self._greatest.read()
        self._greatest.ask(wish, trainer.strategy.root_device)
        return max(before, self._greatest.read())

    def _agreed_before(self, trainer: pl.Trainer, wish: int) -> int:
        """The same of the wishes at the last call, which no rank waits for; one that was granted is not put again."""
        if trainer.world_size == 1:
            return wish
        agreed = self._greatest.read()
        if not agreed:
            self._greatest.ask(wish, trainer.strategy.root_device)
        return agreed

    def _act(self, trainer: pl.Trainer, asked: int) -> None:
        self._stopping = asked == STOP
        if asked == REQUEUE:
            self._requeue_asked = False
            self._requeue(self._requeue_signal, None)

    def _stop_if_asked(self, trainer: pl.Trainer) -> None:
        if self._stopping:
            raise self.preempted(trainer)

    def preempted(self, trainer: pl.Trainer) -> Preempted:
        """What is raised on a stop: with what was saved, or else what the run was resumed from."""
        saved = self.path if self._saved_step is not None else trainer.ckpt_path if trainer.global_step else None
        return Preempted(self.asked or signal.SIGTERM, trainer.global_step, saved)

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()
        self._saved_step = trainer.global_step

    def _take_signals(self) -> None:
        """After Lightning took them for itself: its SIGTERM handler runs a collective in the middle of a step."""
        if not _in_main_thread():
            return
        if SLURMEnvironment.detect() and self._requeue is None:
            for number in REQUEUE_SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler) and handler != self._note_stop:
                    self._requeue, self._requeue_signal = handler, number
                    signal.signal(number, self._note_requeue)
                    break
        for number in stop_signals.STOP_SIGNALS:
            if self._requeue is None or number not in (signal.SIGTERM, self._requeue_signal):
                signal.signal(number, self._note_stop if number in self._heeded else signal.SIG_IGN)
        self.asked = self.asked or stop_signals.hand_over(self._note_stop)

    def _note_stop(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGTERM and self._requeue is not None:
            return  # Lightning's handler has it, and passes it on to the one before
        if signum == signal.SIGINT:
            if self._interrupted_at is not None and not self._sent_twice():
                raise KeyboardInterrupt
            self._interrupted_at = self._interrupted_at or time.monotonic()
        self.asked = signum
        again = "; once more to stop at once, without it" if signum == signal.SIGINT else ""
        # Not print: the signal may have come in the middle of one.
        if sys.__stderr__ is not None:  # else its number may be that of any file
            with contextlib.suppress(OSError):
                message = f"\n{signal.Signals(signum).name}: saving after this step, then stopping{again}\n"
                os.write(2, message.encode())

    def _sent_twice(self) -> bool:
        """Whether it is the same Ctrl-C again: torchrun passes on what comes to it, and maybe to all processes."""
        return "TORCHELASTIC_RUN_ID" in os.environ and time.monotonic() - (self._interrupted_at or 0) < 1

    def _note_requeue(self, signum: int, frame: FrameType | None) -> None:
        self._requeue_asked = True


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
