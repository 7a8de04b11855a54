"""Device transforms, batched and of fixed shape: colour jitter by per-image matrices, ImageNet normalisation."""

import functools

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(images: Tensor, colour: Tensor | None = None, channels_last: bool = True) -> Tensor:
    """uint8 images [B, 3, H, W] -> normalised float32 [B, 3, H, W].

    Args:
        colour: float [B, 3, 6] of `transforms.colour_matrices`; None leaves the colours alone (evaluation).
        channels_last: memory format of the result.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    if images.device.type != "cpu" or torch.compiler.is_compiling():
        return _normalise(images, colour).contiguous(memory_format=memory_format)
    # One image at a time stays in the cache; the same operations, so the same result.
    normalised = torch.empty(images.shape, dtype=torch.float32, memory_format=memory_format)
    for i in range(len(images)):
        one = slice(i, i + 1)
        normalised[one] = _normalise(images[one], None if colour is None else colour[one])
    return normalised


def denormalise(images: Tensor) -> Tensor:
    """What `normalise` made float32 [B, 3, H, W], as uint8 again, to be looked at."""
    mean, std = _imagenet(images.device)
    return (images.float() * std + mean).round().clamp(0, 255).to(torch.uint8)


def _normalise(images: Tensor, colour: Tensor | None) -> Tensor:
    mean, std = _imagenet(images.device)
    pixels = images.to(torch.float32, memory_format=torch.contiguous_format)  # whole planes vectorise
    if colour is None:
        return (pixels - mean) / std
    colour = colour.float()
    matrix = (colour[..., :3] / std.view(3, 1)).view(-1, 3, 3, 1, 1)
    average = pixels.mean(dim=(2, 3)).unsqueeze(-1)  # [B, 3, 1]
    shift = (torch.matmul(colour[..., 3:], average).unsqueeze(-1) - mean) / std  # [B, 3, 1, 1]
    # Plain products rather than a matmul, which TF32 or bf16 settings would round to less than a grey level.
    jittered = torch.addcmul(shift, matrix[:, :, 0], pixels[:, 0:1])
    jittered.addcmul_(matrix[:, :, 1], pixels[:, 1:2]).addcmul_(matrix[:, :, 2], pixels[:, 2:3])
    # The clamp to [0, 255] as bounds per channel, since normalisation is folded into the matrix.
    torch.maximum(jittered, -mean / std, out=jittered)
    return torch.minimum(jittered, (255 - mean) / std, out=jittered)


@torch.compiler.assume_constant_result  # a compiler would trace what is cached, and not cache it
def _imagenet(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [3, 1, 1] in grey levels; kept per device, to copy them there once."""
    return _cached_imagenet(device)


@functools.cache
def _cached_imagenet(device: torch.device) -> tuple[Tensor, Tensor]:
    # float32 by name: the precision of a network may set another default.
    mean, std = (255 * torch.tensor(values, dtype=torch.float32) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return mean.view(3, 1, 1).to(device), std.view(3, 1, 1).to(device)
