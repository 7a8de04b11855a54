"""What a command asks of the device, checked before anything is loaded."""

from typing import Any

import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from accelerators import resolve_trainer_flags


def check_score_threshold(threshold: float) -> None:
    """Raises MisconfigurationException for what is no score threshold."""
    if not 0 <= threshold < 1:
        raise MisconfigurationException(f"--score_threshold {threshold:g}: expected a score from 0 up to, but not, 1")


def check_device(trainer: Any) -> None:
    """`device_flags` for a configuration whose objects (strategies, plugins) are not built yet."""
    unbuilt = {"plugins": None} if isinstance(trainer["strategy"], str) else {"plugins": None, "strategy": "auto"}
    device_flags({**trainer.as_dict(), **unbuilt})


def device_flags(trainer: Any) -> dict[str, Any]:
    """The Trainer's flags that concern the device, with what an MLU needs filled in.

    Raises MisconfigurationException, before anything is loaded, if the accelerator asked for is not there.
    """
    names = ("accelerator", "devices", "num_nodes", "strategy", "precision", "plugins")
    flags = resolve_trainer_flags(**{name: trainer[name] for name in names})
    if flags["accelerator"] in ("cuda", "gpu") and not torch.cuda.is_available():
        raise MisconfigurationException(
            f"--accelerator {flags['accelerator']}: no CUDA device is visible to torch {torch.__version__}. "
            "Use --accelerator cpu, or install a torch build with CUDA and check nvidia-smi"
        )
    return flags
