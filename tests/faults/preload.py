"""What train.py imports, at once or on the way, so that a forked run has it."""

import torch._dynamo
import torch.utils.tensorboard  # noqa: F401
import torchvision  # noqa: F401

import command_line.fit  # noqa: F401
