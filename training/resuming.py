"""Resume: makes a fit go on exactly where a checkpoint stands, and tells what is not as it was (what_changed.py)."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from checkpoints.files import CheckpointError
from checkpoints.progress import is_left_to_validate, reopen_epoch
from training.freezing import release_what_is_stepped
from training.position import Geometry, Position, epoch_was_cut, geometry, translate
from training.run_checkpoints import find_states
from training.schedule import RecipeSchedule
from training.what_changed import changed_settings, changed_validation, made_with, take_settings


class Resume(pl.Callback):
    """Makes a fit go on exactly where a checkpoint stands, on the same number of devices or another.

    Also after max_steps, max_time or early stopping ended it in the middle of an epoch: then the checkpoint says so,
    and the fit ends between two optimiser steps.

    Raises, while the checkpoint is restored, CheckpointError where its place means nothing to this run.
    """

    def __init__(self) -> None:
        self._checkpoint: dict[str, Any] | None = None  # while it is being restored
        self._made_with: dict[str, Any] = {}
        self._max_steps: int | None = None  # the Trainer's, put off
        self._validates_first = False
        self._rate_is_other = False  # by the checkpoint's devices, its batch or its settings
        self._stops = False  # as soon as the optimiser step is whole

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._checkpoint = checkpoint
        pl_module.numbers = dict(checkpoint.get("last_validation", {}))
        find_states(trainer.callbacks, checkpoint.get("callbacks", {}))
        if trainer.datamodule is not None:
            self._place(trainer, checkpoint, checkpoint.get(type(trainer.datamodule).__qualname__))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The optimisers are as configured, and about to be restored."""
        self._made_with = made_with(trainer, pl_module)  # as configured; other callbacks may change the trainer's
        checkpoint, self._checkpoint = self._checkpoint, None
        if checkpoint is None:
            return
        release_what_is_stepped(trainer, pl_module)
        lines = changed_settings(checkpoint, self._made_with, pl_module.hparams)
        told = {line.split(" ")[0].removeprefix("model.") for line in lines}
        rates = take_settings(checkpoint, trainer)
        lines += [line for name, line in rates.items() if name not in told]
        data, name = trainer.datamodule, type(trainer.datamodule).__qualname__
        if hasattr(data, "evaluated_on"):
            saved = checkpoint.get(name, {}).get("evaluated_on")
            lines += changed_validation(checkpoint, saved, data.evaluated_on())
        if lines:
            step = checkpoint["global_step"]
            rank_zero_info(
                "\n  ".join([f"Resuming after step {step}; from here on it is otherwise than before:", *lines])
            )
        ends = {"trainer.max_epochs", "trainer.max_steps"} if pl_module.hparams.schedule == "cosine" else set()
        self._rate_is_other |= bool(rates) or bool(told & {"warmup_steps", "schedule", "milestones", "gamma", *ends})
        # A Lightning that stops by steps would take an epoch that had ended for unfinished, and skip the next one; and
        # it would leave out a validation that a kill interrupted after the last step.
        epoch_loop = trainer.fit_loop.epoch_loop
        self._max_steps, epoch_loop.max_steps = epoch_loop.max_steps, -1
        self._validates_first = trainer.enable_validation and is_left_to_validate(checkpoint["loops"]["fit_loop"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._validates_first:
            self._limit_steps(trainer)
        if self._rate_is_other:
            for scheduler in (config.scheduler for config in trainer.lr_scheduler_configs):
                if isinstance(scheduler, RecipeSchedule):
                    scheduler.set_rates()
            self._rate_is_other = False

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._limit_steps(trainer)

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self._limit_steps(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self._stop_between_steps(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._stop_between_steps(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if epoch_was_cut(trainer):
            reopen_epoch(checkpoint["loops"]["fit_loop"])
        checkpoint["last_validation"] = dict(pl_module.numbers)
        checkpoint["made_with"] = self._made_with

    def _limit_steps(self, trainer: pl.Trainer) -> None:
        if self._max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps, self._max_steps = self._max_steps, None

    def _stop_between_steps(self, trainer: pl.Trainer) -> None:
        """What asks to stop between two accumulated batches (max_time, early stopping) gets it after the last of them:
        gradients are no part of a checkpoint."""
        progress = trainer.fit_loop.epoch_loop.batch_progress
        accumulates = progress.current.ready % trainer.accumulate_grad_batches and not progress.is_last_batch
        if accumulates and trainer.should_stop:
            trainer.should_stop, self._stops = False, True
        elif self._stops and not accumulates:
            trainer.should_stop, self._stops = True, False

    def _place(self, trainer: pl.Trainer, checkpoint: dict[str, Any], saved: dict[str, Any] | None) -> None:
        data = trainer.datamodule
        if saved is None:  # from elsewhere (checkpoints/published.py): at the beginning of an epoch
            data.start = Position(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
            return
        old, new = Geometry(**saved["geometry"]), geometry(trainer, data.batch_size)
        if old == new:
            return
        if trainer.limit_train_batches != 1.0:
            raise CheckpointError(
                f"the checkpoint was made with {old}, this run has {new}: with limit_train_batches "
                f"{trainer.limit_train_batches} its place in the epoch means nothing there; resume without it"
            )
        before = checkpoint["global_step"]
        data.start = translate(checkpoint, Position(**saved["position"]), old, new, data.num_train_samples)
        self._rate_is_other = True
        rank_zero_info(
            f"Resuming with {new}, where the checkpoint had {old}: epoch {data.start.epoch} goes on at its sample "
            f"{data.start.samples} in the same order, step {before} counts as {checkpoint['global_step']} of "
            f"{new.step} images, and the learning rate is {new.step / old.step:g} times what it was"
        )
