"""Faults that a test plants in the device, by environment variables that name operators (`exp,_softmax`)."""

import os
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map

WRONG, DEADLY = "STANDIN_MLU_WRONG", "STANDIN_MLU_DEADLY"
_libraries = []  # a registration lives as long as its library


def plant() -> None:
    for variable, kernel in ((WRONG, _wrong), (DEADLY, _deadly)):
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


def _on_cpu(value: Any) -> Any:
    return value.cpu() if isinstance(value, torch.Tensor) else value
