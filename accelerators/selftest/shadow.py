"""Every operator call of a block run once more on the CPU, from the same inputs, and the results compared."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

# Their results are random, unset, or depend on an order that equal values leave open.
NOT_COMPARED = ("empty", "resize", "record_stream", "set_.", "dropout", "rand", "normal_", "uniform_", "bernoulli")
INDICES_OF_EQUALS = ("sort", "topk", "max.dim", "min.dim", "argmax", "argmin", "max_pool2d", "argsort", "mode")
PRODUCTS = ("convolution", "::mm", "addmm", "bmm", "linear", "attention")  # may be TF32 in float32
READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero")  # the host waits
BOUNDS = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 4 * 2**-8, torch.float16: 4 * 2**-10}
TF32 = 5e-3


@dataclass(frozen=True)
class Difference:
    """The largest of one operator: relative to the largest value of that result, at `place` of it."""

    operator: str
    dtype: str
    relative: float
    bound: float
    device_value: float
    cpu_value: float
    place: tuple[int, ...]

    def __str__(self) -> str:
        return (
            f"{self.operator} in {self.dtype} is off by {self.relative:.2g} of its largest value (bound "
            f"{self.bound:.2g}): {self.device_value:.6g} at {list(self.place)}, the CPU {self.cpu_value:.6g}"
        )


class ShadowedOperators(TorchDispatchMode):
    """Compares each operator call on `device` with the CPU's, in float32 where the operands are of 16 bits.

    After the block: `largest`, operator and dtype -> Difference; `calls`; `not_compared`, operator -> why; `reads`,
    calls for whose result the host waits. Forward and backward passes are covered alike.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.largest: dict[tuple[str, str], Difference] = {}
        self.calls: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self.not_compared: dict[str, str] = {}

    @property
    def wrong(self) -> list[Difference]:
        """Those beyond their bound, the worst first."""
        beyond = [each for each in self.largest.values() if not each.relative <= each.bound]
        return sorted(beyond, key=lambda each: -each.relative / each.bound)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.name()
        given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        if not any(value.device.type == self.device.type for value in given) or func.is_view:
            return func(*args, **kwargs)
        self.calls[name] += 1
        if self.device.type == "cpu":
            pass  # nothing to wait for
        elif name in READS or (name == "aten::_to_copy" and str(kwargs.get("device")) == "cpu"):
            self.reads[name] += 1
        if torch.Tag.nondeterministic_seeded in func.tags or any(part in name for part in NOT_COMPARED):
            return func(*args, **kwargs)
        cpu_args, cpu_kwargs = _on_cpu((args, kwargs))
        if name in ("aten::_softmax", "aten::_log_softmax"):
            cpu_args = (*cpu_args[:2], False)  # half to float is the devices' own form
        result = func(*args, **kwargs)
        try:
            expected = func(*cpu_args, **cpu_kwargs)
        except RuntimeError as error:  # NotImplementedError is one
            self.not_compared[name] = str(error).strip().splitlines()[0][:120]
            return result
        changed = func._schema.is_mutable
        ours = tree_flatten((result, args, kwargs) if changed else result)[0]
        theirs = tree_flatten((expected, cpu_args, cpu_kwargs) if changed else expected)[0]
        dtype = _lowest((*given, *(value for value in ours if isinstance(value, Tensor))))
        for own, cpu in zip(ours, theirs, strict=True):
            self._compare(name, dtype, own, cpu)
        return result

    def _compare(self, name: str, dtype: torch.dtype, own: Any, cpu: Any) -> None:
        if not isinstance(own, Tensor) or own.numel() == 0:
            return
        if not own.dtype.is_floating_point and any(part in name for part in INDICES_OF_EQUALS):
            return
        bound = BOUNDS[dtype] if own.dtype.is_floating_point else 0.0
        if dtype == torch.float32 and self.device.type != "cpu" and any(part in name for part in PRODUCTS):
            bound = max(bound, TF32)
        found = difference(name, own, cpu, bound, dtype)
        key = (name, found.dtype)
        before = self.largest.get(key)
        # Ahead of a smaller one, and of one of a wider bound.
        if before is None or not found.relative - found.bound <= before.relative - before.bound:
            self.largest[key] = found


def difference(name: str, own: Tensor, cpu: Tensor, bound: float, dtype: torch.dtype | None = None) -> Difference:
    """The largest difference of two tensors; infinite where their shapes differ, or what is finite."""
    told = str(dtype or own.dtype).removeprefix("torch.")
    if own.shape != cpu.shape:
        return Difference(
            f"{name} (shape {list(own.shape)}, the CPU {list(cpu.shape)})", told, float("inf"), bound, 0, 0, ()
        )
    ours, theirs = (value.detach().to("cpu", torch.float64).reshape(-1) for value in (own, cpu))
    apart = (ours - theirs).abs()
    apart = torch.where((ours == theirs) | (ours.isnan() & theirs.isnan()), 0.0, apart).nan_to_num(nan=float("inf"))
    finite = theirs[theirs.isfinite()].abs()
    scale = max(float(finite.max()) if len(finite) else 0.0, 1e-30)
    worst = int(apart.argmax())
    place = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), own.shape)) if own.dim() else ()
    relative = float(apart[worst]) / scale
    return Difference(name, told, relative, bound, float(ours[worst]), float(theirs[worst]), place)


def _on_cpu(values: Any) -> Any:
    """Copies; a tensor that is there twice (`out=` one of the operands) is one copy."""
    copies: dict[int, Tensor] = {}

    def copied(value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device("cpu")
        if not isinstance(value, Tensor):
            return value
        if id(value) not in copies:
            copy = value.detach().to("cpu", copy=True)
            copies[id(value)] = copy.float() if copy.dtype in (torch.float16, torch.bfloat16) else copy
        return copies[id(value)]

    return tree_map(copied, values)


def _lowest(values: Iterable[Tensor]) -> torch.dtype:
    """The one of least precision among the floating dtypes."""
    floats = [value.dtype for value in values if value.dtype.is_floating_point]
    return max(floats, key=lambda dtype: BOUNDS.get(dtype, 0.0), default=torch.float32)
