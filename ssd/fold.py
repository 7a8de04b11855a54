"""Batch normalisation folded into the convolutions before it: the same function in evaluation, with half the layers."""

import copy
import itertools
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Model = TypeVar("Model", bound=nn.Module)


def fold_batch_norm(model: Model) -> Model:
    """A copy of the model in evaluation mode, every BatchNorm2d folded into the Conv2d listed just before it.

    That order of children is the order of computation in torchvision's ResNets and in nn.Sequential, of which
    SSD300 is made. The copy cannot be trained.
    """
    folded = copy.deepcopy(model).eval()
    for module in list(folded.modules()):
        children = list(module.named_children())
        for (conv_name, conv), (norm_name, norm) in itertools.pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity())
    return folded
