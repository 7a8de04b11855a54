"""Device transforms, batched and of fixed shape: colour jitter by per-image matrices, ImageNet normalisation."""

import functools

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(images: Tensor, colour: Tensor | None = None, channels_last: bool = True) -> Tensor:
    """uint8 images [B, 3, H, W] -> normalised float32 [B, 3, H, W].

    Args:
        colour: float32 [B, 3, 6] of `transforms.colour_matrices`; None leaves the colours alone (evaluation).
        channels_last: memory format of the result.
    """
    mean, std = _imagenet(images.device)
    pixels = images.to(torch.float32)
    if colour is None:
        pixels = (pixels - mean) / std
    else:
        matrix = (colour[..., :3] / std.view(3, 1)).view(-1, 3, 3, 1, 1)
        average = pixels.mean(dim=(2, 3)).unsqueeze(-1)  # [B, 3, 1]
        shift = (torch.matmul(colour[..., 3:], average).unsqueeze(-1) - mean) / std  # [B, 3, 1, 1]
        # Plain products rather than a matmul, which TF32 or bf16 settings would round to less than a grey level.
        pixels = shift + sum(matrix[:, :, channel] * pixels[:, channel : channel + 1] for channel in range(3))
        # The clamp to [0, 255] as bounds per channel, since normalisation is folded into the matrix.
        pixels = pixels.clamp(min=-mean / std, max=(255 - mean) / std)
    return pixels.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@functools.cache
def _imagenet(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [3, 1, 1] in grey levels; kept per device, to copy them there once."""
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return tuple((255 * values).view(3, 1, 1).to(device) for values in (mean, std))
