"""One picture -> 300x300 uint8 pixels: decode, crop, resize, flip. Runs in the loader's workers."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from coco.annotations import CocoAnnotations
from coco.transforms import draw_sample, generator

# Formats of Pillow's that are decoded; not all, since for some (EPS) it would start another program on the file.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
TRUTHS_MULTIPLE = 8  # ground truths are padded to a multiple of this, so that few shapes reach the device


class ImageError(RuntimeError):
    """A picture that cannot be used; the message names the file."""


class TrainingDataset(torch.utils.data.Dataset):
    """Augmented training samples by (epoch, index) key, see `coco.sampler`.

    A sample: image uint8 [size, size, 3]; boxes float32 [G, 4] xyxy, normalised; labels int64 [G]; colour float32
    [3, 6]; image_id. All of it depends on (seed, epoch, index) and the file alone.
    """

    def __init__(self, annotations: CocoAnnotations, directory: Path, seed: int, size: int = 300) -> None:
        self.annotations = annotations
        self.directory = Path(directory)
        self.seed = seed
        self.size = size

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        boxes, labels = self.annotations.training_boxes(index)
        picture = _annotated_picture(self.annotations, self.directory, index)
        rng = generator(self.seed, epoch, index)
        sample = draw_sample(rng, *picture.size, boxes, labels)
        # Cropped first: resize(box=...) would blend in pixels from outside the crop.
        image = np.asarray(picture.crop(sample.crop).resize((self.size, self.size), Image.Resampling.BILINEAR))
        return {
            "image": image[:, ::-1] if sample.flip else image,
            "boxes": sample.boxes,
            "labels": sample.labels,
            "colour": sample.colour,
            "image_id": int(self.annotations.image_ids[index]),
        }


class EvaluationDataset(torch.utils.data.Dataset):
    """Whole pictures by index: image uint8 [size, size, 3], image_id, and the annotated (width, height).

    Index None is no picture (see `coco.sampler.EvaluationSampler`) and gives None.
    """

    def __init__(self, annotations: CocoAnnotations, directory: Path, size: int = 300) -> None:
        self.annotations = annotations
        self.directory = Path(directory)
        self.size = size

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int | None) -> dict[str, Any] | None:
        if index is None:
            return None
        picture = _annotated_picture(self.annotations, self.directory, index)
        return {
            "image": np.asarray(picture.resize((self.size, self.size), Image.Resampling.BILINEAR)),
            "image_id": int(self.annotations.image_ids[index]),
            "size": picture.size,
        }


def decode(path: Path) -> Image.Image:
    """An RGB picture. Grey, palette, CMYK and 16-bit files are converted; EXIF orientation is ignored, as the published
    recipe and COCO's own tools do.

    Raises:
        ImageError: missing, not a picture, cut off, or too large to decode safely.
    """
    if not os.path.isfile(path):  # a pipe or a device would be waited for
        raise ImageError(f"{path}: no such image file")
    try:
        # From memory: there a reader cannot ask for more bytes than the file has, whatever its header claims.
        with Image.open(io.BytesIO(Path(path).read_bytes()), formats=FORMATS) as picture:
            if picture.mode.startswith("I;16") or picture.mode == "I":
                # Pillow clips 16-bit grey at 255 when converting; scale it instead.
                picture = Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8))
            return picture.convert("RGB")
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image file in one of the formats {', '.join(FORMATS)}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: cannot be decoded ({error})") from None


def collate_training(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """images uint8 [B, 3, H, W] (channels-last in memory), boxes float32 [B, G, 4], labels int64 [B, G], both 0-padded,
    colour float32 [B, 3, 6]; image_ids int64 [B] as numpy, which stays on the CPU."""
    most = max(len(sample["labels"]) for sample in samples)
    most = -(-most // TRUTHS_MULTIPLE) * TRUTHS_MULTIPLE
    boxes = torch.zeros(len(samples), most, 4)
    labels = torch.zeros(len(samples), most, dtype=torch.int64)
    for i, sample in enumerate(samples):
        count = len(sample["labels"])
        boxes[i, :count] = torch.from_numpy(sample["boxes"])
        labels[i, :count] = torch.from_numpy(sample["labels"])
    return {
        "images": _stack(samples),
        "boxes": boxes,
        "labels": labels,
        "colour": torch.from_numpy(np.stack([sample["colour"] for sample in samples])),
        "image_ids": np.array([sample["image_id"] for sample in samples]),
    }


def collate_evaluation(samples: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """images uint8 [B, 3, H, W]; image_ids int64 [B] and sizes int64 [B, 2] (width, height) as numpy. B may be 0."""
    samples = [sample for sample in samples if sample is not None]
    return {
        "images": _stack(samples) if samples else torch.zeros(0, 3, 300, 300, dtype=torch.uint8),
        "image_ids": np.array([sample["image_id"] for sample in samples], dtype=np.int64),
        "sizes": np.array([sample["size"] for sample in samples], dtype=np.int64).reshape(-1, 2),
    }


def _annotated_picture(annotations: CocoAnnotations, directory: Path, index: int) -> Image.Image:
    """The picture, if it has the size that its boxes were drawn for."""
    picture = decode(directory / annotations.file_name(index))
    expected = (int(annotations.widths[index]), int(annotations.heights[index]))
    if picture.size != expected:
        raise ImageError(
            f"{directory / annotations.file_name(index)}: {picture.width}x{picture.height} pixels, but {expected[0]}x"
            f"{expected[1]} in {annotations.path}; its boxes would be wrong. Correct the annotation or the file"
        )
    return picture


def _stack(samples: Sequence[dict[str, Any]]) -> torch.Tensor:
    return torch.from_numpy(np.stack([sample["image"] for sample in samples])).permute(0, 3, 1, 2)
