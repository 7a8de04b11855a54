"""What the strategies for one MLU and for several have in common."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

import torch
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from typing_extensions import override

from . import backend, guidance, rng
from .mlu import MLUAccelerator


# torch 2.4 has it under cuda alone; mypy takes no base class out of getattr.
class MLUOutOfMemoryError(getattr(torch, "OutOfMemoryError", torch.cuda.OutOfMemoryError)):  # type: ignore[misc]
    """An MLU's out-of-memory error in words that Lightning's batch-size finder recognises."""


class MLUStrategy(Strategy):
    """Mixed into a Lightning strategy, makes it fit for MLUs:

    - only with MLUAccelerator, and only with a precision that really runs there (checked when the Trainer is made);
    - checkpoints hold CPU tensors, so they open where torch_mlu is absent, and each rank's MLU random state;
    - the sanity check leaves the MLU's random state as it found it;
    - an MLU out of memory is recognised by the batch-size finder;
    - it can be sent to a spawned process, which needs torch_mlu before it can read a device.
    """

    _rng_before_sanity_check: torch.Tensor | None = None

    @Strategy.accelerator.setter
    def accelerator(self, accelerator: Any) -> None:
        if not isinstance(accelerator, MLUAccelerator):
            raise MisconfigurationException(
                f"{type(self).__name__} runs on MLUs, but the accelerator is {type(accelerator).__name__} "
                "(accelerator='auto' in Lightning never looks for an MLU). Write Trainer(accelerator='mlu', ...), or "
                "leave the strategy out on other devices."
            )
        accelerator.strategy = self
        Strategy.accelerator.fset(self, accelerator)

    @Strategy.precision_plugin.setter
    def precision_plugin(self, precision: Any) -> None:
        if precision is not None:
            guidance.refuse_precision(precision)
        Strategy.precision_plugin.fset(self, precision)

    @override
    def setup_environment(self) -> None:
        super().setup_environment()
        supported = bool(backend.device_module().is_bf16_supported())
        guidance.refuse_bf16_without_support(self.precision_plugin, self.root_device, supported)

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        if "optimizer_states" in checkpoint:  # a training state, not weights alone
            checkpoint[rng.CHECKPOINT_KEY] = self._rng_states()
        if self.is_global_zero:
            checkpoint = _on_cpu(checkpoint)
        super().save_checkpoint(checkpoint, filepath, storage_options)

    @override
    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        super().load_optimizer_state_dict(checkpoint)
        rng.restore(checkpoint, self.global_rank, self.root_device)

    def _rng_states(self) -> list[torch.Tensor | None]:
        """Every rank's MLU random state; in an emergency save, which other ranks may not join, this rank's alone."""
        module = self.lightning_module
        if module is not None and module._trainer is not None and module.trainer.interrupted:
            states: list[torch.Tensor | None] = [None] * self.world_size
            states[self.global_rank] = rng.get_state(self.root_device)
            return states
        return list(rng.gather_states(self.root_device))

    @override
    def barrier(self, name: str | None = None) -> None:
        """Wait for the other ranks. The Trainer's barrier "run-stage" is its last call before the sanity check."""
        self.wait_for_all()
        if name == "run-stage" and self.lightning_module.trainer.state.fn == TrainerFn.FITTING:
            self._rng_before_sanity_check = rng.get_state(self.root_device)

    def wait_for_all(self) -> None:
        """Return when every rank has come here."""

    @override
    def on_validation_end(self) -> None:
        super().on_validation_end()
        if self.lightning_module.trainer.sanity_checking and self._rng_before_sanity_check is not None:
            rng.set_state(self._rng_before_sanity_check, self.root_device)

    @override
    def batch_to_device(self, *args: Any, **kwargs: Any) -> Any:
        with recognisable_out_of_memory():
            return super().batch_to_device(*args, **kwargs)

    @override
    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        with recognisable_out_of_memory():
            return super().training_step(*args, **kwargs)

    @override
    def backward(self, *args: Any, **kwargs: Any) -> Any:
        with recognisable_out_of_memory():
            return super().backward(*args, **kwargs)

    @override
    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        with recognisable_out_of_memory():
            return super().optimizer_step(*args, **kwargs)

    @override
    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        with recognisable_out_of_memory():
            return super().validation_step(*args, **kwargs)

    @override
    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        with recognisable_out_of_memory():
            return super().test_step(*args, **kwargs)

    @override
    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        with recognisable_out_of_memory():
            return super().predict_step(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # the state holds devices, which cannot be read before torch_mlu is imported: `_blank` imports it
        return _blank, (type(self),), self.__getstate__()


def _blank(cls: type[MLUStrategy]) -> MLUStrategy:
    backend.load()
    return cls.__new__(cls)


@contextmanager
def recognisable_out_of_memory() -> Iterator[None]:
    """Lightning knows an out-of-memory error by the words "CUDA" and "out of memory"; say them for an MLU's."""
    try:
        yield
    except MLUOutOfMemoryError:
        raise
    except RuntimeError as error:
        text = str(error)
        if "out of memory" not in text or "MLU" not in text:
            raise
        raise MLUOutOfMemoryError(
            f"{text}\n(an MLU error, worded as Lightning knows one: CUDA out of memory)"
        ) from error


def _on_cpu(value: Any) -> Any:
    """The same containers with every tensor on the CPU; `torch.load` then needs no torch_mlu and no map_location."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu() if value.device.type == "mlu" else value
    if isinstance(value, dict):
        moved = copy(value)  # keeps the class and a state dict's _metadata
        for key, entry in value.items():
            moved[key] = _on_cpu(entry)
        return moved
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_on_cpu, value))
    if type(value) in (list, tuple):
        return type(value)(map(_on_cpu, value))
    return value
