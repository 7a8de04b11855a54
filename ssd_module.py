"""SSDModule: the LightningModule of SSD300. Steps, optimiser, schedule, metric; the detector itself lives in ssd/."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from checkpoints.compatibility import check_is_ours, check_shapes
from checkpoints.fetching import local_file
from checkpoints.files import CheckpointError, is_published, read_checkpoint
from checkpoints.finite import check_finite
from checkpoints.operating_point import operating_point
from checkpoints.published import default_category_ids, to_ours, without_training
from coco.augment import normalise
from coco.names import plain
from coco.tiles import saved_tiling
from ssd.fold import fold_batch_norm
from ssd.loss import MultiBoxLoss, loss_of_boxes
from ssd.model import SSD300
from ssd.postprocess import detect
from training.class_weights import weigh_classes
from training.detecting import Detected, DetectingModule
from training.finetune import check_backbone, take_over
from training.finite import SaveCheck
from training.freezing import check_worth_freezing, freeze_parts, frozen_layers
from training.optimisation import make_optimizer, make_schedule
from training.pretrained import load_backbone
from training.resuming import Resume
from training.settings import ONE_IMAGE, check_settings, check_training_precision
from training.what_changed import (
    check_same_model,
    check_same_optimizer,
    check_same_parts_train,
    drop_average,
    keep_first_weights,
)

BACKGROUND_NEGATIVES = 3  # of a picture without objects; the recipe trains on none (MultiBoxLoss)


class SSDModule(DetectingModule):
    """SSD300 v1.1 with the published recipe's loss, optimiser and schedule.

    Args:
        backbone: resnet18, resnet34, resnet50, resnet101 or resnet152.
        num_classes: C, without background. The command line takes it from the data set.
        class_names: C names; `class 1` .. `class C` by default.
        category_ids: C COCO category ids, ascending; 1..C by default. Label l of the model is category_ids[l - 1].
        backbone_weights: a torchvision weights name (`IMAGENET1K_V2`), the path of a local torchvision state dict, or
            None for random weights. Read when fitting starts, and not when it resumes from a checkpoint.
        finetune_from: a checkpoint (ours or the published recipe's) whose weights are where training starts, in place
            of backbone_weights; class heads are re-made where classes differ (training/finetune.py). Read when
            they would be.
        freeze: parts that are not trained: `backbone`, `norm` (every batch normalisation), or both; their weights and
            running statistics stay (training/freezing.py).
        learning_rate: per 32 images of global batch; scaled linearly by devices x batch x accumulated batches / 32.
        optimizer: `sgd`, the recipe's, or `adamw`.
        momentum, weight_decay: of the optimiser (AdamW's first beta); decay spares biases and normalisation
            (`parameter_groups`).
        class_weights: factors of the classification loss by class name, 1 for those not named; or `balanced`, by how
            rare each is in the training data (training/class_weights.py).
        warmup_steps: optimiser steps of linear warm-up from 0.
        schedule: of the rate after warm-up: `milestones`, or `cosine`, which falls to 0 at the end of the run.
        milestones: epochs after which the rate is multiplied by `gamma`; not used by `cosine`.
        background_prior: the probability of background that the class heads start with, and small weights in all
            heads; None: Xavier's, the recipe's (`SSD300`).
        score_threshold, iou_threshold, max_detections: of `ssd.postprocess.detect`, in validation and prediction.
        channels_last: memory format of the network; faster wherever it was measured.

    Raises:
        ValueError: names or ids that do not fit `num_classes`, an unknown backbone, a number out of the range in
            training/settings.py.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: int = 80,
        class_names: Sequence[str] | None = None,
        category_ids: Sequence[int] | None = None,
        backbone_weights: str | None = None,
        finetune_from: str | None = None,
        freeze: Sequence[str] | str = (),
        learning_rate: float = 2.6e-3,
        optimizer: str = "sgd",
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        class_weights: dict[str, float] | str | None = None,
        warmup_steps: int = 300,
        schedule: str = "milestones",
        milestones: Sequence[int] = (43, 54),
        gamma: float = 0.1,
        background_prior: float | None = None,
        score_threshold: float = 0.05,
        iou_threshold: float = 0.5,
        max_detections: int = 200,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        check_settings(locals())
        class_names = list(class_names or (f"class {label}" for label in range(1, num_classes + 1)))
        category_ids = [int(i) for i in (category_ids or range(1, num_classes + 1))]
        if len(class_names) != num_classes or len(category_ids) != num_classes:
            raise ValueError(
                f"num_classes is {num_classes}, but there are {len(class_names)} class_names and "
                f"{len(category_ids)} category_ids"
            )
        milestones = list(milestones)
        freeze = [freeze] if isinstance(freeze, str) else list(freeze)
        self.save_hyperparameters()  # plain lists and numbers, so checkpoints open with weights_only=True
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self.model = SSD300(backbone, num_classes, background_prior=background_prior)
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        freeze_parts(self.model, freeze)
        self.loss_of_boxes = loss_of_boxes  # or the same compiled (training/compiled.py)
        self.loss = MultiBoxLoss(background_negatives=BACKGROUND_NEGATIVES)
        self.save_check = SaveCheck()

    @property
    def backbone(self) -> torch.nn.Module:
        """The part that Lightning's `BackboneFinetuning` freezes and releases."""
        return self.model.backbone

    def train(self, mode: bool = True) -> "SSDModule":
        """Running statistics of frozen parts stay."""
        super().train(mode)
        for layer in frozen_layers(self.model, self.hparams.freeze):
            layer.eval()
        return self

    @property
    def default_boxes(self) -> Tensor:
        """float32 [A, 4] cxcywh, on the module's device."""
        return self.loss.default_boxes

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised float images [B, 3, 300, 300] -> offsets [B, A, 4], logits [B, A, C + 1], all of the
        network's dtype."""
        images = images.to(self.dtype)  # another one only where weights are not float32, see Lightning's `precision`
        if self.hparams.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return self.model(images)

    def on_fit_start(self) -> None:
        """Weights to start from; not in `setup`, where a resumed run does not yet know that it is one.

        Raises MisconfigurationException for what cannot train.
        """
        self._check_trainable()
        weigh_classes(self)
        if self.trainer.ckpt_path:
            return
        check_worth_freezing(self.hparams)
        if self.hparams.finetune_from:
            source = load_module(self.hparams.finetune_from)
            check_backbone(self.hparams.finetune_from, source, self.hparams.backbone)
            said = take_over(source, self)
            if self.trainer.is_global_zero:
                print(plain(f"fine-tuning from {self.hparams.finetune_from}: {said}", lines=True))
        elif self.hparams.backbone_weights:
            load_backbone(self.model, self.hparams.backbone, self.hparams.backbone_weights)

    def _check_trainable(self) -> None:
        check_training_precision(self.trainer.precision)
        if self.device.type == "mlu" and not self.hparams.channels_last:
            rank_zero_warn(
                "--model.channels_last false: an MLU's convolutions compute in channels-last and permute all else"
            )
        alone = self.trainer.world_size == 1 or not any(isinstance(m, torch.nn.SyncBatchNorm) for m in self.modules())
        if alone and "norm" not in self.hparams.freeze and getattr(self.trainer.datamodule, "batch_size", None) == 1:
            raise MisconfigurationException(ONE_IMAGE)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("hyper_parameters", {})
        check_same_model(saved, self.hparams)
        if self._trainer and self.trainer.state.fn == TrainerFn.FITTING:
            keep_first_weights(saved, self.hparams)
            check_same_parts_train(saved, self.hparams)
            check_same_optimizer(saved, self.hparams)
            check_finite(checkpoint, self.trainer.ckpt_path)
            drop_average(checkpoint, self.trainer)
            self.save_check.step = checkpoint["global_step"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The last look at what is to be saved, whoever saves it; on all ranks."""
        self.save_check(checkpoint, self._trainer)  # None in a checkpoint that no fit makes

    def configure_callbacks(self) -> list[pl.Callback]:
        """What a run needs to go on exactly, whoever made its Trainer."""
        return [Resume()]

    def optimise_for_inference(self, compile: bool = False) -> "SSDModule":
        """Folds batch normalisation into the convolutions and, if asked, compiles the network; training ends here.

        Scores move by rounding only (about 1e-6). Precision is the Trainer's: `precision="16-mixed"` or `"bf16-mixed"`.
        """
        self.model = fold_batch_norm(self.model)
        if compile:
            self.model.compile()
        return self.eval()

    # Training

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """batch: images, boxes and labels of `COCODataModule`. Returns the loss and its detached parts."""
        localisation, confidence = self._losses(batch, *self(_normalised(batch)))
        loss = localisation + confidence
        parts = {"localisation": localisation.detach(), "confidence": confidence.detach()}
        every = self._trainer.log_every_n_steps if self._trainer else 0
        if every and (self.trainer.global_step + 1) % every == 0:  # in others it would only cost time
            # Without prog_bar: for it Lightning reads the device in every step. training/losses.py gives the bar its
            # loss, and logs the epoch's mean.
            logged = {"train/loss_step": loss, **{f"train/{name}": value for name, value in parts.items()}}
            self.log_dict(logged, batch_size=len(batch["images"]))
        return {"loss": loss, **parts}

    def _losses(self, batch: dict[str, Any], offsets: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Localisation and confidence, means over the batch."""
        return self.loss_of_boxes(self.loss, offsets, logits, batch["boxes"].float(), batch["labels"])

    def configure_optimizers(self) -> dict[str, Any]:
        """See training/optimisation.py."""
        optimizer = make_optimizer(self.hparams, self.model, self.trainer)
        schedule = make_schedule(self.hparams, optimizer, self.trainer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # Validation and prediction: what all detectors share is the base's

    def outputs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return self(_normalised(batch))

    def detections(self, outputs: tuple[Tensor, Tensor], score_threshold: float) -> Detected:
        iou_threshold, max_detections = self.hparams.iou_threshold, self.hparams.max_detections
        return detect(
            *outputs, self.default_boxes, score_threshold, iou_threshold=iou_threshold, max_detections=max_detections
        )

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Detected:
        """As the base's; in a fit the batch has boxes and labels too, for the loss."""
        size, losses = len(batch["images"]), []
        fits = self.trainer.state.fn == TrainerFn.FITTING and ("boxes" in batch or size == 0)

        def outputs_of(part: dict[str, Any]) -> tuple[Tensor, Tensor]:
            outputs = self.outputs(part)
            if fits:
                losses.append(sum(self._losses(part, *outputs)) * len(part["images"]) / size)
            return outputs

        detections = self.evaluate(batch, outputs_of)
        if fits:  # ranks without images, too: their sums are reduced together
            loss = sum(losses, torch.zeros((), device=self.device))
            self.log("val/loss", loss, on_epoch=True, batch_size=size, sync_dist=True)
        return detections


def _normalised(batch: dict[str, Any]) -> Tensor:
    """The images of a batch; where no data module saw to them (`trainer.validate(dataloaders=...)`) they are uint8."""
    images = batch["images"]
    return images if images.is_floating_point() else normalise(images, batch.get("colour"))


def load_module(path: str | Path) -> SSDModule:
    """An `SSDModule` on the CPU from a Lightning checkpoint of ours or a `.pt` file of the published recipe.

    Args:
        path: a file, or what is fetched: a name or an https:// address (`checkpoints.fetching.local_file`).

    Backbone and classes come from the file, and thresholds per class and tiles where it has them; pretrained weights
    are not fetched.

    Raises:
        CheckpointError: missing, torn, of neither format, or more than plain data.
    """
    path = local_file(path)
    checkpoint = read_checkpoint(path)
    if is_published(checkpoint):
        checkpoint = to_ours(without_training(checkpoint), path)
        hparams = checkpoint["hyper_parameters"]
        hparams.setdefault("category_ids", default_category_ids(hparams["num_classes"]))
    check_is_ours(checkpoint, path)
    try:
        check_shapes(checkpoint)
        module = SSDModule(**{**checkpoint["hyper_parameters"], "backbone_weights": None})
        module.load_state_dict(checkpoint["state_dict"])
        module.operating_point = operating_point(checkpoint, module.hparams.num_classes, path)
        module.tiling = saved_tiling(checkpoint.get("COCODataModule", {}).get("selection", {}))
    except CheckpointError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError, OverflowError) as error:
        raise CheckpointError(f"{path}: does not fit this project's SSDModule ({str(error)[:400]})") from None
    return module
