"""Faults that a test plants in the device, by environment variables that name operators (`exp,_softmax`)."""

import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map

WRONG, DEADLY, MISSING = "STANDIN_MLU_WRONG", "STANDIN_MLU_DEADLY", "STANDIN_MLU_NO_KERNEL"
_libraries = []  # a registration lives as long as its library


def plant() -> None:
    for variable, kernel in ((WRONG, _wrong), (DEADLY, _deadly), (MISSING, _missing)):
        for name in filter(None, os.environ.get(variable, "").split(",")):
            library = torch.library.Library("aten", "IMPL")
            library.impl(name, kernel(getattr(torch.ops.aten, name).default), "PrivateUse1")
            _libraries.append(library)


def _wrong(operator: Any) -> Callable:
    """One in a hundred too much."""

    def kernel(*args: Any, **kwargs: Any) -> Any:
        result = operator(*tree_map(_on_cpu, args), **kwargs)
        return (result * 1.01).to("mlu")

    return kernel


def _deadly(operator: Any) -> Callable:
    """Takes the process with it, as a fault of a driver does."""

    def kernel(*args: Any, **kwargs: Any) -> Any:
        os.abort()

    return kernel


def _missing(operator: Any) -> Callable:
    """Has no kernel: computed on the CPU with the real one's warning, or refused with its error."""
    name, told = operator.name(), []

    def kernel(*args: Any, **kwargs: Any) -> Any:
        if os.environ.get("ENABLE_FALLBACK_TO_CPU") in ("0", "OFF", "off"):
            raise NotImplementedError(
                f"The operator '{name}' is not currently implemented for the MLU device. As a temporary fix, you can "
                "set the environment variable `ENABLE_FALLBACK_TO_CPU=1` to use the CPU as a fallback for this op."
            )
        if not told:
            told.append(True)
            warnings.warn(
                f"The operator '{name}' is not currently supported on the MLU backend and will fall back to run on the "
                "CPU. This may have performance implications.",
                stacklevel=2,
            )
        return tree_map(lambda value: value.to("mlu"), operator(*tree_map(_on_cpu, args), **kwargs))

    return kernel


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, torch.Tensor) else value
