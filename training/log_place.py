"""Where a checkpoint stands in the logs of its run: which records a run that goes on from it will write again."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from pytorch_lightning.loggers import Logger


@dataclass(frozen=True)
class LogPlace:
    """A place in a run's logs.

    Args:
        step: optimiser steps done. As Lightning logs the first step as 0, this is the number of the next one.
        epoch: the one to go on in.
        time: until when what was logged is part of the checkpoint's past, in seconds since 1970: when it was saved or,
            of one that goes on with a validation, when that began.
        validates: the run begins with a validation, and logs it again.
    """

    step: int
    epoch: int
    time: float = 0.0
    validates: bool = False

    def is_before(self, step: int, time: float = math.inf) -> bool:
        """Whether a record stays: it will not be written again."""
        return time <= self.time or step < self.step - self.validates

    def epoch_is_before(self, epoch: int, time: float = math.inf) -> bool:
        """`is_before` of a record that tells its epoch only."""
        return time <= self.time or epoch < self.epoch


class ContinuedLogger(Logger, ABC):
    """A logger with one record for all starts of a run."""

    @abstractmethod
    def begin(self) -> None:
        """A run starts at its beginning."""

    @abstractmethod
    def go_on(self, place: LogPlace) -> None:
        """A run goes on from a checkpoint: leaves in the record what was before `place`, and nothing half written."""
