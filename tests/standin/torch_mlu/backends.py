"""torch.backends.cnnl and torch.backends.mlu: switches that exist to be set; the CPU's arithmetic knows no TF32."""

import sys
import types

import torch


def register() -> None:
    cnnl = types.ModuleType("torch.backends.cnnl")
    cnnl.allow_tf32 = True  # convolutions
    backend = types.ModuleType("torch.backends.mlu")
    backend.matmul = types.SimpleNamespace(allow_tf32=False)
    backend.custom = types.SimpleNamespace(allow_tf32=False)  # other operators
    for name, module in {"cnnl": cnnl, "mlu": backend}.items():
        setattr(torch.backends, name, module)
        sys.modules[f"torch.backends.{name}"] = module
