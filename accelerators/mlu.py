"""MLUAccelerator: Cambricon MLUs for a Lightning Trainer."""

from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.types import _DEVICE
from pytorch_lightning.accelerators import Accelerator
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from typing_extensions import override

from . import backend, guidance
from .cnmon import CnmonReader
from .devices import parse_devices


class MLUAccelerator(Accelerator):
    """Accelerator for Cambricon MLU devices, through torch_mlu (https://github.com/Cambricon/torch_mlu).

    Making one asks for an MLU: without torch_mlu or a card it raises and says how to get them. It goes with
    :class:`SingleMLUStrategy` or :class:`MLUDDPStrategy`; a strategy or precision that would run on the CPU, in
    accidental fp32 or crash is refused with what to write instead.

    Args:
        strict: Refuse a strategy that is not one of these in `setup_device` already, before it opens a process group.
            The registry's "mlu" is strict; without it the refusal comes in `setup`.
    """

    def __init__(self, strict: bool = False) -> None:
        backend.require()
        self.strict = strict
        self.strategy: Strategy | None = None  # our strategies enter themselves when Lightning hands them this
        self._cnmon = CnmonReader()

    @override
    def setup_device(self, device: torch.device) -> None:
        """Make `device` the current one.

        Raises:
            MisconfigurationException: If it is not an MLU, or a strategy of Lightning's own is setting it up.
        """
        if device.type != "mlu":
            raise MisconfigurationException(
                f"accelerator='mlu' expected to run on an MLU, but the strategy's device is {device}: it would train "
                f"there, silently.\n{guidance.WHAT_TO_WRITE}"
            )
        if self.strict and self.strategy is None:
            raise guidance.wrong_strategy("one of Lightning's own ('auto' with several devices is DDPStrategy)", device)
        backend.device_module().set_device(device)

    @override
    def setup(self, trainer: "pl.Trainer") -> None:
        if trainer.strategy is not self.strategy:
            raise guidance.wrong_strategy(type(trainer.strategy).__name__, trainer.strategy.root_device)
        guidance.refuse_precision(trainer.precision_plugin)
        # Lightning's own start-up line knows GPUs and TPUs only
        assert self.strategy is not None  # it is the trainer's
        name = backend.device_module().get_device_name(self.strategy.root_device)
        guidance.warn_of_silence()
        rank_zero_info(f"MLU available: True, used: {trainer.num_devices} x {name}")
        backend.release_cache()

    @override
    def get_device_stats(self, device: _DEVICE) -> dict[str, Any]:
        """The allocator's numbers (torch.mlu.memory_stats) and what cnmon says, for DeviceStatsMonitor."""
        device = torch.device(device)
        ordinal = backend.device_module().current_device() if device.index is None else device.index
        stats = backend.device_module().memory_stats(device)
        return {**{key: n for key, n in stats.items() if isinstance(n, (int, float))}, **self._cnmon(ordinal)}

    @override
    def teardown(self) -> None:
        backend.release_cache()

    @staticmethod
    @override
    def parse_devices(devices: int | str | list[int]) -> list[int]:
        """Ordinals for a count (8, "8"), all ("auto", -1, "-1") or a choice ("0,2", [0, 2])."""
        return parse_devices(devices, backend.device_count())

    @staticmethod
    @override
    def get_parallel_devices(devices: list[int]) -> list[torch.device]:
        backend.load()  # before it, torch knows no device type "mlu"
        return [torch.device("mlu", ordinal) for ordinal in devices]

    @staticmethod
    def get_device() -> str:
        """The device type's name in torch."""
        return "mlu"

    @staticmethod
    @override
    def auto_device_count() -> int:
        return backend.device_count()

    @staticmethod
    @override
    def is_available() -> bool:
        """Whether an MLU can be used here. False without torch_mlu; never raises."""
        return backend.is_available()

    @staticmethod
    @override
    def name() -> str:
        return "mlu"

    @classmethod
    @override
    def register_accelerators(cls, accelerator_registry: Any) -> None:
        accelerator_registry.register(cls.name(), cls, description="Cambricon MLU through torch_mlu", strict=True)
