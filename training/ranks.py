"""What the ranks of a run tell one another."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist


def gathered(value: Any) -> list[Any]:
    """Every rank's value, in rank order; all ranks must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


class Greatest:
    """The greatest of all ranks' numbers, asked for now and read later, so that meanwhile nothing waits: neither for
    the other ranks nor for what the device has to do. All ranks must ask and read at the same places."""

    def __init__(self) -> None:
        self._pending: tuple[Callable[[], Any], torch.Tensor] | None = None

    def ask(self, value: int, device: torch.device) -> None:
        """`device`: where the process group reduces."""
        number = torch.full((), value, dtype=torch.int32, device=device)  # made there: sending it would wait
        if device.type == "cpu":
            work = dist.all_reduce(number, dist.ReduceOp.MAX, async_op=True)
            assert work is not None  # as it is for those outside the group
            self._pending = work.wait, number
            return
        dist.all_reduce(number, dist.ReduceOp.MAX)
        answer = number.to("cpu", non_blocking=True)
        arrived = getattr(torch, device.type).Event()
        arrived.record()
        self._pending = arrived.synchronize, answer

    def read(self) -> int:
        """What was asked for last; 0 where nothing was since the last reading."""
        if self._pending is None:
            return 0
        wait, answer = self._pending
        self._pending = None
        wait()
        return int(answer)
