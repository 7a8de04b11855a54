"""ImageNet weights for the backbone: by torchvision's name for them, or from a local file."""

import pickle
from pathlib import Path
from urllib.parse import urlsplit

import torch
import torchvision
from torch import Tensor


class PretrainedWeightsError(RuntimeError):
    """The backbone's weights cannot be had; the message says how to go on."""


def backbone_weights(backbone: str, weights: str) -> dict[str, Tensor]:
    """A torchvision ResNet state dict, on the CPU.

    Args:
        backbone: resnet18 .. resnet152.
        weights: a torchvision weights name such as `IMAGENET1K_V2` (downloaded once, then cached by torch.hub), or the
            path of a file with a torchvision state dict.

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
    try:
        return weights.get_state_dict(progress=True, check_hash=True, map_location="cpu")
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
        file = Path(urlsplit(weights.url).path).name
        raise PretrainedWeightsError(
            f"could not fetch {weights} from {weights.url} ({error}). Either copy that file to "
            f"{Path(torch.hub.get_dir()) / 'checkpoints' / file}, or pass its path with --model.backbone_weights PATH, "
            "or start from random weights with --model.backbone_weights null (slower to train, lower mAP)"
        ) from None


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise PretrainedWeightsError(f"backbone_weights: no file {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise PretrainedWeightsError(
            f"backbone_weights: {path} is no plain torch state dict ({str(error)[:120]})"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise PretrainedWeightsError(f"backbone_weights: {path} holds no state dict of tensors")
    return state
