"""`--compile_training`: what a training step computes, compiled."""

from collections.abc import Callable

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn.functional import pad

from coco.augment import normalise
from ssd.loss import MultiBoxLoss, loss_of_boxes


class CompileTraining(pl.Callback):
    """Compiles, when a fit is set up, the network (in validation too), matching with the loss, and the pictures'
    colours. Names of weights stay, so any checkpoint goes on with it or without it.

    Args:
        backend: of `torch.compile`.
    """

    def __init__(self, backend: str = "inductor") -> None:
        self.backend = backend

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            pl_module.model.compile(backend=self.backend)
            pl_module.loss_of_boxes = compiled_loss(self.backend)
            if trainer.datamodule is not None:
                trainer.datamodule.normalise = compiled_normalise(self.backend)


def compiled_loss(backend: str | Callable) -> Callable[..., tuple[Tensor, Tensor]]:
    """`loss_of_boxes` as one graph for any number of ground truths; in evaluation, whose batches differ, as it is."""
    compiled = torch.compile(loss_of_boxes, backend=backend, fullgraph=True)

    def loss(
        criterion: MultiBoxLoss, offsets: Tensor, logits: Tensor, boxes: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled():
            return loss_of_boxes(criterion, offsets, logits, boxes, labels)
        missing = max(0, 2 - labels.shape[1])  # a compiler takes 0 and 1 for constants
        boxes, labels = pad(boxes, (0, 0, 0, missing)), pad(labels, (0, missing))
        torch._dynamo.mark_dynamic(boxes, 1)
        torch._dynamo.mark_dynamic(labels, 1)
        return compiled(criterion, offsets, logits, boxes, labels)

    return loss


def compiled_normalise(backend: str | Callable) -> Callable[..., Tensor]:
    """`normalise` of pictures with colours to change; others, those of evaluation, as it is."""
    compiled = torch.compile(normalise, backend=backend, fullgraph=True)
    return lambda images, colour=None: normalise(images) if colour is None else compiled(images, colour)
