"""A test-only stand-in for Cambricon's torch_mlu: `import torch_mlu` gives PyTorch a device `mlu` on host memory.

It is no MLU and knows nothing of one. It exists so that code for the MLU runs in tests and fails where hardware fails.
See README.md beside this package.
"""

import sys

import torch

from . import _MLUC, backends, cncl, faults, mlu, sync_bn, testing
from .library import _C

__version__ = "0.0+standin"  # says what it is: no release of torch_mlu
__all__ = ["mlu", "testing"]


def _register() -> None:
    torch.utils.rename_privateuse1_backend("mlu")
    _C.register_hooks()
    _C.register_cpu_forms()
    torch._register_device_module("mlu", mlu)
    sys.modules["torch.mlu"] = mlu
    torch.utils.generate_methods_for_privateuse1_backend()
    backends.register()
    cncl.register()
    sync_bn.register()
    _MLUC.patch()
    faults.plant()


def autoload() -> None:
    """What `import torch` calls through the entry point of ../autoload; importing this file has done it."""


_register()
