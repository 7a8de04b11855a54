"""The published recipe's names and orders for what we hold: weights, and the state of SGD. Plain data, no files.

The reference orders default boxes and head channels differently from us: its heads lay channels out coordinate-major,
ours box-major. Converting permutes head weights and their momentum. Beside this module only
`ssd.default_boxes.tie_rank` knows of that order.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ssd.default_boxes import BOXES_PER_CELL

_PREFIXES = (
    ("backbone.", "feature_extractor.feature_extractor."),
    ("extra_blocks.", "additional_blocks."),
    ("offset_heads.", "loc."),
    ("logit_heads.", "conf."),
)
Groups = Sequence[Sequence[str]]  # the names of an optimiser's parameters, group by group; ours: decayed, not decayed


def to_reference_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our `SSD300.state_dict()` -> the reference's `model`, on the CPU."""
    return {_renamed(key, to_reference=True): _to_reference(key, value) for key, value in state.items()}


def from_reference_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The reference's `model` -> our `SSD300.state_dict()`."""
    renamed = {_renamed(key, to_reference=False): value for key, value in state.items()}
    return {key: _swap_layout(key, value, to_reference=False) for key, value in renamed.items()}


def to_reference_optimizer(optimizer: dict[str, Any], groups: Groups) -> dict[str, Any]:
    """The state dict of our SGD, which holds the parameters `groups` -> the reference's `optimizer`.

    The reference's first group is the one without decay.
    """
    return _regrouped(optimizer, groups, tuple(reversed(groups)), _to_reference)


def from_reference_optimizer(optimizer: dict[str, Any], state: dict[str, Tensor], groups: Groups) -> dict[str, Any]:
    """The reference's `optimizer`, saved beside its `model` -> the state dict of our SGD, which holds `groups`.

    Raises:
        ValueError: not the two groups of these parameters.
    """
    order = [_renamed(key, to_reference=False) for key in state]
    source = [[name for name in order if name in set(names)] for names in reversed(groups)]
    return _regrouped(optimizer, source, groups, lambda name, value: _swap_layout(name, value, to_reference=False))


def _regrouped(
    optimizer: dict[str, Any], source: Groups, target: Groups, convert: Callable[[str, Tensor], Tensor]
) -> dict[str, Any]:
    """An optimiser's state dict with its parameters in another order; `convert` is for tensors that have dimensions."""
    counts = [len(group["params"]) for group in optimizer["param_groups"]]
    if counts != [len(names) for names in source]:
        raise ValueError(f"its optimiser has groups of {counts} parameters, expected {[len(n) for n in source]}")
    key_of: dict[str, int] = {}
    options_of: dict[frozenset[str], dict[str, Any]] = {}
    for names, group in zip(source, optimizer["param_groups"], strict=True):
        key_of.update(zip(names, group["params"], strict=True))
        options_of[frozenset(names)] = {key: value for key, value in group.items() if key != "params"}
    state: dict[int, dict[str, Any]] = {}
    regrouped: list[dict[str, Any]] = []
    for names in target:
        first = sum(len(group["params"]) for group in regrouped)
        regrouped.append({**options_of[frozenset(names)], "params": list(range(first, first + len(names)))})
        for index, name in enumerate(names, first):
            saved = optimizer["state"].get(key_of[name])
            if saved is not None:
                state[index] = {
                    key: convert(name, value) if isinstance(value, Tensor) and value.dim() else value
                    for key, value in saved.items()
                }
    return {"state": state, "param_groups": regrouped}


def _renamed(key: str, to_reference: bool) -> str:
    for ours, theirs in _PREFIXES:
        source, target = (ours, theirs) if to_reference else (theirs, ours)
        if key.startswith(source):
            return target + key.removeprefix(source)
    return key


def _to_reference(our_key: str, value: Tensor) -> Tensor:
    return _swap_layout(our_key, value.detach().cpu(), to_reference=True).contiguous()


def _swap_layout(our_key: str, value: Tensor, to_reference: bool) -> Tensor:
    """Head channels: box-major [boxes, values] here, coordinate-major [values, boxes] there."""
    part, _, rest = our_key.partition(".")
    index = rest.partition(".")[0]
    if (
        not value.dim()
        or part not in ("offset_heads", "logit_heads")
        or not index.isdecimal()
        or int(index) >= len(BOXES_PER_CELL)
    ):
        return value
    boxes = BOXES_PER_CELL[int(index)]
    if value.shape[0] % boxes:
        return value  # load_state_dict names the wrong shape
    values = value.shape[0] // boxes
    split = (boxes, values) if to_reference else (values, boxes)
    return value.view(*split, *value.shape[1:]).transpose(0, 1).flatten(0, 1)
