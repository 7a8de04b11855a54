"""What the ranks of a run tell one another."""

from typing import Any

import torch.distributed as dist


def gathered(value: Any) -> list[Any]:
    """Every rank's value, in rank order; all ranks must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
