"""Pictures with boxes: drawing detections, and a callback that draws those of the first validation images."""

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from PIL import Image, ImageDraw, ImageFont

from coco.dataset import decode


def draw_detections(
    picture: Image.Image,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    class_names: Sequence[str],
    true_boxes: np.ndarray | None = None,
) -> Image.Image:
    """A copy of the picture with named, scored boxes in one colour per class, and true boxes in thin white.

    Args:
        boxes, true_boxes: [n, 4] xyxy in pixels of the picture. labels: [n], 1..C. scores: [n].
    """
    picture = picture.convert("RGB")
    draw = ImageDraw.Draw(picture)
    line = max(2, round(max(picture.size) / 250))
    font = ImageFont.load_default(size=max(11, round(max(picture.size) / 40)))
    for box in true_boxes if true_boxes is not None else ():
        draw.rectangle(_within(box, picture), outline=(255, 255, 255), width=max(1, line // 2))
    for box, label, score in sorted(zip(boxes, labels, scores, strict=True), key=lambda found: found[2]):
        colour = class_colour(int(label), len(class_names))
        left, top, right, bottom = _within(box, picture)
        draw.rectangle((left, top, right, bottom), outline=colour, width=line)
        text = f"{class_names[int(label) - 1]} {score:.2f}"
        width, height = draw.textbbox((0, 0), text, font=font)[2:]
        # Above the box if there is room, and never beyond the right border.
        corner = (max(0, min(left, picture.width - width - 4)), top - height - 4 if top > height + 4 else top)
        draw.rectangle((*corner, corner[0] + width + 4, corner[1] + height + 4), fill=colour)
        draw.text((corner[0] + 2, corner[1] + 1), text, fill=_readable_on(colour), font=font)
    return picture


class DetectionPictures(pl.Callback):
    """Draws the detections of the first images that the first process validates, above `score_threshold`."""

    def __init__(self, directory: str | Path, count: int = 12, score_threshold: float = 0.3) -> None:
        self.directory = Path(directory)
        self.count = count
        self.score_threshold = score_threshold
        self._drawn = 0

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._drawn = 0

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
                pl_module.class_names,
                truth,
            )
            self.directory.mkdir(parents=True, exist_ok=True)
            picture.save(self.directory / f"{path.stem}.png")
            self._drawn += 1


def class_colour(label: int, num_classes: int) -> tuple[int, int, int]:
    """Well separated hues, the same for a class in every picture."""
    red, green, blue = colorsys.hsv_to_rgb((label - 1) / num_classes, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _original(datamodule: Any, image_id: int) -> tuple[Path, Image.Image, np.ndarray]:
    """Path, picture and true boxes [G, 4] xyxy in pixels of a validation image."""
    annotations = datamodule.val_annotations
    index = int(np.searchsorted(annotations.image_ids, image_id))
    path = datamodule.val_directory / annotations.file_name(index)
    boxes = annotations.bboxes[annotations.first[index] : annotations.first[index + 1]].copy()
    boxes[:, 2:] += boxes[:, :2]
    return path, decode(path), boxes


def _within(box: np.ndarray, picture: Image.Image) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(value) for value in box)
    left, top = min(max(left, 0), picture.width - 1), min(max(top, 0), picture.height - 1)
    return left, top, max(min(right, picture.width - 1), left), max(min(bottom, picture.height - 1), top)


def _readable_on(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    return (0, 0, 0) if np.dot(colour, (0.299, 0.587, 0.114)) > 140 else (255, 255, 255)
