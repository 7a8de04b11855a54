"""Whether a checkpoint is one of this project's, its weights are those of the network that its settings ask for, and
what of its data its run chose."""

from pathlib import Path
from typing import Any

import torch

from checkpoints.files import CheckpointError
from ssd.model import SSD300


def check_is_ours(checkpoint: dict[str, Any], path: str | Path) -> None:
    """Raises CheckpointError for the content of a file that is no checkpoint of an `SSDModule`."""
    if "state_dict" not in checkpoint or "hyper_parameters" not in checkpoint:
        raise CheckpointError(
            f"{path}: neither a Lightning checkpoint of this project (state_dict, hyper_parameters) nor one of the "
            f"published recipe (model); it has {', '.join(map(str, checkpoint))[:200]}"
        )


def check_shapes(checkpoint: dict[str, Any]) -> None:
    """Raises RuntimeError unless the weights are those of the network that the settings ask for: known before that is
    built, which for settings of another network would take its time and memory."""
    settings, state = checkpoint["hyper_parameters"], checkpoint["state_dict"]
    with torch.device("meta"):  # names and shapes only
        network = SSD300(settings.get("backbone", "resnet50"), settings.get("num_classes", 80)).state_dict()
    for name, expected in network.items():
        found = getattr(state.get(f"model.{name}"), "shape", None)
        if found != expected.shape:
            raise RuntimeError(
                f"model.{name}: expected a tensor of {list(expected.shape)}, found {found and list(found)}"
            )


def selection_of(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What the run of a checkpoint chose of its data (`coco.selection`), as saved."""
    return checkpoint.get("COCODataModule", {}).get("selection", {})
