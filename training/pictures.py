"""Callbacks that show what a network is trained on and what it finds: the first batch, pictures of the first validation
images, and the AP of every class."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger

from coco.annotations import CocoAnnotations
from coco.augment import denormalise
from coco.contact_sheet import MARGIN, TILE, sheet_of
from coco.lettering import drawable_names
from coco.names import plain, unique
from coco.whole_files import replacing
from evaluation.drawing import draw_detections, open_image


class DetectionPictures(pl.Callback):
    """Draws the detections of the first images that the first process validates, above `score_threshold`.

    Each picture has a name of its own, its file's without folder and suffix, and with the image id where that is taken.
    """

    def __init__(self, directory: str | Path, count: int = 12, score_threshold: float = 0.3) -> None:
        self.directory = Path(directory)
        self.count = count
        self.score_threshold = score_threshold
        self._drawn = 0
        self._names: set[str] = set()

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._drawn = 0
        self._names = set()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.is_global_zero:
            return
        for image_id, boxes, scores, labels in zip(batch["image_ids"], *outputs, strict=True):
            if self._drawn == self.count:
                return
            shown = (scores > self.score_threshold).numpy()
            path, picture, truth = _original(trainer.datamodule, int(image_id))
            picture = draw_detections(
                picture,
                boxes.numpy()[shown],
                labels.numpy()[shown],
                scores.numpy()[shown],
                _drawn_names(pl_module),
                truth,
            )
            self.keep(trainer, unique(path.stem, str(int(image_id)), self._names), picture)
            self._drawn += 1

    def keep(self, trainer: pl.Trainer, name: str, picture: Image.Image) -> None:
        with replacing(self.directory / f"{name}.png") as file:
            picture.save(file, format="PNG")


class TensorBoardPictures(DetectionPictures):
    """Shows the same few pictures, with predicted and true boxes, in TensorBoard after every validation epoch.

    Does nothing without a TensorBoardLogger, and in the sanity check.
    """

    def __init__(self, count: int = 4, score_threshold: float = 0.3, side: int = 400) -> None:
        super().__init__("", count, score_threshold)
        self.side = side  # px at most: a run keeps its pictures of every epoch

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        if not trainer.sanity_checking and tensorboard(trainer) is not None:
            super().on_validation_batch_end(trainer, *args, **kwargs)

    def keep(self, trainer: pl.Trainer, name: str, picture: Image.Image) -> None:
        picture.thumbnail((self.side, self.side))
        logger = tensorboard(trainer)
        if logger is not None:
            logger.experiment.add_image(f"val/{name}", np.asarray(picture), trainer.global_step, dataformats="HWC")


class TrainBatch(pl.Callback):
    """Draws the first batch of a run as the network gets it, augmented, with its boxes: `directory`/train_batch.png
    and, where there is a TensorBoardLogger, `train/batch`. A resumed run keeps the sheet of its beginning."""

    def __init__(self, directory: str | Path, count: int = 18) -> None:
        self.path = Path(directory) / "train_batch.png"
        self.count = count

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.count == 0 or not trainer.is_global_zero or (trainer.ckpt_path and self.path.exists()):
            return
        annotations = getattr(trainer.datamodule, "train_annotations", None)
        sheet = draw_batch(self.path, batch, pl_module, annotations, self.count)
        self.count = 0  # done
        logger = tensorboard(trainer)
        if logger is not None:
            logger.experiment.add_image("train/batch", np.asarray(sheet), trainer.global_step, dataformats="HWC")


class ClassPrecision(pl.Callback):
    """Draws the AP of every class in TensorBoard, `class_AP/<name>`, after each validation while training.

    Only there: 80 columns more would drown the rest of a table.
    """

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        logger = tensorboard(trainer)
        if logger is None or trainer.sanity_checking or not trainer.is_global_zero:
            return
        names: set[str] = set()
        for row in pl_module.metric.per_class():
            name = unique(row["name"], str(row["category_id"]), names)
            if row["ground_truths"]:
                logger.experiment.add_scalar(f"class_AP/{name}", row["AP"], trainer.global_step)


def draw_batch(
    path: Path, batch: Any, module: Any, annotations: CocoAnnotations | None, count: int | None = None
) -> Image.Image:
    """Writes a training batch as the network gets it, with its boxes, all of it or its first `count` pictures."""
    count = len(batch["images"]) if count is None else count
    sheet = sheet_of(_tiles(batch, count, _drawn_names(module), annotations))
    with replacing(path) as file:
        sheet.save(file, format="PNG")
    return sheet


def tensorboard(trainer: pl.Trainer) -> TensorBoardLogger | None:
    return next((logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


def _original(datamodule: Any, image_id: int) -> tuple[Path, Image.Image, np.ndarray]:
    """Path, picture and true boxes [G, 4] xyxy in pixels of a validation image."""
    annotations = datamodule.val_annotations
    index = int(np.searchsorted(annotations.image_ids, image_id))
    boxes = annotations.bboxes[annotations.first[index] : annotations.first[index + 1]].copy()
    boxes[:, 2:] += boxes[:, :2]
    return *open_image(annotations, datamodule.val_directory, index), boxes


def _tiles(
    batch: Any, count: int, class_names: Sequence[str], annotations: CocoAnnotations | None
) -> Iterator[tuple[Image.Image, str]]:
    """The first pictures of a training batch with their boxes, and what each is called."""
    images = batch["images"][:count]
    images = (denormalise(images) if images.is_floating_point() else images).permute(0, 2, 3, 1).cpu().numpy()
    boxes, labels = (batch[name][:count].cpu().numpy() for name in ("boxes", "labels"))
    side = TILE - MARGIN
    for pixels, of_image, names, image_id in zip(images, boxes, labels, batch["image_ids"], strict=False):
        picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
        there = names > 0
        drawn = draw_detections(picture, of_image[there] * side, names[there], None, class_names)
        name = f"image {image_id}"
        if annotations is not None:
            name = plain(annotations.file_name(int(np.searchsorted(annotations.image_ids, image_id))))
        yield drawn, name


def _drawn_names(module: Any) -> Sequence[str]:
    return drawable_names(tuple(module.class_names), tuple(module.category_ids))
