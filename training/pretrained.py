"""ImageNet weights for the backbone: by torchvision's name for them, or from a local file."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import torchvision
from torch import Tensor

from checkpoints.fetching import fetch, in_hub_cache
from checkpoints.files import CheckpointError, read_plain
from ssd.model import SSD300


class PretrainedWeightsError(RuntimeError):
    """The backbone's weights cannot be had; the message says how to go on."""


def load_backbone(model: SSD300, backbone: str, weights: str) -> None:
    """Copies `backbone_weights` into the backbone of a model.

    Raises:
        PretrainedWeightsError: as there, or weights of another network.
    """
    state = backbone_weights(backbone, weights)
    try:
        model.load_backbone(state)
    except (ValueError, RuntimeError) as error:
        raise PretrainedWeightsError(f"--model.backbone_weights {weights}: for {backbone}, {error}") from None


def backbone_weights(backbone: str, weights: str) -> dict[str, Tensor]:
    """A torchvision ResNet state dict, on the CPU.

    Args:
        backbone: resnet18 .. resnet152.
        weights: a torchvision weights name such as `IMAGENET1K_V2` (downloaded once, then cached by torch.hub), or the
            path of a file with a torchvision state dict, of torch.save's or as safetensors.

    Raises:
        PretrainedWeightsError: unknown name, download impossible, file missing, or a file that is no plain state dict.
    """
    names = torchvision.models.get_model_weights(backbone)
    if weights in names.__members__:
        return _download(names[weights])
    if "/" not in weights and "." not in weights:
        raise PretrainedWeightsError(
            f"backbone_weights={weights!r} is neither a file nor one of torchvision's weights of {backbone} "
            f"({', '.join(names.__members__)})"
        )
    return _read(Path(weights))


def _download(weights: torchvision.models.WeightsEnum) -> dict[str, Tensor]:
    """From torch.hub's cache, as torchvision itself; but read as every other file."""
    path = in_hub_cache(Path(urlsplit(weights.url).path).name)
    start_of_hash = re.fullmatch(r".*-([0-9a-f]{8,})\.pth", path.name)
    try:
        fetch(weights.url, path, start_of_hash[1] if start_of_hash else "")
    except OSError as error:
        raise PretrainedWeightsError(
            f"could not fetch {weights} from {weights.url} ({error}). Either copy that file to {path}, or pass its "
            "path with --model.backbone_weights PATH, or start from random weights with "
            "--model.backbone_weights null (slower to train, lower mAP)"
        ) from None
    return _read(path)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise PretrainedWeightsError(f"backbone_weights: no file {path}")
    try:
        state = read_plain(path)
    except CheckpointError as error:
        raise PretrainedWeightsError(f"backbone_weights: {error}") from None
    if isinstance(state, dict) and isinstance(state.get("model"), dict):  # so a safetensors file is read, too
        state = state["model"]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise PretrainedWeightsError(f"backbone_weights: {path} holds no state dict of tensors")
    return state
