"""The MLU's random state: into and out of checkpoints, and left alone by the sanity check.

Lightning saves no random state in checkpoints, and isolates only the CPU's and CUDA's around the sanity check.
torch_mlu's generator is a seed and an offset kept on the host (16 bytes), so reading it costs no synchronisation.
"""

import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from . import backend

CHECKPOINT_KEY = "mlu_rng_states"  # one entry per global rank: uint8, or None if the rank could not be asked


def get_state(device: torch.device) -> Tensor:
    return backend.device_module().get_rng_state(device)


def set_state(state: Tensor, device: torch.device) -> None:
    backend.device_module().set_rng_state(state.cpu(), device)


def gather_states(device: torch.device) -> list[Tensor]:
    """Every rank's state, on the CPU, in rank order. All ranks must call it."""
    state = get_state(device)
    if not dist.is_initialized():
        return [state]
    mine = state.to(device)
    states = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(states, mine)
    return [other.cpu() for other in states]


def restore(checkpoint: dict[str, Any], rank: int, device: torch.device) -> None:
    """Set this rank's state from a checkpoint that has it; say so where it has states but not this rank's."""
    states = checkpoint.get(CHECKPOINT_KEY)
    if states is None:
        return
    state = states[rank] if rank < len(states) else None
    if state is None:
        warnings.warn(
            f"The checkpoint holds MLU random states of {sum(s is not None for s in states)} rank(s), none for rank "
            f"{rank}: its MLU random numbers start from the seed, not where the checkpoint was made.",
            stacklevel=2,
        )
        return
    set_state(state, device)
