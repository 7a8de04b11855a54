"""The module that PyTorch knows as torch.mlu: it mirrors torch.cuda, most of it through torch.accelerator."""

import contextlib
import os
import types
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from . import amp as amp_module
from .library import _C

Device = torch.device | str | int | None
amp = amp_module

# ---- which devices there are ---------------------------------------------------------------------


def device_count() -> int:
    # Without CNDEV's check, counting devices starts the driver, after which a forked child cannot use it.
    if os.environ.get("PYTORCH_CNDEV_BASED_MLU_CHECK") != "1":
        _C.poison_fork()
    return _C.device_count()


def is_available() -> bool:
    return device_count() > 0


def _is_compiled() -> bool:
    return True


def _is_in_bad_fork() -> bool:
    return _C.is_in_bad_fork()


def is_initialized() -> bool:
    return _C.is_initialised()


def init() -> None:
    _C.use_device()


_lazy_init = init  # the name under which PyTorch calls it


def _ordinal(device: Device) -> int:
    """The checked ordinal of a device, a string, a number or (None) the current device."""
    if device is None:
        return current_device()
    if isinstance(device, int):
        return _C.check_ordinal(device)
    device = torch.device(device)
    if device.type != "mlu":
        raise ValueError(f"Expected an mlu device, but got: {device}")
    return current_device() if device.index is None else _C.check_ordinal(device.index)


def set_device(device: Device) -> None:
    torch.accelerator.set_device_index(_ordinal(device))


def current_device() -> int:
    init()
    return torch.accelerator.current_device_index()


def synchronize(device: Device = None) -> None:
    init()
    torch.accelerator.synchronize(_ordinal(device))


class device:
    """Context manager: makes a device current. None and -1 change nothing."""

    def __init__(self, device: Device):
        self.index = -1 if device is None or device == -1 else _ordinal(device)

    def __enter__(self) -> None:
        self.previous = current_device()
        if self.index >= 0:
            set_device(self.index)

    def __exit__(self, *error) -> None:
        set_device(self.previous)


class device_of(device):
    """Context manager: makes the device of a tensor current, if it is on an MLU."""

    def __init__(self, tensor: torch.Tensor):
        super().__init__(tensor.device if tensor.device.type == "mlu" else None)


# ---- what they can do ----------------------------------------------------------------------------


@dataclass(frozen=True)
class DeviceProperties:
    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int
    physical_index: int


def get_device_capability(device: Device = None) -> tuple[int, int]:
    """STANDIN_MLU_CAPABILITY, as "5.0"; below 5 there is no bfloat16."""
    if device is not None:
        _ordinal(device)
    major, minor = os.environ.get("STANDIN_MLU_CAPABILITY", "5.0").split(".")
    return int(major), int(minor)


def get_device_name(device: Device = None) -> str:
    return f"MLU stand-in (host memory, tests only, capability {'.'.join(map(str, get_device_capability(device)))})"


def get_device_properties(device: Device = None) -> DeviceProperties:
    index = _ordinal(device)
    return DeviceProperties(
        get_device_name(index), *get_device_capability(index), mem_get_info(index)[1], 1, _C.visible_devices()[index]
    )


def is_bf16_supported() -> bool:
    return get_device_capability()[0] >= 5


def get_amp_supported_dtype() -> list[torch.dtype]:
    """As torch_mlu's: whatever the card. `is_bf16_supported` is the one to ask."""
    return [torch.float16, torch.bfloat16]


def get_arch_list() -> list[str]:
    return ["standin"]


# ---- memory --------------------------------------------------------------------------------------


def empty_cache() -> None:
    torch.accelerator.empty_cache()


def memory_stats(device: Device = None) -> dict[str, int]:
    return torch.accelerator.memory_stats(_ordinal(device))


def memory_allocated(device: Device = None) -> int:
    return torch.accelerator.memory_allocated(_ordinal(device))


def max_memory_allocated(device: Device = None) -> int:
    return torch.accelerator.max_memory_allocated(_ordinal(device))


def memory_reserved(device: Device = None) -> int:
    return torch.accelerator.memory_reserved(_ordinal(device))


def max_memory_reserved(device: Device = None) -> int:
    return torch.accelerator.max_memory_reserved(_ordinal(device))


def reset_peak_memory_stats(device: Device = None) -> None:
    torch.accelerator.reset_peak_memory_stats(_ordinal(device))


def reset_accumulated_memory_stats(device: Device = None) -> None:
    torch.accelerator.reset_accumulated_memory_stats(_ordinal(device))


def mem_get_info(device: Device = None) -> tuple[int, int]:
    """(free, total) in bytes."""
    return tuple(torch.accelerator.get_memory_info(_ordinal(device)))


def memory_summary(device: Device = None, abbreviated: bool = False) -> str:
    return "\n".join(f"{name}: {value}" for name, value in sorted(memory_stats(device).items()))


# ---- random numbers ------------------------------------------------------------------------------


class _DefaultGenerators:
    """torch.mlu.default_generators[index]"""

    def __len__(self) -> int:
        return _C.device_count()

    def __getitem__(self, index: int) -> torch.Generator:
        if not 0 <= index < len(self):
            raise IndexError(f"no MLU {index}: this process sees {len(self)}")
        return _C.default_generator(index)


default_generators = _DefaultGenerators()


def manual_seed(seed: int) -> None:
    """Seeds the current device. Like CUDA's, seeding does not start the device."""
    _C.default_generator(torch.accelerator.current_device_index()).manual_seed(int(seed))


def manual_seed_all(seed: int) -> None:
    for generator in default_generators:
        generator.manual_seed(int(seed))


def seed() -> None:
    default_generators[current_device()].seed()


def seed_all() -> None:
    manual_seed_all(torch.Generator().seed())


def initial_seed() -> int:
    return default_generators[current_device()].initial_seed()


def get_rng_state(device: Device = "mlu") -> torch.Tensor:
    init()
    return default_generators[_ordinal(device)].get_state()


def get_rng_state_all() -> list[torch.Tensor]:
    return [get_rng_state(index) for index in range(_C.device_count())]


def set_rng_state(new_state: torch.Tensor, device: Device = "mlu") -> None:
    init()
    default_generators[_ordinal(device)].set_state(new_state.cpu())


def set_rng_state_all(new_states: Iterable[torch.Tensor]) -> None:
    for index, state in enumerate(new_states):
        set_rng_state(state, index)


# ---- streams and events --------------------------------------------------------------------------


class Stream(torch.Stream):
    def __new__(cls, device: Device = None, priority: int = 0, **kwargs):
        if kwargs:  # stream_id, device_index, device_type: an existing stream
            return super().__new__(cls, priority=priority, **kwargs)
        return super().__new__(cls, torch.device("mlu", _ordinal(device)), priority=priority)


def Event(enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> torch.Event:
    # A function, as a subclass of torch.Event loses elapsed_time.
    return torch.Event("mlu", enable_timing=enable_timing, blocking=blocking, interprocess=interprocess)


def current_stream(device: Device = None) -> torch.Stream:
    init()
    return torch.accelerator.current_stream(_ordinal(device))


def default_stream(device: Device = None) -> torch.Stream:
    init()
    return Stream(stream_id=0, device_index=_ordinal(device), device_type=_DEVICE_TYPE)


def set_stream(stream: torch.Stream) -> None:
    torch.accelerator.set_stream(stream)


@contextlib.contextmanager
def stream(stream: torch.Stream | None):
    """Makes a stream current for a block; None changes nothing."""
    if stream is None:
        yield
        return
    before = current_stream()
    set_stream(stream)
    try:
        yield stream
    finally:
        set_stream(before)


_DEVICE_TYPE = int(torch._C._autograd.DeviceType.PrivateUse1.value)


class MLUGraph:
    def __init__(self, *args, **kwargs):
        raise NotImplementedError("The stand-in MLU device has no graphs.")


random = types.SimpleNamespace(
    manual_seed=manual_seed, manual_seed_all=manual_seed_all, seed_all=seed_all, initial_seed=initial_seed,
    get_rng_state=get_rng_state, set_rng_state=set_rng_state,
    get_rng_state_all=get_rng_state_all, set_rng_state_all=set_rng_state_all,
)  # fmt: skip
