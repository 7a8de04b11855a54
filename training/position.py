"""Where a run stands: the place in the epoch, counted in samples trained, and its translation to other devices.

Lightning counts batches. A batch is another thing on another number of devices, a sample of the epoch's order is not.
"""

import math
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl

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


def geometry(trainer: pl.Trainer, batch_size: int) -> Geometry:
    return Geometry(batch_size, trainer.world_size, trainer.accumulate_grad_batches)


def position(trainer: pl.Trainer, start: Position, batch: int) -> Position:
    """Where a run that went on at `start` stands, between two optimiser steps."""
    epochs = trainer.fit_loop.epoch_progress.current
    epoch = epochs.processed - epoch_was_cut(trainer)
    batches = trainer.fit_loop.epoch_loop.batch_progress.current.processed
    if epoch == epochs.ready:  # this epoch is over, or none has begun
        return Position(epoch)
    if batches >= trainer.num_training_batches:  # all but its validation
        return Position(epoch + 1)
    if epoch != start.epoch:
        start = Position(epoch)
    return Position(epoch, start.samples + (batches - start.batches) * batch, batches)


def epoch_was_cut(trainer: pl.Trainer) -> bool:
    """Whether max_steps, max_time or early stopping ended the fit before the last batch of an epoch. Lightning takes
    such an epoch for over; a run that is extended goes on in it."""
    epochs = trainer.fit_loop.epoch_progress.current
    batches = trainer.fit_loop.epoch_loop.batch_progress
    ended = epochs.processed == epochs.ready > 0
    return ended and not batches.is_last_batch and 0 < batches.current.ready < trainer.num_training_batches


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
