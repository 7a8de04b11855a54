"""RecipeSchedule: the published recipe's learning rate, stepped with the optimiser; it can be placed by epoch."""

import math
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class RecipeSchedule(LambdaLR):
    """Linear warm-up from 0 over `warmup_steps`, then the rate times `gamma` from each milestone epoch on, or, given a
    `last_step`, falling to 0 there along half a cosine (Loshchilov and Hutter, 2017, without restarts).

    Args:
        steps_per_epoch: optimiser steps in an epoch of this run; None where nothing is placed by epochs.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        steps_per_epoch: int | None,
        warmup_steps: int,
        milestones: Sequence[int],
        gamma: float,
        last_step: int | None = None,
    ) -> None:
        if milestones and steps_per_epoch is None:
            raise ValueError(f"milestones {list(milestones)} are epochs: give steps_per_epoch to place them")
        self.steps_per_epoch = steps_per_epoch

        def factor(step: int) -> float:
            warmup = min(1.0, step / warmup_steps) if warmup_steps else 1.0
            if last_step is not None:
                done = (step - warmup_steps) / max(1, last_step - warmup_steps)
                warmup *= (1 + math.cos(math.pi * min(max(done, 0.0), 1.0))) / 2
            return warmup * gamma ** sum(step >= epoch * (steps_per_epoch or 0) for epoch in milestones)

        super().__init__(optimizer, factor)

    def get_lr(self) -> list[Any]:
        """As LambdaLR's; groups added since (Lightning's BackboneFinetuning) keep the rates that they are given."""
        rates = super().get_lr()
        return rates + [group["lr"] for group in self.optimizer.param_groups[len(rates) :]]

    def state_dict(self) -> dict[str, Any]:
        """As LambdaLR's; the length of an epoch belongs to the run."""
        return {key: value for key, value in super().state_dict().items() if key != "steps_per_epoch"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As LambdaLR's. A state with `epoch` stands for the beginning of that epoch, whatever its number of steps, and
        the optimiser gets the rate of that place.

        So states from elsewhere are placed (the published recipe's, see checkpoints/published.py): where an epoch had
        another number of steps, because loaders, devices or batch sizes differ, steps would move every later milestone.
        """
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "epoch"})
        if "epoch" not in state_dict:
            return
        if self.steps_per_epoch is not None:
            self.last_epoch = state_dict["epoch"] * self.steps_per_epoch
        self.set_rates()

    def set_rates(self) -> None:
        """Gives the optimiser the rates of the place where the schedule stands."""
        self._last_lr = [
            base * factor(self.last_epoch) for base, factor in zip(self.base_lrs, self.lr_lambdas, strict=True)
        ]
        # Not of groups added since, as above.
        for group, base, rate in zip(self.optimizer.param_groups, self.base_lrs, self._last_lr, strict=False):
            group["initial_lr"], group["lr"] = base, rate
