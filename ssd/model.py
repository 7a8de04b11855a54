"""SSD300 v1.1: a ResNet cut after layer3, five extra blocks, and one pair of convolutional heads per feature map.

Source: the published recipe's ResNet variant of SSD (Liu et al., 2016); the strides of layer3's first block become 1,
so a 300x300 image gives maps of 38, 19, 10, 5, 3 and 1 cells a side.
"""

import math

import torch
import torchvision
from torch import Tensor, nn

from ssd.default_boxes import BOXES_PER_CELL

# Channels of the six feature maps; the first is the backbone's own.
FEATURE_CHANNELS = {
    "resnet18": (256, 512, 512, 256, 256, 128),
    "resnet34": (256, 512, 512, 256, 256, 256),
    "resnet50": (1024, 512, 512, 256, 256, 256),
    "resnet101": (1024, 512, 512, 256, 256, 256),
    "resnet152": (1024, 512, 512, 256, 256, 256),
}
BOTTLENECK_CHANNELS = (256, 256, 128, 128, 128)
_RESNET_PARTS = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
HEAD_STD = 0.01  # of a head's weights beside a background_prior, as RetinaNet's
STRIDED_BLOCKS = 3  # blocks 0-2 halve the map with stride 2; the last two shrink it by leaving out the padding


class SSD300(nn.Module):
    """Maps normalised images to box offsets and class logits of all 8732 default boxes.

    Args:
        backbone: a key of `FEATURE_CHANNELS`.
        num_classes: C, without background.
        backbone_weights: a torchvision ResNet state dict to start the backbone from (training/pretrained.py reads it),
            or None for random weights.
        background_prior: every default box starts with this probability of background, and all heads with small
            weights, so that the first steps are not spent on unlearning large random scores (after Lin et al. 2017,
            "Focal Loss", sections 3.3 and 4.1). None: Xavier-uniform heads with random biases, as in the recipe.

    Raises:
        ValueError: unknown backbone, fewer than one class, or weights of another network.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: int = 80,
        backbone_weights: dict[str, Tensor] | None = None,
        background_prior: float | None = None,
    ) -> None:
        super().__init__()
        if backbone not in FEATURE_CHANNELS:
            raise ValueError(f"backbone must be one of {', '.join(FEATURE_CHANNELS)}; got {backbone!r}")
        if num_classes < 1:
            raise ValueError(
                f"num_classes counts the classes without background and must be at least 1; got {num_classes}"
            )
        self.num_classes = num_classes
        channels = FEATURE_CHANNELS[backbone]
        self.backbone = _backbone(backbone)
        self.extra_blocks = nn.ModuleList(
            _extra_block(channels[i], BOTTLENECK_CHANNELS[i], channels[i + 1], strided=i < STRIDED_BLOCKS)
            for i in range(len(BOTTLENECK_CHANNELS))
        )
        self.offset_heads = nn.ModuleList(
            nn.Conv2d(width, boxes * 4, kernel_size=3, padding=1)
            for width, boxes in zip(channels, BOXES_PER_CELL, strict=True)
        )
        self.logit_heads = nn.ModuleList(
            nn.Conv2d(width, boxes * (num_classes + 1), kernel_size=3, padding=1)
            for width, boxes in zip(channels, BOXES_PER_CELL, strict=True)
        )
        for part in (self.extra_blocks, self.offset_heads, self.logit_heads):
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
        if background_prior is not None:
            self._start_heads(background_prior)
        if backbone_weights is not None:
            self.load_backbone(backbone_weights)

    def _start_heads(self, background_prior: float) -> None:
        for head in (*self.offset_heads, *self.logit_heads):
            nn.init.normal_(head.weight, std=HEAD_STD)
            nn.init.zeros_(head.bias)
        for head in self.logit_heads:
            bias = head.get_parameter("bias").detach().view(-1, self.num_classes + 1)  # [boxes of a cell, C + 1]
            bias[:, 0] = math.log(background_prior * self.num_classes / (1 - background_prior))

    def load_backbone(self, weights: dict[str, Tensor]) -> None:
        """Copies a torchvision ResNet's state dict into the backbone; its layer4 and classifier are not used."""
        own = {
            _RESNET_PARTS[int(key.split(".", 1)[0])] + "." + key.split(".", 1)[1]: value
            for key, value in self.backbone.state_dict().items()
        }
        wrong = [key for key, value in own.items() if key not in weights or weights[key].shape != value.shape]
        if wrong:
            raise ValueError(
                f"backbone weights do not fit: {len(wrong)} of {len(own)} tensors are missing or of another shape, "
                f"first {wrong[0]}; expected a torchvision ResNet of the same depth"
            )
        with torch.no_grad():
            for key, value in own.items():
                value.copy_(weights[key])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images [B, 3, 300, 300] -> offsets [B, A, 4], logits [B, A, C + 1], class 0 = background."""
        features = [self.backbone(images)]
        for block in self.extra_blocks:
            features.append(block(features[-1]))
        offsets = [_per_box(head(x), 4) for head, x in zip(self.offset_heads, features, strict=True)]
        logits = [_per_box(head(x), self.num_classes + 1) for head, x in zip(self.logit_heads, features, strict=True)]
        return torch.cat(offsets, dim=1), torch.cat(logits, dim=1)


def _per_box(maps: Tensor, width: int) -> Tensor:
    """[B, K * width, H, W] -> [B, H * W * K, width]; a view when the maps are channels-last."""
    return maps.permute(0, 2, 3, 1).reshape(maps.shape[0], -1, width)


def _extra_block(channels: int, bottleneck: int, out_channels: int, strided: bool) -> nn.Sequential:
    stride, padding = (2, 1) if strided else (1, 0)
    return nn.Sequential(
        nn.Conv2d(channels, bottleneck, kernel_size=1, bias=False),
        nn.BatchNorm2d(bottleneck),
        nn.ReLU(inplace=True),
        nn.Conv2d(bottleneck, out_channels, kernel_size=3, stride=stride, padding=padding, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _backbone(name: str) -> nn.Sequential:
    resnet = getattr(torchvision.models, name)(weights=None)
    first = resnet.layer3[0]
    first.conv1.stride = first.conv2.stride = (1, 1)
    first.downsample[0].stride = (1, 1)
    return nn.Sequential(*(getattr(resnet, part) for part in _RESNET_PARTS))
