"""Gradient communication hooks for DistributedDataParallel on MLUs.

Lightning registers a `ddp_comm_hook` on CUDA only and passes over it elsewhere, without a word. PyTorch refuses its
own bf16 hooks by their name unless CUDA or XPU is there; an MLU with bfloat16 runs them, so here the device is asked
instead.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from . import backend

BF16_HOOKS = ("bf16_compress_hook", "bf16_compress_wrapper_hook")


def prepare_comm_hook(hook: Callable, wrapper: Callable | None = None) -> Callable:
    """The hook to register: wrapped if a wrapper is given, and under a name that PyTorch does not take for CUDA's."""
    if wrapper is not None:
        hook = wrapper(hook)
    if getattr(hook, "__name__", "") not in BF16_HOOKS:
        return hook
    if not backend.device_module().is_bf16_supported():
        raise MisconfigurationException(
            f"ddp_comm_hook={hook.__name__} needs an MLU with bfloat16 (compute capability 5 or later). Use "
            "torch.distributed.algorithms.ddp_comm_hooks.default_hooks.fp16_compress_hook."
        )

    def mlu_bf16_compress(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        return hook(state, bucket)

    return mlu_bf16_compress
