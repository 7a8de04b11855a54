"""A training step on a device: its input, every layer, the parts of the loss and the gradients, in order."""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from accelerators.selftest.layers import layer_outputs
from accelerators.selftest.shadow import Difference, difference
from coco.augment import normalise
from ssd.matching import match
from ssd_module import SSDModule

# Of the largest value of a tensor: forward, and of gradients. The differences of the layers before add up, so that
# one gradient of an early layer in 16 bits (0.65 seen in bfloat16 on a CPU) tells little but that it is finite.
BOUNDS = {torch.float32: (2e-3, 2e-2), torch.float16: (5e-2, 10.0), torch.bfloat16: (0.1, 10.0)}
# So all gradients are held together too: the norm of their difference beside their norm. On a CPU 0.006 in float16,
# 0.08 to 0.12 in bfloat16.
TOGETHER = {torch.float32: 2e-2, torch.float16: 5e-2, torch.bfloat16: 0.3}


def trace_step(
    module: SSDModule,
    batch: dict[str, Any],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    own_statistics: bool = True,
) -> dict[str, Tensor]:
    """`input`, `layer NAME`, `loss PART`, `gradient NAME` -> float32 on the CPU. The module stays as it was.

    Args:
        batch: of the loader, on the host. dtype: of autocast, float32 for none. own_statistics: of the batch, as in
            training; those of the last, smallest maps of a small batch turn roundings of 16 bits into signs.
    """
    module = deepcopy(module).to(device).train(own_statistics)
    images, colour, boxes, labels = (batch[key].to(device) for key in ("images", "colour", "boxes", "labels"))
    inputs = normalise(images, colour)
    with (
        layer_outputs(module.model) as layers,
        torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32),
    ):
        offsets, logits = module(inputs)
        parts = module.loss(offsets, logits, *match(boxes.float(), labels, module.default_boxes))
    sum(parts).backward()
    trace = {"input": inputs, **{f"layer {name}": value for name, value in layers.items()}}
    trace |= {f"loss {name}": value for name, value in zip(("localisation", "confidence"), parts, strict=True)}
    trace |= {f"gradient {n}": p.grad for n, p in module.model.named_parameters() if p.grad is not None}
    return {name: value.detach().to("cpu", torch.float32) for name, value in trace.items()}


def compare_traces(ours: dict[str, Tensor], theirs: dict[str, Tensor], dtype: torch.dtype) -> list[Difference]:
    """One for each entry, in the order in which a step computes them: gradients from the loss back, and at last all of
    them together."""
    forward, backward = BOUNDS[dtype]
    gradients = [name for name in theirs if name.startswith("gradient")]
    order = [name for name in theirs if name not in set(gradients)] + gradients[::-1]
    bounds = {name: backward if name.startswith("gradient") else forward for name in order}
    found = [difference(name, ours[name], theirs[name], bounds[name]) for name in order]
    return [*found, _together([ours[name] for name in gradients], [theirs[name] for name in gradients], dtype)]


def _together(ours: list[Tensor], theirs: list[Tensor], dtype: torch.dtype) -> Difference:
    """The values shown are the two norms."""
    own, other = (torch.cat([value.flatten() for value in values]).double() for values in (ours, theirs))
    apart = float((own - other).norm() / other.norm().clamp_min(1e-30))
    relative = apart if apart == apart else float("inf")
    name = str(dtype).removeprefix("torch.")
    return Difference("all gradients", name, relative, TOGETHER[dtype], float(own.norm()), float(other.norm()), ())
