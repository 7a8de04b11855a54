"""The optimiser and the learning rate of a run, from the hyper-parameters of its module."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from ssd.model import SSD300
from ssd.parameters import parameter_groups
from training.schedule import RecipeSchedule

OPTIMIZER_STATES = {"sgd": 1, "adamw": 2}  # numbers kept of each weight
OPTIMIZERS = tuple(OPTIMIZER_STATES)
SCHEDULES = ("milestones", "cosine")
REFERENCE_BATCH = 32  # images; the recipe's learning rate is given for this global batch and scales with it


def make_optimizer(hparams: Any, model: SSD300, trainer: pl.Trainer) -> torch.optim.Optimizer:
    """With the recipe's parameter groups and linear scaling. AdamW's first beta is `momentum`."""
    rate = hparams.learning_rate * _global_batch(trainer) / REFERENCE_BATCH
    groups = parameter_groups(model, hparams.weight_decay)
    # Weight decay for groups that a callback adds later (BackboneFinetuning); ours say their own.
    decay = hparams.weight_decay
    if hparams.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=(hparams.momentum, 0.999), weight_decay=decay)
    return torch.optim.SGD(groups, lr=rate, momentum=hparams.momentum, weight_decay=decay)


def make_schedule(hparams: Any, optimizer: torch.optim.Optimizer, trainer: pl.Trainer) -> RecipeSchedule:
    """Raises MisconfigurationException for a cosine without an end."""
    cosine = hparams.schedule == "cosine"
    steps = _steps_per_epoch(trainer) if cosine or hparams.milestones else None
    last = _last_step(trainer, steps or 0) if cosine else None
    milestones = [] if cosine else hparams.milestones
    return RecipeSchedule(optimizer, steps, hparams.warmup_steps, milestones, hparams.gamma, last)


def _global_batch(trainer: pl.Trainer) -> int:
    """Images per optimiser step over all devices."""
    batch_size = getattr(getattr(trainer, "datamodule", None), "batch_size", None)
    if batch_size is None:
        trainer.fit_loop.setup_data()
        batch_size = trainer.train_dataloader.batch_size
    return batch_size * trainer.world_size * trainer.accumulate_grad_batches


def _steps_per_epoch(trainer: pl.Trainer) -> int:
    trainer.fit_loop.setup_data()  # so the next line is known
    if trainer.limit_train_batches == 0:
        return 1  # Lightning trains on nothing then, and does not count the batches
    return math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)


def _last_step(trainer: pl.Trainer, steps_per_epoch: int) -> int:
    """Optimiser steps of the whole run, by max_epochs or max_steps."""
    ends = [trainer.max_steps] if trainer.max_steps > 0 else []
    ends += [trainer.max_epochs * steps_per_epoch] if (trainer.max_epochs or -1) > 0 else []
    if not ends:
        raise MisconfigurationException(
            "--model.schedule cosine: it ends where the run does, so that it needs --max_epochs or --trainer.max_steps"
        )
    return min(ends)
