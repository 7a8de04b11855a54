"""SaveCheck: no checkpoint of a state that cannot go on replaces a good one."""

from typing import Any

import pytorch_lightning as pl

from checkpoints.finite import broken_tensors, in_words
from training.losses import NonFiniteLossError
from training.ranks import gathered
from training.replaying import advice


class NonFiniteWeightsError(NonFiniteLossError):
    """A state that was to be saved is not finite; the message gives the steps and the tensors."""


class SaveCheck:
    """Looks through every state that is to be saved: a gradient can overflow in a step whose loss is finite.

    It costs a fused reduction and a read of the device for each save, none for a step.
    """

    def __init__(self) -> None:
        self.step: int | None = None  # the last at which the state was known to be finite

    def __call__(self, checkpoint: dict[str, Any], trainer: pl.Trainer | None = None) -> None:
        """Raises NonFiniteWeightsError on all ranks if the content of `checkpoint` is broken on any; all must call."""
        broken = list(dict.fromkeys(name for of_rank in gathered(broken_tensors(checkpoint)) for name in of_rank))
        step = checkpoint["global_step"]
        if broken:
            raise NonFiniteWeightsError(self._told(broken, step) + advice(trainer, step))
        self.step = step

    def _told(self, broken: list[str], step: int) -> str:
        first = "the beginning" if self.step is None else f"step {self.step}, where all was finite,"
        return (
            f"after step {step}, {in_words(broken)}: it broke between {first} and step {step}. Nothing was "
            "saved, the checkpoints before are as they were: go on from them with a lower --model.learning_rate, "
            "--trainer.gradient_clip_val 10, or --max_skipped_steps K, which leaves out up to K steps whose gradients "
            "are not finite"
        )
