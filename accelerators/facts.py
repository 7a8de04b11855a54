"""What is here: versions, devices, switches and variables, as `python -m accelerators` prints them."""

import importlib.metadata
import os
import platform
import shutil
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist

from . import __version__, backend
from .flags import resolve_trainer_flags
from .process_group import ERROR_HANDLING, TEAR_DOWN

VARIABLES = (
    *backend.VISIBLE_DEVICES,
    "PYTORCH_CNDEV_BASED_MLU_CHECK",
    "PYTORCH_MLU_ALLOC_CONF",
    "TORCH_DEVICE_BACKEND_AUTOLOAD",
    "ENABLE_FALLBACK_TO_CPU",
    "ENABLE_MLU_OVERFLOW_CHECK",
    "CNCL_MLULINK_DISABLE",
    "CNCL_P2P_LEVEL",
    "CNCL_SHM_DISABLE",
    *ERROR_HANDLING,
    "TORCH_CNCL_HEARTBEAT_TIMEOUT_SEC",
    "TORCH_CNCL_DESYNC_DEBUG",
    "MASTER_ADDR",
    "MASTER_PORT",
    "WORLD_SIZE",
    "NODE_RANK",
    "LOCAL_RANK",
)


def facts() -> dict[str, str]:
    """What is here, as printed; a fact that cannot be asked for says so instead of stopping the others."""
    found = {
        "accelerators": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pytorch_lightning": pl.__version__,
        "torch_mlu": _torch_mlu_version(),
        "MLUs": str(backend.device_count()),
    }
    if backend.is_available():
        for ordinal in range(backend.device_count()):
            found[f"  mlu:{ordinal}"] = _device(ordinal)
        found["bf16"] = (
            "yes" if backend.device_module().is_bf16_supported() else "no (capability below 5): use 16-mixed"
        )
        found["cncl"] = "registered" if dist.is_backend_available("cncl") else "missing: one MLU only"
        found["a lost rank"] = _lost_rank()
        found["TF32"] = _tf32()
        found["torch.compile"] = "inductor" if backend.can_compile() else "not on MLUs: torch_mlu has no inductor"
    found["CUDA devices"] = str(torch.cuda.device_count())
    found["cnmon"] = shutil.which("cnmon") or "not found: device statistics show memory alone"
    found["variables"] = (
        ", ".join(f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ) or "none set"
    )
    found["accelerator=auto"] = _auto()
    return found


def _torch_mlu_version() -> str:
    if not backend.is_installed():
        return "not installed"
    try:
        backend.load()
    except ImportError as error:
        return f"does not import: {error.__cause__}"
    import torch_mlu  # only to ask for its version: `load` has imported it

    return str(getattr(torch_mlu, "__version__", None) or importlib.metadata.version("torch_mlu"))


def _device(ordinal: int) -> str:
    try:
        free, total = backend.device_module().mem_get_info(ordinal)
        memory = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    except (RuntimeError, AttributeError) as error:
        memory = f"memory unknown: {error}"
    return f"{backend.device_module().get_device_name(ordinal)}, {memory}"


def _lost_rank() -> str:
    chosen = [f"{name}={os.environ[name]}" for name in ERROR_HANDLING if name in os.environ]
    return (
        f"as {', '.join(chosen)}"
        if chosen
        else f"ends the others ({ERROR_HANDLING[0]}={TEAR_DOWN}, set when they join)"
    )


def _tf32() -> str:
    switches: dict[str, Any] = {"matrix products": torch.get_float32_matmul_precision() != "highest"}
    for what, name in (("convolutions", "cnnl"), ("other operators", "mlu.custom")):
        module: Any = torch.backends
        for part in name.split("."):
            module = getattr(module, part, None)
        switches[what] = getattr(module, "allow_tf32", None)
    words = {True: "yes", False: "no", None: "unknown"}
    return ", ".join(f"{what} {words[on]}" for what, on in switches.items())


def _auto() -> str:
    flags = resolve_trainer_flags()
    if flags["accelerator"] == "auto":
        flags["accelerator"] = (
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
        return flags["accelerator"]
    return f"mlu, strategy {type(flags['strategy']).__name__}"
