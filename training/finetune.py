"""Starts a model from the weights of a trained one, also where the classes differ.

All layers are taken over. The class heads (`logit_heads`) are re-made where the classes differ: the rows of the
background and of classes of the same name are taken over, the rows of new classes start at random.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from checkpoints.files import CheckpointError
from ssd.default_boxes import BOXES_PER_CELL


def check_backbone(path: str | Path, source: Any, backbone: str) -> None:
    """Raises CheckpointError unless the module `source`, loaded from `path`, has this backbone."""
    if source.hparams.backbone != backbone:
        raise CheckpointError(
            f"--finetune_from {path}: its backbone is {source.hparams.backbone}, this run's {backbone}. "
            f"Use --model.backbone {source.hparams.backbone}, or start from another checkpoint"
        )


@torch.no_grad()
def take_over(source: Any, target: Any) -> str:
    """Copies the weights of one SSDModule into another with the same backbone.

    Returns:
        One line in words: what was kept and what was made anew.
    """
    kept = {key: value for key, value in source.model.state_dict().items() if not key.startswith("logit_heads.")}
    target.model.load_state_dict(kept, strict=False)
    rows = _matching_labels(source.class_names, target.class_names)
    for boxes, old, new in zip(BOXES_PER_CELL, source.model.logit_heads, target.model.logit_heads, strict=True):
        for name in ("weight", "bias"):
            ours = getattr(new, name).unflatten(0, (boxes, -1))  # [boxes, C + 1, ...], box-major as the logits are
            theirs = getattr(old, name).unflatten(0, (boxes, -1))
            for label, old_label in rows.items():
                ours[:, label] = theirs[:, old_label]
    return "kept backbone, extra blocks, offset heads" + _class_heads_in_words(source, target, rows)


def _matching_labels(source: Sequence[str], target: Sequence[str]) -> dict[int, int]:
    """Label in the target -> label in the source, for the background and classes of the same name."""
    old_labels = {name: label for label, name in enumerate(source, start=1)}
    same = {label: old_labels[name] for label, name in enumerate(target, start=1) if name in old_labels}
    return {0: 0, **same}


def _class_heads_in_words(source: Any, target: Any, rows: dict[int, int]) -> str:
    names = target.class_names
    if source.class_names == names:
        return f" and class heads (the same {len(names)} classes)"
    old = [names[label - 1] for label in rows if label > 0]
    new = [name for label, name in enumerate(names, start=1) if label not in rows]
    parts = ["the background's rows kept"]
    parts += [f"{len(old)} known by name kept ({_first_of(old)})"] if old else []
    parts += [f"{len(new)} new ({_first_of(new)})"] if new else []
    return f"; class heads re-made for {len(names)} classes (were {len(source.class_names)}): {', '.join(parts)}"


def _first_of(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
