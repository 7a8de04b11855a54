"""A backbone for tests of all that is around the network: `thin`, in the shapes of SSD300, with few channels.

A step of resnet18 takes nearly a second a picture and core, one of this a tenth of it. What asserts something of the
network itself or of the recipe's own weights takes a real one. Importing this file makes the name known to its process:
tests/conftest.py does it here, and `--trainer.callbacks+=tests.thin.Known` in a child process.
"""

from types import SimpleNamespace

import pytorch_lightning as pl
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock

from checkpoints.published import _BLOCKS_TO_BACKBONE
from ssd.model import FEATURE_CHANNELS

CHANNELS = (8, 16, 32)  # of layer1, layer2 and layer3


def resnet(weights: None = None) -> SimpleNamespace:
    """As much of a torchvision ResNet as SSD300 takes: one block a layer."""
    first, second, third = CHANNELS
    return SimpleNamespace(
        conv1=nn.Conv2d(3, first, kernel_size=7, stride=2, padding=3, bias=False),
        bn1=nn.BatchNorm2d(first),
        relu=nn.ReLU(inplace=True),
        maxpool=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        layer1=nn.Sequential(BasicBlock(first, first)),
        layer2=nn.Sequential(_halving(first, second)),
        layer3=nn.Sequential(_halving(second, third)),
    )


class Known(pl.Callback):
    """Does nothing; naming it in a configuration imports this file."""


def _halving(channels: int, out_channels: int) -> BasicBlock:
    shortcut = nn.Sequential(nn.Conv2d(channels, out_channels, 1, 2, bias=False), nn.BatchNorm2d(out_channels))
    return BasicBlock(channels, out_channels, stride=2, downsample=shortcut)


FEATURE_CHANNELS["thin"] = (CHANNELS[-1], 64, 64, 64, 64, 64)
_BLOCKS_TO_BACKBONE[1, 1, 1, 2] = "thin"
torchvision.models.thin = resnet
