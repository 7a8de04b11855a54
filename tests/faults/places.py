"""Callbacks that let the fault suite see from outside where a run is: `--trainer.callbacks+=tests.faults.places.X`."""

import os
import signal
import time
from pathlib import Path

import pytorch_lightning as pl

IN_VALIDATION = "in_validation"  # a file of the run directory, there while a validation is going on
STUCK = "stuck"  # there while `Stuck` waits
SIGNALLED = "signalled"  # there once `SignalAt` has sent its signal


class InValidation(pl.Callback):
    """Keeps the file `IN_VALIDATION` there during every validation of a fit."""

    def on_validation_start(self, trainer, pl_module):
        Path(trainer.default_root_dir, IN_VALIDATION).touch()

    def on_validation_end(self, trainer, pl_module):
        Path(trainer.default_root_dir, IN_VALIDATION).unlink(missing_ok=True)


class Stuck(pl.Callback):
    """Waits for minutes in the second step, so that nothing but an interruption ends it in time."""

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == 1:
            Path(trainer.default_root_dir, STUCK).touch()
            time.sleep(300)


class SignalAt(pl.Callback):
    """Sends a signal to the whole process group, itself included, at the first call of a hook that is named.

    Args:
        hook: of callbacks; `sanity:HOOK` is one within the sanity check.
        name: of the signal.
    """

    def __init__(self, hook: str, name: str) -> None:
        self._sanity, self._hook = hook.startswith("sanity:"), hook.rpartition(":")[2]
        self._signum = signal.Signals[name]
        setattr(self, self._hook, self._at_hook)

    def _at_hook(self, trainer, *args, **kwargs):
        sign = Path(trainer.default_root_dir, SIGNALLED)
        if trainer.global_rank == 0 and trainer.sanity_checking == self._sanity and not sign.exists():
            sign.parent.mkdir(parents=True, exist_ok=True)
            sign.touch()
            os.killpg(0, self._signum)
