"""Where a run stands: the place in the epoch, counted in samples trained, and its translation to other devices.

Lightning counts batches. A batch is another thing on another number of devices, a sample of the epoch's order is not.
"""

import math
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from checkpoints.files import CheckpointError
from checkpoints.progress import epoch_is_left_to_validate


@dataclass(frozen=True)
class Position:
    """Training goes on at sample `samples` of the order of epoch `epoch`; Lightning counts `batches` up to there."""

    epoch: int = 0
    samples: int = 0
    batches: int = 0


@dataclass(frozen=True)
class Geometry:
    """What a step is made of."""

    batch_size: int  # images per device
    devices: int
    accumulated: int = 1  # batches per optimiser step

    @property
    def batch(self) -> int:
        """Images of one batch over all devices."""
        return self.batch_size * self.devices

    @property
    def step(self) -> int:
        """Images of one optimiser step."""
        return self.batch * self.accumulated

    def __str__(self) -> str:
        accumulated = f" x {self.accumulated} accumulated" if self.accumulated > 1 else ""
        return f"{self.devices} device(s) x batch {self.batch_size}{accumulated}"


class Resume(pl.Callback):
    """Makes a fit go on exactly where a checkpoint stands, on the same number of devices or another.

    Raises, while the checkpoint is restored, CheckpointError where its place means nothing to this run.
    """

    def __init__(self) -> None:
        self._max_steps: int | None = None  # the Trainer's, while a checkpoint is being restored
        self._translated = False  # whether the checkpoint was made with other devices or another batch

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if trainer.datamodule is not None:
            self._place(trainer, checkpoint, checkpoint.get(type(trainer.datamodule).__qualname__))
        # A Lightning that stops by steps would take an epoch that had ended for unfinished, and skip the next one.
        epoch_loop = trainer.fit_loop.epoch_loop
        self._max_steps, epoch_loop.max_steps = epoch_loop.max_steps, -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps, self._max_steps = self._max_steps, None
        if self._translated:
            for scheduler in (config.scheduler for config in trainer.lr_scheduler_configs):
                rates = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
                for group, (rate, factor) in zip(scheduler.optimizer.param_groups, rates, strict=True):
                    group["initial_lr"], group["lr"] = rate, rate * factor(scheduler.last_epoch)
            self._translated = False

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
        data.start = translate(checkpoint, Position(**saved["position"]), old, new, data.num_train_images)
        self._translated = True
        rank_zero_info(
            f"Resuming with {new}, where the checkpoint had {old}: epoch {data.start.epoch} goes on at its sample "
            f"{data.start.samples} in the same order, step {before} counts as {checkpoint['global_step']} of "
            f"{new.step} images, and the learning rate is {new.step / old.step:g} times what it was"
        )


def geometry(trainer: pl.Trainer, batch_size: int) -> Geometry:
    return Geometry(batch_size, trainer.world_size, trainer.accumulate_grad_batches)


def position(trainer: pl.Trainer, start: Position, batch: int) -> Position:
    """Where a run that went on at `start` stands, between two optimiser steps."""
    epochs = trainer.fit_loop.epoch_progress.current
    batches = trainer.fit_loop.epoch_loop.batch_progress.current.processed
    if epochs.processed == epochs.ready:  # this epoch is over, or none has begun
        return Position(epochs.processed)
    if batches >= trainer.num_training_batches:  # all but its validation
        return Position(epochs.processed + 1)
    if epochs.processed != start.epoch:
        start = Position(epochs.processed)
    return Position(epochs.processed, start.samples + (batches - start.batches) * batch, batches)


def translate(checkpoint: dict[str, Any], place: Position, old: Geometry, new: Geometry, images: int) -> Position:
    """Rewrites a Lightning checkpoint's counters, made with `old`, for going on with `new`.

    The samples left of the epoch stay the same, in the same order; batches, optimiser steps and the schedule are
    counted anew so that the epoch ends, and its validation happens, when they are used up. The learning rate keeps its
    ratio to the images of an optimiser step (linear scaling, as at the start of a run).

    Args:
        checkpoint: changed in place.
        images: of one epoch, before the tail that fills no step is dropped.

    Returns the position in new batches.
    """
    whole = images // new.batch
    left = (images - place.samples) // new.batch
    # Up to a whole optimiser step, so that no step accumulates fewer batches than the others.
    batches = min(whole, math.ceil((whole - left) / new.accumulated) * new.accumulated)
    loops = checkpoint["loops"]["fit_loop"]
    epochs = place.epoch
    if epoch_is_left_to_validate(loops):
        epochs, batches = epochs - 1, whole
    steps_per_epoch = math.ceil(whole / new.accumulated)
    steps = epochs * steps_per_epoch + math.ceil(batches / new.accumulated)
    step = loops["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] += steps - step["total"]["completed"]
    _shift(loops["epoch_loop.batch_progress"], total=epochs * whole + batches, current=batches)
    step_now = math.ceil(batches / new.accumulated)
    for counter in (step, loops["epoch_loop.scheduler_progress"]):
        _shift(counter, total=steps, current=step_now)
    for scheduler in checkpoint["lr_schedulers"]:
        scheduler["last_epoch"] = steps
        scheduler["base_lrs"] = [rate * new.step / old.step for rate in scheduler["base_lrs"]]
    checkpoint["global_step"] = steps
    return Position(place.epoch, place.samples, batches if epochs == place.epoch else 0)


def _shift(progress: dict[str, Any], total: int, current: int) -> None:
    """Moves counters to `ready` = total or current, keeping how far `completed` and the others lag behind."""
    for counters, ready in ((progress["total"], total), (progress["current"], current)):
        shift = ready - counters["ready"]
        for name in counters:
            counters[name] += shift
