"""Callbacks that let the fault suite see from outside where a run is: `--trainer.callbacks+=tests.faults.places.X`."""

import time
from pathlib import Path

import pytorch_lightning as pl

IN_VALIDATION = "in_validation"  # a file of the run directory, there while a validation is going on
STUCK = "stuck"  # there while `Stuck` waits


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
