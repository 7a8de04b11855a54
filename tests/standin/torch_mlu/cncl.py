"""The c10d backend `cncl` for devices of type mlu: gloo, which csrc/cncl.cpp makes refuse what CNCL refuses."""

from datetime import timedelta

import torch.distributed as dist

from .library import _C


def _create(store, rank: int, size: int, timeout: timedelta):
    # A prefix of its own keeps it apart from a gloo group over the same store.
    gloo = dist.ProcessGroupGloo(dist.PrefixStore("cncl", store), rank, size, timeout)
    return _C.cncl_over(gloo)


def register() -> None:
    if dist.is_available() and dist.is_gloo_available():
        dist.Backend.register_backend("cncl", _create, devices=["mlu"])
