"""A network layer by layer, on a device and on the CPU: where do they part?"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .shadow import Difference, difference


@contextmanager
def layer_outputs(module: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Within the block, the output of every leaf of `module` that runs, by name, in order, float32 on the CPU."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                calls = sum(key.partition(" #")[0] == name for key in outputs)
                outputs[f"{name} #{calls + 1}" if calls else name] = output.detach().to("cpu", torch.float32, copy=True)

        return hook

    leaves = [(name, layer) for name, layer in module.named_modules() if not list(layer.children())]
    handles = [layer.register_forward_hook(keep(name or type(layer).__name__)) for name, layer in leaves]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def differences(ours: dict[str, Tensor], cpu: dict[str, Tensor], bound: float) -> list[Difference]:
    """One each, in the order of `cpu`. Raises KeyError where a name is missing from `ours`."""
    return [difference(name, ours[name], value, bound) for name, value in cpu.items()]


def first_beyond(found: list[Difference]) -> Difference | None:
    """The first that is beyond its bound."""
    return next((each for each in found if not each.relative <= each.bound), None)


def largest(found: list[Difference]) -> Difference:
    return max(found, key=lambda each: each.relative)
