"""The Trainer flags to use on this machine: Lightning's short ones, turned into what runs on an MLU."""

import os
import sys
from collections.abc import Iterable
from typing import Any, Literal

import torch.distributed as dist
from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning.plugins import Precision
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from . import backend, guidance
from .mlu import MLUAccelerator
from .precision import MLUMixedPrecision
from .strategies import MLUDDPStrategy, SingleMLUStrategy
from .strategy_base import MLUStrategy

MIXED: dict[Any, Literal["16-mixed", "bf16-mixed"]] = {
    16: "16-mixed",
    "16": "16-mixed",
    "16-mixed": "16-mixed",
    "bf16": "bf16-mixed",
    "bf16-mixed": "bf16-mixed",
}
# Lightning's names for DDP -> the arguments of MLUDDPStrategy
DDP_NAMES: dict[str, dict[str, Any]] = {
    f"ddp{start}{unused}": {
        **({"start_method": "spawn"} if start else {}),
        **({"find_unused_parameters": unused.endswith("true")} if unused else {}),
    }
    for start in ("", "_spawn")
    for unused in ("", "_find_unused_parameters_true", "_find_unused_parameters_false")
}


def resolve_trainer_flags(
    accelerator: Any = "auto",
    devices: Any = "auto",
    num_nodes: int = 1,
    strategy: Any = "auto",
    precision: Any = None,
    plugins: Any = None,
) -> dict[str, Any]:
    """The same six flags for ``Trainer(**flags)``, with what an MLU needs filled in.

    - ``accelerator="auto"`` becomes "mlu" where one is present; every other device's flags come back unchanged.
    - ``strategy`` "auto", "ddp" or another DDP name becomes a SingleMLUStrategy or an MLUDDPStrategy.
    - ``precision`` "16-mixed" or "bf16-mixed" becomes an MLUMixedPrecision in ``plugins``.

    Raises MisconfigurationException where an MLU is asked for and there is none, or a flag has no meaning on one.
    """
    flags = {
        "accelerator": accelerator,
        "devices": devices,
        "num_nodes": num_nodes,
        "strategy": strategy,
        "precision": precision,
        "plugins": plugins,
    }
    if not _wants_mlu(accelerator, strategy):
        return flags
    backend.require()
    count = len(MLUAccelerator.parse_devices(devices))
    flags["accelerator"] = "mlu" if isinstance(accelerator, str) else accelerator
    flags["strategy"] = _strategy(strategy, count, num_nodes)
    flags["precision"], flags["plugins"] = _precision(precision, plugins)
    return flags


def _wants_mlu(accelerator: Any, strategy: Any) -> bool:
    if accelerator == "mlu" or isinstance(accelerator, MLUAccelerator):
        return True
    if accelerator != "auto":
        return False
    if isinstance(strategy, MLUStrategy) or (isinstance(strategy, str) and strategy.startswith("mlu_")):
        return True
    if backend.is_available():
        return True
    if backend.is_installed():  # a server with MLUs that quietly trains on its CPU is the worst of answers
        rank_zero_warn(
            f"accelerator='auto' does not use an MLU although torch_mlu is here. {backend.unavailable_reason()}"
        )
    return False


def _strategy(strategy: Any, count: int, num_nodes: int) -> Strategy | str:
    if isinstance(strategy, MLUStrategy) or (isinstance(strategy, str) and strategy.startswith("mlu_")):
        return strategy
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    if name == "auto":
        single = count == 1 and num_nodes == 1 and not _started_with_others()
        if not single and hasattr(sys, "ps1"):
            raise MisconfigurationException(
                f"{count} MLUs in an interactive session or notebook: its process would have to fork, and an "
                "initialised MLU does not survive a fork. Write devices=1 here, or run a script."
            )
        return SingleMLUStrategy() if single else MLUDDPStrategy()
    if name == "single_device":
        return SingleMLUStrategy()
    if name in DDP_NAMES:
        return MLUDDPStrategy(**DDP_NAMES[name])
    if name.startswith(("ddp_fork", "ddp_notebook")):
        raise MisconfigurationException(
            f"strategy={name!r} forks, and an initialised MLU does not survive a fork. In a notebook use devices=1; in "
            "a script strategy='ddp', or 'ddp_spawn'."
        )
    raise guidance.wrong_strategy(f"strategy={name!r}", "mlu")


def _started_with_others() -> bool:
    """Whether torchrun or SLURM started this process as one of several. They belong together, whatever `devices` says;
    Lightning then checks the numbers."""
    in_slurm = SLURMEnvironment.detect() and int(os.environ.get("SLURM_NTASKS", "1")) > 1
    return dist.is_torchelastic_launched() or in_slurm


def _precision(precision: Any, plugins: Any) -> tuple[Any, Any]:
    mixed = MIXED.get(precision)
    if mixed is None:
        return precision, plugins
    listed = list(plugins) if isinstance(plugins, Iterable) else [] if plugins is None else [plugins]
    given = next((plugin for plugin in listed if isinstance(plugin, Precision)), None)
    if given is not None:
        raise MisconfigurationException(
            f"precision={precision!r} and plugins=[{type(given).__name__}(...)] both set the precision. Give one of "
            "them."
        )
    return None, [*listed, MLUMixedPrecision(mixed)]
