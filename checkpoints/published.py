"""Checkpoints to and from the published recipe's format (`epoch`, `label_map`, `model`, ... in one torch file).

What a `.pt` file holds: `epoch` (the next one), `iteration`, `model`, `optimizer` (SGD), `scheduler` (MultiStepLR),
`label_map` (index -> name, 0 background), and `amp` (GradScaler) where a port trained with it. The names and orders
inside are published_layout.py's.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from checkpoints.files import CheckpointError
from checkpoints.operating_point import KEY
from checkpoints.progress import epochs_trained, progress_after
from checkpoints.published_layout import (
    from_reference_optimizer,
    from_reference_state,
    to_reference_optimizer,
    to_reference_state,
)
from ssd.default_boxes import BOXES_PER_CELL
from ssd.model import FEATURE_CHANNELS, SSD300
from ssd.parameters import parameter_groups

# The ids that COCO 2017 skips between 1 and 90; the reference's files carry names only.
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_CATEGORY_IDS = tuple(i for i in range(1, 91) if i not in _COCO_GAPS)

TRAINING = ("epoch", "iteration", "optimizer")  # what training goes on with, in a published file

_BLOCKS_TO_BACKBONE = {  # (blocks in layer1, layer2, layer3, convolutions in a block) -> name
    (2, 2, 2, 2): "resnet18",
    (3, 4, 6, 2): "resnet34",
    (3, 4, 6, 3): "resnet50",
    (3, 4, 23, 3): "resnet101",
    (3, 8, 36, 3): "resnet152",
}


def to_ours(published: dict[str, Any], name: str | Path = "the checkpoint") -> dict[str, Any]:
    """The content of a published `.pt` file as the content of a Lightning checkpoint of ours.

    A file with weights alone gives `state_dict` and `hyper_parameters`, which can be evaluated and fine-tuned. One of a
    run in training also gives what `Trainer.fit(ckpt_path=...)` restores: training goes on at the file's epoch, with
    the state and the settings of its optimiser, its base learning rate, and its gradient scaler where it has one. The
    rate follows from the epoch (`training.schedule`), not from the file's scheduler, which some save before its step
    and some after.

    Args:
        published: the file as `checkpoints.files.read_checkpoint` gives it. name: for messages.

    Returns:
        `hyper_parameters` has of the arguments of `SSDModule` those that the file tells: backbone, num_classes, and,
        where they are there, class_names and category_ids (the recipe's own files lack these, ours have them).

    Raises:
        CheckpointError: not an SSD300 of the published layout.
    """
    state = _model_state(published, name)
    known = _known(published, state, name)
    with torch.device("meta"):  # names and shapes only
        model = SSD300(known["backbone"], known["num_classes"])
    weights = from_reference_state(state)
    _check_shapes(weights, model, known, name)
    ours = {
        "pytorch-lightning_version": pl.__version__,
        "state_dict": {f"model.{key}": value for key, value in weights.items()},
        "hyper_parameters": known,
    }
    if KEY in published:
        ours[KEY] = published[KEY]
    if missing_for_training(published):
        return ours
    try:
        optimizer = from_reference_optimizer(published["optimizer"], state, _parameter_names(model))
        epoch, iteration = int(published["epoch"]), int(published["iteration"])
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{name}: cannot be resumed ({type(error).__name__}: {error})") from None
    rates = [group.get("initial_lr", group["lr"]) for group in optimizer["param_groups"]]
    schedule = {
        "base_lrs": rates,
        "epoch": epoch,
        "last_epoch": iteration,
        "_step_count": iteration + 1,
        "_last_lr": [group["lr"] for group in optimizer["param_groups"]],
        "lr_lambdas": [None] * len(rates),
    }
    ours |= {
        "epoch": epoch,
        "global_step": iteration,
        "loops": progress_after(epoch, iteration),
        "callbacks": {},
        "optimizer_states": [optimizer],
        "lr_schedulers": [schedule],
    }
    if _is_scaler(published.get("amp")):
        ours["MixedPrecision"] = published["amp"]
    return ours


def from_ours(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The content of a Lightning checkpoint of ours as that of a published `.pt` file, with all tensors on the CPU and
    our `category_ids`, and `operating_point` where there is one, beside it.

    Of a checkpoint of a run in training everything that a run goes on with (where optimiser, schedule or the parts that
    are trained are not the recipe's, without their state); of another, epoch and iteration 0 and the weights. The
    published format knows whole epochs only: an epoch in progress begins anew there.
    """
    hparams = checkpoint["hyper_parameters"]
    weights = {key: value for key, value in checkpoint["state_dict"].items() if key.startswith("model.")}
    published = {
        "epoch": epochs_trained(checkpoint["loops"]["fit_loop"]) if "loops" in checkpoint else 0,
        "iteration": checkpoint.get("global_step", 0),
        "label_map": dict(enumerate(("background", *hparams["class_names"]))),
        "category_ids": list(hparams["category_ids"]),
        "model": to_reference_state({key.removeprefix("model."): value for key, value in weights.items()}),
    }
    if KEY in checkpoint:
        published[KEY] = checkpoint[KEY]
    for value in checkpoint.values():  # under the name of the precision plug-in
        if _is_scaler(value):
            published["amp"] = value
    if optimizer := _recipes_optimizer(checkpoint):
        published["optimizer"] = optimizer
        published["scheduler"] = _scheduler(hparams, published["optimizer"], published["epoch"])
    return published


def without_training(published: dict[str, Any]) -> dict[str, Any]:
    """The content of a published file but for what only training needs, of which there are more forms than can be read
    (optimisers of NVIDIA's Apex)."""
    return {key: value for key, value in published.items() if key not in TRAINING}


def missing_for_training(published: dict[str, Any]) -> list[str]:
    """What a published file lacks for going on with its training; of a file with weights alone all of it."""
    return [key for key in TRAINING if key not in published]


def default_category_ids(num_classes: int) -> tuple[int, ...]:
    """For a file that has none: COCO's for COCO's 80 classes, 1..C otherwise."""
    return COCO_CATEGORY_IDS if num_classes == len(COCO_CATEGORY_IDS) else tuple(range(1, num_classes + 1))


def _model_state(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Tensor]:
    if not isinstance(checkpoint.get("model"), dict):
        found = ", ".join(sorted(map(str, checkpoint))[:8])
        raise CheckpointError(f"{path}: no `model` state dict in it (found {found}); expected the recipe's format")
    state = checkpoint["model"]
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise CheckpointError(f"{path}: its `model` is no state dict of tensors by name")
    # A copy a device has `module.` before its names, the recipe's AMP wrapper around it `module.1.`.
    named = {key.removeprefix("module.").removeprefix("1."): value for key, value in state.items()}
    if len(named) != len(state):
        raise CheckpointError(f"{path}: its `model` has tensors both with `module.` before their names and without")
    return named


def _known(checkpoint: dict[str, Any], state: dict[str, Tensor], path: str | Path) -> dict[str, Any]:
    """Of the arguments of `SSDModule` those that a file tells."""
    known: dict[str, Any] = {"backbone": _backbone_of(state, path), "num_classes": _num_classes_of(state, path)}
    if names := _class_names_of(checkpoint.get("label_map"), known["num_classes"], path):
        known["class_names"] = names
    if ids := checkpoint.get("category_ids"):
        if not isinstance(ids, (list, tuple)):
            raise CheckpointError(f"{path}: `category_ids` is a {type(ids).__name__}, expected a list of integers")
        known["category_ids"] = list(ids)
    return known


def _check_shapes(weights: dict[str, Tensor], model: SSD300, known: dict[str, Any], path: str | Path) -> None:
    expected = {key: value.shape for key, value in model.state_dict().items()}
    found = {key: value.shape for key, value in weights.items()}
    if expected != found:
        wrong = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        raise CheckpointError(
            f"{path}: looks like {known['backbone']} with {known['num_classes']} classes, but {len(wrong)} of its "
            f"tensors are missing, unknown or of another shape, first {wrong[0]} "
            f"(found {found.get(wrong[0])}, expected {expected.get(wrong[0])})"
        )


def _parameter_names(model: SSD300) -> list[list[str]]:
    """The names of the parameters in our optimiser's groups."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in parameter_groups(model, 0.0)]


def _recipes_optimizer(checkpoint: dict[str, Any]) -> dict[str, Any] | None:
    """The optimiser's state in the recipe's form; None where there is none that the recipe could go on with: of another
    optimiser or schedule, or of a run that trained a part of the network."""
    hparams = checkpoint["hyper_parameters"]
    recipes = (hparams.get("optimizer", "sgd"), hparams.get("schedule", "milestones")) == ("sgd", "milestones")
    if not (checkpoint.get("optimizer_states") and recipes):
        return None
    with torch.device("meta"):
        groups = _parameter_names(SSD300(hparams["backbone"], hparams["num_classes"]))
    state = checkpoint["optimizer_states"][0]
    whole = [len(group["params"]) for group in state["param_groups"]] == [len(names) for names in groups]
    return to_reference_optimizer(state, groups) if whole else None


def _scheduler(hparams: dict[str, Any], optimizer: dict[str, Any], epoch: int) -> dict[str, Any]:
    """The state of the recipe's MultiStepLR, which counts epochs, after `epoch` of them."""
    return {
        "milestones": Counter(hparams["milestones"]),
        "gamma": hparams["gamma"],
        "base_lrs": [group["initial_lr"] for group in optimizer["param_groups"]],
        "last_epoch": epoch,
        "_step_count": epoch + 1,
        "_get_lr_called_within_step": False,
        "_last_lr": [group["lr"] for group in optimizer["param_groups"]],
    }


def _is_scaler(state: Any) -> bool:
    return isinstance(state, dict) and "scale" in state and "growth_factor" in state


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
    if not isinstance(label_map, dict) or not all(
        type(index) is int and isinstance(name, str) for index, name in label_map.items()
    ):
        raise CheckpointError(f"{path}: `label_map` should map indices to names; got {str(label_map)[:80]}")
    names = [label_map[index] for index in sorted(label_map) if index != 0]
    if len(names) != num_classes:
        raise CheckpointError(f"{path}: `label_map` names {len(names)} classes, the heads have {num_classes}")
    return names
