"""The process group of an MLU run: joined over CNCL, destroyed at exit."""

import atexit
import os
import signal
from datetime import timedelta

import torch
import torch.distributed as dist
from lightning_fabric.plugins import ClusterEnvironment
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from . import backend

# What CNCL does when a rank is lost. Any of them set is somebody's choice.
ERROR_HANDLING = tuple(
    f"{prefix}_{what}"
    for what in ("ASYNC_ERROR_HANDLING", "BLOCKING_WAIT")
    for prefix in ("TORCH_CNCL", "TORCH_NCCL", "NCCL")
)
TEAR_DOWN = "3"  # NCCL's own default


def handle_lost_ranks() -> None:
    """Has CNCL end a process whose collective fails or outlasts the group's timeout, unless the environment says what
    else. By itself it only logs that, and the ranks that are left wait for ever."""
    if not any(name in os.environ for name in ERROR_HANDLING):
        os.environ[ERROR_HANDLING[0]] = TEAR_DOWN


def join(environment: ClusterEnvironment, group_backend: str, device: torch.device, timeout: timedelta | None) -> None:
    """Join the other processes, unless that was done before.

    No `device_id` goes to PyTorch (2.4 takes CUDA's only). The first collective, here, tells CNCL this process's device
    instead: in its barrier it would guess rank % count, which devices=[1] makes wrong.
    """
    if dist.is_initialized():
        return
    handle_lost_ranks()  # read when the group is made
    backend.load()  # registers the backend "cncl"
    os.environ["MASTER_ADDR"] = environment.main_address
    os.environ["MASTER_PORT"] = str(environment.main_port)
    rank, world_size = environment.global_rank(), environment.world_size()
    dist.init_process_group(group_backend, rank=rank, world_size=world_size, timeout=timeout)
    atexit.register(_destroy)
    wait_for_all(device)
    rank_zero_info(f"MLU: {world_size} processes joined over {group_backend}")


def wait_for_all(device: torch.device) -> None:
    """A barrier on `device`: an all-reduce of one element, which is what CNCL's own barrier is."""
    if dist.is_initialized():
        dist.all_reduce(torch.zeros(1, device=device))
        backend.device_module().synchronize(device)


def _destroy() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient Ctrl+C would leave the group half destroyed
    if dist.is_initialized():
        dist.destroy_process_group()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
