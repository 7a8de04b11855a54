"""torch_mlu, Cambricon's out-of-tree PyTorch backend: found without importing it, imported when an MLU is asked for.

PyTorch does not load it by itself, and `torch.device("mlu", 0)` is an error until it is imported. Nothing is cached
here: a forked or spawned process asks again.
"""

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

ELSEWHERE = (
    "To run without an MLU, choose another device: `--accelerator cpu` or `--accelerator cuda` on the command line, "
    'Trainer(accelerator="cpu") or Trainer(accelerator="cuda") in a script.'
)


def is_installed() -> bool:
    """Whether `import torch_mlu` would find something. Imports nothing."""
    if "torch_mlu" in sys.modules:
        return sys.modules["torch_mlu"] is not None
    try:
        return importlib.util.find_spec("torch_mlu") is not None
    except (ImportError, ValueError):
        return False


def device_module() -> Any:
    """`torch.mlu`, which `import torch_mlu` puts there and torch's annotations do not know."""
    return getattr(torch, "mlu")  # noqa: B009


def load() -> ModuleType:
    """Import torch_mlu and return `torch.mlu`; ImportError says what is missing and what to do."""
    if not is_installed():
        raise ModuleNotFoundError(
            "MLU was asked for, but torch_mlu (Cambricon's PyTorch backend) is not installed in this Python.\n"
            "It is not on the public package index. Start one of Cambricon's PyTorch containers, or install "
            f"the torch_mlu wheel for your torch (here {torch.__version__}): see accelerators/README.md.\n"
            f"{ELSEWHERE}",
            name="torch_mlu",
        )
    try:
        importlib.import_module("torch_mlu")
    except Exception as error:  # a wheel for another torch fails in many ways: ImportError, OSError, RuntimeError
        raise ImportError(
            f"torch_mlu is installed but does not import with torch {torch.__version__}: "
            f"{type(error).__name__}: {error}\n"
            "Use the torch that this torch_mlu wheel was built for (in Cambricon's container the one it came with: "
            f"`pip list` must show no second one), and check that the driver is visible.\n{ELSEWHERE}",
            name="torch_mlu",
        ) from error
    return device_module()


def is_available() -> bool:
    """Whether an MLU can be used here. Never raises, and may be asked before a fork."""
    try:
        mlu = load()
        with _asking_cndev():
            return bool(mlu.is_available())
    except Exception:
        return False


def device_count() -> int:
    """How many MLUs this process sees; 0 without torch_mlu, a driver or a card."""
    try:
        mlu = load()
        with _asking_cndev():
            return int(mlu.device_count())
    except Exception:
        return 0


def unavailable_reason() -> str | None:
    """Why no MLU can be used here, with what to do; None where one can."""
    try:
        load()
    except ImportError as error:
        return str(error)
    if is_available():
        return None
    shown = {name: os.environ[name] for name in VISIBLE_DEVICES if name in os.environ}
    return (
        "torch_mlu is installed, but it sees no MLU (torch.mlu.is_available() is False).\n"
        f"Check that `cnmon` lists the cards, that the container was started with the devices, and the variables that "
        f"hide cards: {shown or 'none of ' + ', '.join(VISIBLE_DEVICES) + ' is set'}.\n{ELSEWHERE}"
    )


def require() -> ModuleType:
    """`torch.mlu`, or the error a user should read."""
    reason = unavailable_reason()
    if reason is not None:
        raise MisconfigurationException(reason)
    return device_module()


def can_compile() -> bool:
    """Whether `torch.compile` has a backend on an MLU: not every torch_mlu brings its inductor. Imports nothing."""
    try:
        return is_installed() and importlib.util.find_spec("torch_mlu._inductor") is not None
    except (ImportError, ValueError):
        return False


# torch_mlu reads the first of these that is set
VISIBLE_DEVICES = ("CN_VISIBLE_DEVICES", "MLU_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")


def release_cache() -> None:
    """Hand cached blocks back to the device, if torch_mlu is in use in this process."""
    mlu = getattr(torch, "mlu", None) if "torch_mlu" in sys.modules else None
    if mlu is not None and mlu.is_initialized():
        mlu.empty_cache()


@contextmanager
def _asking_cndev() -> Iterator[None]:
    """Make torch_mlu count cards through CNDEV, which leaves the runtime uninitialised and so a later fork possible."""
    before = os.environ.get("PYTORCH_CNDEV_BASED_MLU_CHECK")
    os.environ.setdefault("PYTORCH_CNDEV_BASED_MLU_CHECK", "1")
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTORCH_CNDEV_BASED_MLU_CHECK"]
