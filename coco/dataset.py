"""One picture -> 300x300 uint8 pixels: decode, crop, resize, flip. Runs in the loader's workers."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coco.annotations import CocoAnnotations
from coco.decoding import INPUT_SIZE, DamagedImageError, ImageError, decode_crop
from coco.transforms import RECIPE, Augmentation, draw_sample, generator

TRUTHS_MULTIPLE = 8  # ground truths are padded to a multiple of this, so that few shapes reach the device
MOST_REPLACEMENTS = 20  # of one sample; with one picture in two damaged all of them are, once in two million samples


class TrainingDataset(torch.utils.data.Dataset):
    """Augmented training samples by (epoch, index) key, see `coco.sampler`.

    A sample: image uint8 [300, 300, 3]; boxes float32 [G, 4] xyxy, normalised; labels int64 [G]; colour float32
    [3, 6]; image_id; damaged. All of it depends on (seed, epoch, index) and the files alone.

    Where the picture is damaged another one, drawn from all of `annotations.trainable`, takes its place, and `damaged`
    says so: {file name: what is wrong}. A missing or unreadable file raises ImageError.
    """

    def __init__(
        self,
        annotations: CocoAnnotations,
        directory: Path,
        seed: int,
        decoder: str = "auto",
        augmentation: Augmentation = RECIPE,
    ) -> None:
        self.annotations = annotations
        self.directory = Path(directory)
        self.seed = seed
        self.decoder = decoder
        self.augmentation = augmentation

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        damaged: dict[str, str] = {}
        for index in self._candidates(*key):
            try:
                return {**self._sample(generator(self.seed, *key), index), "damaged": damaged}
            except DamagedImageError as error:
                damaged[self.annotations.file_name(index)] = str(error)
        first = next(iter(damaged.values()))
        raise ImageError(f"{len(damaged)} training images drawn one after the other are damaged; the first: {first}")

    def _candidates(self, epoch: int, index: int) -> Iterator[int]:
        """The index, then those that replace it while pictures are damaged."""
        yield index
        replacements = generator(self.seed, epoch, index).spawn(1)[0]  # independent of the crop's draws
        for _ in range(MOST_REPLACEMENTS):
            yield int(replacements.choice(self.annotations.trainable))

    def _sample(self, rng: np.random.Generator, index: int) -> dict[str, Any]:
        boxes, labels = self.annotations.training_boxes(index)
        size = _annotated_size(self.annotations, index)
        sample = draw_sample(rng, *size, boxes, labels, self.augmentation)
        path = self.directory / self.annotations.file_name(index)
        return {
            "image": decode_crop(
                path, INPUT_SIZE, size, sample.crop, sample.flip, self.decoder, sample.place, self.annotations.upright
            ),
            "boxes": sample.boxes,
            "labels": sample.labels,
            "colour": sample.colour,
            "image_id": int(self.annotations.image_ids[index]),
        }


class EvaluationDataset(torch.utils.data.Dataset):
    """Whole pictures by index: image uint8 [300, 300, 3], image_id, and the annotated (width, height); with `truths`
    also boxes and labels, as in training.

    Index None is no picture (see `coco.sampler.EvaluationSampler`) and gives None. Any picture that cannot be used
    raises ImageError: the numbers would not be those of the data set.
    """

    def __init__(
        self, annotations: CocoAnnotations, directory: Path, decoder: str = "auto", truths: bool = False
    ) -> None:
        self.annotations = annotations
        self.directory = Path(directory)
        self.decoder = decoder
        self.truths = truths

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int | None) -> dict[str, Any] | None:
        if index is None:
            return None
        size = _annotated_size(self.annotations, index)
        path = self.directory / self.annotations.file_name(index)
        boxes, labels = self.annotations.training_boxes(index)
        return {
            "image": decode_crop(path, INPUT_SIZE, size, decoder=self.decoder, upright=self.annotations.upright),
            "image_id": int(self.annotations.image_ids[index]),
            "size": size,
            **({"boxes": boxes, "labels": labels} if self.truths else {}),
        }


def collate_training(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """images uint8 [B, 3, H, W] (channels-last in memory), boxes float32 [B, G, 4], labels int64 [B, G], both 0-padded,
    colour float32 [B, 3, 6]; for the host, image_ids int64 [B] as numpy and `damaged` of all samples."""
    return {
        "images": _stack(samples),
        **_padded_truths(samples),
        "colour": torch.from_numpy(np.stack([sample["colour"] for sample in samples])),
        "image_ids": np.array([sample["image_id"] for sample in samples]),
        "damaged": {name: reason for sample in samples for name, reason in sample["damaged"].items()},
    }


def collate_evaluation(samples: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """images uint8 [B, 3, H, W]; image_ids int64 [B] and sizes int64 [B, 2] (width, height) as numpy. B may be 0.
    Where samples have truths: boxes and labels as in training."""
    there = [sample for sample in samples if sample is not None]
    return {
        "images": _stack(there) if there else torch.zeros(0, 3, INPUT_SIZE, INPUT_SIZE, dtype=torch.uint8),
        "image_ids": np.array([sample["image_id"] for sample in there], dtype=np.int64),
        "sizes": np.array([sample["size"] for sample in there], dtype=np.int64).reshape(-1, 2),
        **(_padded_truths(there) if there and "boxes" in there[0] else {}),
    }


def _padded_truths(samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
    most = max(1, *(len(sample["labels"]) for sample in samples))
    most = -(-most // TRUTHS_MULTIPLE) * TRUTHS_MULTIPLE
    boxes = torch.zeros(len(samples), most, 4)
    labels = torch.zeros(len(samples), most, dtype=torch.int64)
    for i, sample in enumerate(samples):
        count = len(sample["labels"])
        boxes[i, :count] = torch.from_numpy(sample["boxes"])
        labels[i, :count] = torch.from_numpy(sample["labels"])
    return {"boxes": boxes, "labels": labels}


def _annotated_size(annotations: CocoAnnotations, index: int) -> tuple[int, int]:
    return int(annotations.widths[index]), int(annotations.heights[index])


def _stack(samples: Sequence[dict[str, Any]]) -> torch.Tensor:
    return torch.from_numpy(np.stack([sample["image"] for sample in samples])).permute(0, 3, 1, 2)
