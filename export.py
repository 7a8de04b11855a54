"""Checkpoints to and from the published recipe's format (`epoch`, `label_map`, `model`, ... in one torch file).

The reference orders default boxes and head channels differently from us: its heads lay channels out coordinate-major,
ours box-major. Converting permutes head weights. Beside it only `ssd.default_boxes.tie_rank` knows of that order.
"""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from checkpoints import CheckpointError, read_checkpoint
from ssd.default_boxes import BOXES_PER_CELL
from ssd.model import FEATURE_CHANNELS
from ssd_module import SSDModule

# The ids that COCO 2017 skips between 1 and 90; the reference's files carry names only.
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_CATEGORY_IDS = tuple(i for i in range(1, 91) if i not in _COCO_GAPS)

_PREFIXES = (
    ("backbone.", "feature_extractor.feature_extractor."),
    ("extra_blocks.", "additional_blocks."),
    ("offset_heads.", "loc."),
    ("logit_heads.", "conf."),
)
_BLOCKS_TO_BACKBONE = {  # (blocks in layer1, layer2, layer3, convolutions in a block) -> name
    (2, 2, 2, 2): "resnet18",
    (3, 4, 6, 2): "resnet34",
    (3, 4, 6, 3): "resnet50",
    (3, 4, 23, 3): "resnet101",
    (3, 8, 36, 3): "resnet152",
}


def load_reference_checkpoint(path: str | Path) -> SSDModule:
    """Opens a `.pt` file of the published recipe (or of a port of it) as an `SSDModule`, on the CPU.

    Backbone, number of classes and class names are read off the file. Category ids, which it lacks, are COCO's for
    COCO's 80 classes and 1..C otherwise.

    Raises:
        CheckpointError: missing, not a plain-tensor file, torn, or not an SSD300 of the published layout.
    """
    checkpoint = read_checkpoint(path)
    if not isinstance(checkpoint.get("model"), dict):
        raise CheckpointError(
            f"{path}: no `model` state dict in it (found {_keys(checkpoint)}); expected the recipe's format"
        )
    state = {key.removeprefix("module."): value for key, value in checkpoint["model"].items()}
    backbone = _backbone_of(state, path)
    num_classes = _num_classes_of(state, path)
    names = _class_names_of(checkpoint.get("label_map"), num_classes, path)
    ids = COCO_CATEGORY_IDS if num_classes == len(COCO_CATEGORY_IDS) else tuple(range(1, num_classes + 1))
    module = SSDModule(backbone=backbone, num_classes=num_classes, class_names=names, category_ids=ids)
    try:
        module.model.load_state_dict(from_reference_state(state))
    except RuntimeError as error:
        raise CheckpointError(f"{path}: looks like {backbone} with {num_classes} classes, but: {error}") from None
    return module


def save_reference_checkpoint(module: SSDModule, path: str | Path) -> None:
    """Writes the published format: `epoch` (the next one), `iteration`, `label_map` and `model`, all on the CPU."""
    trainer = module._trainer  # None outside a run, where `module.trainer` would raise
    torch.save(
        {
            # After fitting Lightning has already counted on to the next epoch.
            "epoch": trainer.current_epoch + int(trainer.training) if trainer else 0,
            "iteration": trainer.global_step if trainer else 0,
            "label_map": dict(enumerate(("background", *module.class_names))),
            "model": to_reference_state(module.model.state_dict()),
        },
        path,
    )


def to_reference_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our `SSD300.state_dict()` -> the reference's `model`."""
    return {
        _renamed(key, to_reference=True): _swap_layout(key, value.detach().cpu(), to_reference=True).contiguous()
        for key, value in state.items()
    }


def from_reference_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The reference's `model` -> our `SSD300.state_dict()`."""
    renamed = {_renamed(key, to_reference=False): value for key, value in state.items()}
    return {key: _swap_layout(key, value, to_reference=False) for key, value in renamed.items()}


def _renamed(key: str, to_reference: bool) -> str:
    for ours, theirs in _PREFIXES:
        source, target = (ours, theirs) if to_reference else (theirs, ours)
        if key.startswith(source):
            return target + key.removeprefix(source)
    return key


def _swap_layout(our_key: str, value: Tensor, to_reference: bool) -> Tensor:
    """Head channels: box-major [boxes, values] here, coordinate-major [values, boxes] there."""
    part, index, *_ = our_key.split(".")
    if part not in ("offset_heads", "logit_heads") or not index.isdigit() or int(index) >= len(BOXES_PER_CELL):
        return value
    boxes = BOXES_PER_CELL[int(index)]
    if value.shape[0] % boxes:
        return value  # load_state_dict names the wrong shape
    values = value.shape[0] // boxes
    split = (boxes, values) if to_reference else (values, boxes)
    return value.view(*split, *value.shape[1:]).transpose(0, 1).flatten(0, 1)


def _backbone_of(state: dict[str, Tensor], path: str | Path) -> str:
    prefix = "feature_extractor.feature_extractor."
    blocks = {(int(m[1]), int(m[2])) for key in state if (m := re.match(re.escape(prefix) + r"([456])\.(\d+)\.", key))}
    convolutions = sum(key.startswith(f"{prefix}4.0.conv") for key in state)
    found = (*(sum(layer == wanted for layer, _ in blocks) for wanted in (4, 5, 6)), convolutions)
    if found not in _BLOCKS_TO_BACKBONE:
        raise CheckpointError(
            f"{path}: its backbone is none of {', '.join(FEATURE_CHANNELS)} "
            f"(blocks per layer {found[:3]}, {found[3]} convolutions per block)"
        )
    return _BLOCKS_TO_BACKBONE[found]


def _num_classes_of(state: dict[str, Tensor], path: str | Path) -> int:
    bias = state.get("conf.0.bias")
    if bias is None or bias.numel() % BOXES_PER_CELL[0]:
        raise CheckpointError(
            f"{path}: no SSD300 confidence head (`conf.0.bias` of {BOXES_PER_CELL[0]} x classes values)"
        )
    return bias.numel() // BOXES_PER_CELL[0] - 1


def _class_names_of(label_map: Any, num_classes: int, path: str | Path) -> tuple[str, ...] | None:
    if not label_map:
        return None
    if not isinstance(label_map, dict) or not all(isinstance(name, str) for name in label_map.values()):
        raise CheckpointError(f"{path}: `label_map` should map indices to names; got {str(label_map)[:80]}")
    names = tuple(label_map[index] for index in sorted(label_map) if index != 0)
    if len(names) != num_classes:
        raise CheckpointError(f"{path}: `label_map` names {len(names)} classes, the heads have {num_classes}")
    return names


def _keys(checkpoint: dict) -> str:
    return ", ".join(sorted(map(str, checkpoint))[:8])
