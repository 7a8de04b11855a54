"""Checkpoints to and from the published recipe's format (`epoch`, `label_map`, `model`, ... in one torch file).

What a `.pt` file holds: `epoch` (the next one), `iteration`, `model`, `optimizer` (SGD), `scheduler` (MultiStepLR),
`label_map` (index -> name, 0 background), and `amp` (GradScaler) where a port trained with it. The names and orders
inside are reference_layout.py's.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from checkpoint_io import write_durably
from checkpoints import CheckpointError, read_checkpoint
from reference_layout import (
    from_reference_optimizer,
    from_reference_state,
    to_reference_optimizer,
    to_reference_state,
)
from ssd.default_boxes import BOXES_PER_CELL
from ssd.model import FEATURE_CHANNELS, SSD300
from ssd_module import SSDModule, parameter_groups

# The ids that COCO 2017 skips between 1 and 90; the reference's files carry names only.
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_CATEGORY_IDS = tuple(i for i in range(1, 91) if i not in _COCO_GAPS)

_BLOCKS_TO_BACKBONE = {  # (blocks in layer1, layer2, layer3, convolutions in a block) -> name
    (2, 2, 2, 2): "resnet18",
    (3, 4, 6, 2): "resnet34",
    (3, 4, 6, 3): "resnet50",
    (3, 4, 23, 3): "resnet101",
    (3, 8, 36, 3): "resnet152",
}


def load_reference_checkpoint(path: str | Path) -> SSDModule:
    """Opens a `.pt` file of the published recipe (or of a port of it) as an `SSDModule`, on the CPU.

    Backbone, number of classes and class names are read off the file. Category ids, which the recipe's own files lack
    and ours have, are then COCO's for COCO's 80 classes and 1..C otherwise.

    Raises:
        CheckpointError: missing, not a plain-tensor file, torn, or not an SSD300 of the published layout.
    """
    checkpoint = read_checkpoint(path)
    state = _model_state(checkpoint, path)
    known = _known(checkpoint, state, path)
    count = known["num_classes"]
    ids = COCO_CATEGORY_IDS if count == len(COCO_CATEGORY_IDS) else tuple(range(1, count + 1))
    try:
        module = SSDModule(**{"category_ids": ids, **known})
        module.model.load_state_dict(from_reference_state(state))
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: looks like {known['backbone']} with {count} classes, but: {error}") from None
    return module


def lightning_checkpoint(reference: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The content of a published `.pt` file as the dict that Lightning's `Trainer.fit(ckpt_path=...)` restores.

    Training goes on at the file's epoch, with the state and the settings of its optimiser, its base learning rate, and
    its gradient scaler where it has one. The rate follows from the epoch (`schedule.RecipeSchedule`), not from the
    file's scheduler, which some save before its step and some after. `hyper_parameters`: what the file tells.

    Args:
        reference: the file as `checkpoints.read_checkpoint` gives it. path: for messages.

    Raises:
        CheckpointError: not an SSD300 of the published layout, or one that lacks what training needs.
    """
    state = _model_state(reference, path)
    missing = [key for key in ("epoch", "iteration", "optimizer") if key not in reference]
    if missing:
        raise CheckpointError(
            f"{path}: no training to go on with, it has no {', '.join(missing)}; its weights can be evaluated"
        )
    known = _known(reference, state, path)
    with torch.device("meta"):  # names and shapes only
        model = SSD300(known["backbone"], known["num_classes"])
    weights = from_reference_state(state)
    _check_shapes(weights, model, path)
    try:
        optimizer = from_reference_optimizer(reference["optimizer"], state, _parameter_names(model))
        epoch, iteration = int(reference["epoch"]), int(reference["iteration"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be resumed ({type(error).__name__}: {error})") from None
    rates = [group.get("initial_lr", group["lr"]) for group in optimizer["param_groups"]]
    checkpoint = {
        "epoch": epoch,
        "global_step": iteration,
        "pytorch-lightning_version": pl.__version__,
        "state_dict": {f"model.{key}": value for key, value in weights.items()},
        "loops": _loops(epoch, iteration),
        "callbacks": {},
        "optimizer_states": [optimizer],
        "lr_schedulers": [
            {
                "base_lrs": rates,
                "epoch": epoch,
                "last_epoch": iteration,
                "_step_count": iteration + 1,
                "_last_lr": [group["lr"] for group in optimizer["param_groups"]],
                "lr_lambdas": [None] * len(rates),
            }
        ],
        "hyper_parameters": known,
    }
    if "scale" in (scaler := reference.get("amp") or {}):
        checkpoint["MixedPrecision"] = scaler
    return checkpoint


def save_reference_checkpoint(module: SSDModule, path: str | Path) -> None:
    """Writes the published format, with all tensors on the CPU, and our `category_ids` beside it.

    Of a module in training it writes everything a run goes on with; of another, epoch and iteration 0 and the weights.
    The file appears whole or not at all.

    Raises:
        CheckpointError: it could not be written.
    """
    trainer = module._trainer  # None outside a run, where `module.trainer` would raise
    checkpoint = {
        # After fitting Lightning has already counted on to the next epoch.
        "epoch": trainer.current_epoch + int(trainer.training) if trainer else 0,
        "iteration": trainer.global_step if trainer else 0,
        "label_map": dict(enumerate(("background", *module.class_names))),
        "category_ids": list(module.category_ids),
        "model": to_reference_state(module.model.state_dict()),
    }
    if trainer and (scaler := trainer.precision_plugin.state_dict()):
        checkpoint["amp"] = scaler
    if trainer and trainer.optimizers:
        groups = _parameter_names(module.model)
        checkpoint["optimizer"] = to_reference_optimizer(trainer.optimizers[0].state_dict(), groups)
        checkpoint["scheduler"] = _scheduler(module, checkpoint["optimizer"], checkpoint["epoch"])
    write_durably(checkpoint, Path(path))


def _model_state(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    if not isinstance(checkpoint.get("model"), dict):
        found = ", ".join(sorted(map(str, checkpoint))[:8])
        raise CheckpointError(f"{path}: no `model` state dict in it (found {found}); expected the recipe's format")
    return {key.removeprefix("module."): value for key, value in checkpoint["model"].items()}


def _known(checkpoint: dict[str, Any], state: dict[str, Tensor], path: str | Path) -> dict[str, Any]:
    """Of the arguments of `SSDModule` those that a file tells."""
    known: dict[str, Any] = {"backbone": _backbone_of(state, path), "num_classes": _num_classes_of(state, path)}
    if names := _class_names_of(checkpoint.get("label_map"), known["num_classes"], path):
        known["class_names"] = names
    if ids := checkpoint.get("category_ids"):
        known["category_ids"] = list(ids)
    return known


def _check_shapes(weights: dict[str, Tensor], model: SSD300, path: str | Path) -> None:
    expected = {key: value.shape for key, value in model.state_dict().items()}
    found = {key: value.shape for key, value in weights.items()}
    if expected != found:
        wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        raise CheckpointError(
            f"{path}: {len(wrong)} of its tensors are missing, unknown or of another shape, first {wrong[0]} "
            f"(found {found.get(wrong[0])}, expected {expected.get(wrong[0])})"
        )


def _parameter_names(model: SSD300) -> list[list[str]]:
    """The names of the parameters in our optimiser's groups."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in parameter_groups(model, 0.0)]


def _loops(epoch: int, steps: int) -> dict[str, Any]:
    """Lightning's progress after `epoch` whole epochs of `steps` optimiser steps in all."""

    def progress(total: int, *stages: str, current: int = 0) -> dict[str, Any]:
        return {"total": dict.fromkeys(stages, total), "current": dict.fromkeys(stages, current)}

    every = ("ready", "started", "processed", "completed")
    fit = {
        "state_dict": {},
        "epoch_progress": progress(epoch, *every, current=epoch),
        "epoch_loop.state_dict": {"_batches_that_stepped": steps},
        "epoch_loop.batch_progress": {**progress(steps, *every), "is_last_batch": True},
        "epoch_loop.scheduler_progress": progress(steps, "ready", "completed"),
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {
                "step": progress(steps, "ready", "completed"),
                "zero_grad": progress(steps, "ready", "started", "completed"),
            }
        },
    }
    return {"fit_loop": fit, "validate_loop": {}, "test_loop": {}, "predict_loop": {}}


def _scheduler(module: SSDModule, optimizer: dict[str, Any], epoch: int) -> dict[str, Any]:
    """The state of the recipe's MultiStepLR, which counts epochs, after `epoch` of them."""
    return {
        "milestones": Counter(module.hparams.milestones),
        "gamma": module.hparams.gamma,
        "base_lrs": [group["initial_lr"] for group in optimizer["param_groups"]],
        "last_epoch": epoch,
        "_step_count": epoch + 1,
        "_get_lr_called_within_step": False,
        "_last_lr": [group["lr"] for group in optimizer["param_groups"]],
    }


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


def _class_names_of(label_map: Any, num_classes: int, path: str | Path) -> list[str] | None:
    if not label_map:
        return None
    if not isinstance(label_map, dict) or not all(isinstance(name, str) for name in label_map.values()):
        raise CheckpointError(f"{path}: `label_map` should map indices to names; got {str(label_map)[:80]}")
    names = [label_map[index] for index in sorted(label_map) if index != 0]
    if len(names) != num_classes:
        raise CheckpointError(f"{path}: `label_map` names {len(names)} classes, the heads have {num_classes}")
    return names
