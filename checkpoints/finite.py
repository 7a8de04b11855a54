"""Which tensors of a state cannot be trained on or evaluated: NaN, infinite, or so large that the next step is."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from checkpoints.files import CheckpointError

LARGEST = 2.0**64  # the square root of float32's range: the squares of larger numbers are infinite
# What a run goes on with. The second and the third are there with a moving average, which stands in `state_dict` then;
# the last two are the published recipe's.
PARTS = ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "model", "optimizer")
NAMED = 3  # tensors, in a message


def broken_tensors(checkpoint: dict[str, Any]) -> list[str]:
    """The names of the tensors in `PARTS` of a checkpoint's content (weights, running statistics, moving averages,
    momenta) that hold a NaN, an infinity or more than `LARGEST`.

    One fused reduction and one read of the device for each device and dtype.
    """
    named = [found for part in PARTS for found in _tensors(checkpoint.get(part), part)]
    alike: dict[tuple[torch.device, torch.dtype], list[tuple[str, Tensor]]] = defaultdict(list)
    for name, tensor in named:
        if tensor.is_floating_point() and tensor.numel():
            tensor = tensor.detach() if tensor.dtype.itemsize > 1 else tensor.detach().float()  # 8 bits have no norm
            alike[tensor.device, tensor.dtype].append((name, tensor))
    broken = set()
    for group in alike.values():
        greatest = torch.stack(torch._foreach_norm([tensor for _, tensor in group], torch.inf))  # NaN stays NaN
        broken |= {name for (name, _), value in zip(group, greatest.tolist(), strict=True) if not value < LARGEST}
    return [name for name, _ in named if name in broken]


def in_words(broken: list[str]) -> str:
    """The beginning of a message about the result of `broken_tensors`."""
    names = ", ".join(broken[:NAMED]) + (", ..." if len(broken) > NAMED else "")
    return f"{len(broken)} tensor(s) of the state ({names}) are not finite, or beyond {LARGEST:.1e}"


def check_finite(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Raises CheckpointError for the content of a file that training cannot go on from."""
    if broken := broken_tensors(checkpoint):
        raise CheckpointError(f"{path}: nothing to go on from, {in_words(broken)}. Take a checkpoint from before that")


def _tensors(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _tensors(inner, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for key, inner in enumerate(value):
            yield from _tensors(inner, f"{path}.{key}")
