"""Which samples a process takes, and in which order: a function of (seed, epoch) alone, for any number of processes.

All samplers are DistributedSamplers by class, so Lightning leaves them as they are and tells them the epoch. Those that
are SequentialSamplers too it leaves as they are with `overfit_batches`.
"""

from collections.abc import Iterator
from itertools import repeat

import numpy as np
from torch.utils.data import DistributedSampler, SequentialSampler


class TrainingSampler(DistributedSampler):
    """Yields (epoch, index) keys. Step k of W processes with batch B takes samples k*W*B .. (k+1)*W*B of the epoch's
    order, rank r the r-th slice of B; the tail that fills no step is dropped.

    Args:
        start: (epoch, samples) where training goes on: that epoch comes without its first `samples`, which cost
            nothing to skip. The length stays that of a whole epoch.

    Raises:
        ValueError: fewer samples than one step takes.
    """

    def __init__(
        self,
        indices: np.ndarray,
        batch_size: int,
        seed: int,
        num_replicas: int = 1,
        rank: int = 0,
        start: tuple[int, int] = (0, 0),
    ) -> None:
        self.indices = indices
        self.batch_size = batch_size
        self.seed = seed
        self.num_replicas = num_replicas
        self.rank = rank
        self.start_epoch, self.start_samples = start
        # Not 0: workers begin to load before Lightning tells the epoch.
        self.epoch = self.start_epoch
        self.num_steps = len(indices) // (batch_size * num_replicas)
        if self.num_steps == 0:
            raise ValueError(
                f"{len(indices)} training images do not fill one step of {num_replicas} device(s) x batch "
                f"{batch_size}; use a smaller --data.batch_size or fewer --devices"
            )

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self._epoch_of_order())).permutation(self.indices)
        order = order[self.start_samples if self.epoch == self.start_epoch else 0 :]
        step = self.num_replicas * self.batch_size
        steps = order[: len(order) // step * step].reshape(-1, self.num_replicas, self.batch_size)
        # Key by key: of a million samples the list alone would take 100 MB at every start of an epoch.
        return zip(repeat(self.epoch), map(int, steps[:, self.rank].ravel()))

    def __len__(self) -> int:
        return self.num_steps * self.batch_size

    def _epoch_of_order(self) -> int:
        return self.epoch


class OverfittingSampler(TrainingSampler, SequentialSampler):  # type: ignore[misc]  # keys are (epoch, index)
    """Every epoch in the order of the first, so that a few batches are the same ones; augmented anew in each epoch."""

    def _epoch_of_order(self) -> int:
        return 0


class EvaluationSampler(DistributedSampler, SequentialSampler):
    """Yields every index once over all processes: rank r takes r, r + W, r + 2W ...

    Ranks left one short yield a None at the end, which is no image (the collate function drops it): so every rank runs
    the same number of batches and joins every collective, even one without any image.
    """

    def __init__(self, length: int, num_replicas: int = 1, rank: int = 0) -> None:
        self.length = length
        self.num_replicas = num_replicas
        self.rank = rank

    def __iter__(self) -> Iterator[int | None]:  # type: ignore[override]  # None: no image
        own: list[int | None] = list(range(self.rank, self.length, self.num_replicas))
        return iter(own + [None] * (len(self) - len(own)))

    def __len__(self) -> int:
        return -(-self.length // self.num_replicas)

    def set_epoch(self, epoch: int) -> None:
        """Evaluation has one order."""
