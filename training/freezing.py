"""Parts of a network that training leaves as they are, their running statistics too."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BaseFinetuning
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssd.model import SSD300

FREEZABLE = ("backbone", "norm")


def freeze_parts(model: SSD300, parts: Sequence[str]) -> None:
    """Takes the weights of `parts` out of training: `backbone`, `norm` (every batch normalisation), or both."""
    for layer in frozen_layers(model, parts):
        layer.requires_grad_(False).eval()


def frozen_layers(model: SSD300, parts: Sequence[str]) -> Iterator[nn.Module]:
    """What has to be in evaluation mode for the running statistics of `parts` to stay. Found anew in every call: sync
    batch norm puts other layers in their places."""
    if "backbone" in parts:
        yield model.backbone
    if "norm" in parts:
        yield from (layer for layer in model.modules() if isinstance(layer, _BatchNorm))


def check_worth_freezing(hparams: Mapping[str, Any]) -> None:
    """Raises MisconfigurationException where a run would keep random weights to its end."""
    if "backbone" in hparams["freeze"] and not (hparams["finetune_from"] or hparams["backbone_weights"]):
        raise MisconfigurationException(
            "--model.freeze backbone: it would keep random weights. Start from trained ones: --finetune_from CKPT, or "
            "--model.backbone_weights IMAGENET1K_V2"
        )


def release_what_is_stepped(trainer: pl.Trainer, module: nn.Module) -> None:
    """In a resumed run, what Lightning's finetuning callbacks had released trains again: they give it back to the
    optimiser, but leave it frozen."""
    if not any(isinstance(callback, BaseFinetuning) for callback in trainer.callbacks):
        return
    stepped = {p for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]}
    BaseFinetuning.make_trainable(
        [layer for layer in module.modules() if not stepped.isdisjoint(layer.parameters(recurse=False))]
    )
