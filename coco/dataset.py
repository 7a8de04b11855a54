"""One picture -> 300x300 uint8 pixels: decode, crop, resize, flip. Runs in the loader's workers."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coco.annotations import CocoAnnotations
from coco.decoding import INPUT_SIZE, DamagedImageError, ImageError, decode_crop, decode_pixels, resize
from coco.tiles import Tiling, TrainingTiles, boxes_in
from coco.transforms import RECIPE, Augmentation, draw_sample, generator
from coco.views import Views, see

TRUTHS_MULTIPLE = 8  # ground truths are padded to a multiple of this, so that few shapes reach the device
MOST_REPLACEMENTS = 20  # of one sample; with one picture in two damaged all of them are, once in two million samples


class TrainingDataset(torch.utils.data.Dataset):
    """Augmented training samples by (epoch, index) key, see `coco.sampler`. The index is of `tiles`: by default the
    pictures; a tile is augmented as if it were all of its picture.

    A sample: image uint8 [300, 300, 3]; boxes float32 [G, 4] xyxy, normalised; labels int64 [G]; colour float32
    [3, 6]; image_id; damaged. All of it depends on (seed, epoch, index) and the files alone.

    Where the picture is damaged another one, drawn from all of `tiles.trainable`, takes its place, and `damaged`
    says so: {file name: what is wrong}. A missing or unreadable file raises ImageError.
    """

    def __init__(
        self,
        annotations: CocoAnnotations,
        directory: Path,
        seed: int,
        decoder: str = "auto",
        augmentation: Augmentation = RECIPE,
        tiles: TrainingTiles | None = None,
    ) -> None:
        self.annotations = annotations
        self.tiles = tiles or TrainingTiles(annotations)
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
                damaged[self.annotations.file_name(self.tiles.image(index))] = str(error)
        first = next(iter(damaged.values()))
        raise ImageError(f"{len(damaged)} training images drawn one after the other are damaged; the first: {first}")

    def _candidates(self, epoch: int, index: int) -> Iterator[int]:
        """The index, then those that replace it while pictures are damaged."""
        yield index
        replacements = generator(self.seed, epoch, index).spawn(1)[0]  # independent of the crop's draws
        for _ in range(MOST_REPLACEMENTS):
            yield int(replacements.choice(self.tiles.trainable))

    def _sample(self, rng: np.random.Generator, index: int) -> dict[str, Any]:
        image, (left, top, right, bottom) = self.tiles.image(index), self.tiles.window(index)
        sample = draw_sample(rng, right - left, bottom - top, *self.tiles.training_boxes(index), self.augmentation)
        crop = (sample.crop[0] + left, sample.crop[1] + top, sample.crop[2] + left, sample.crop[3] + top)
        size, upright = _annotated_size(self.annotations, image), self.annotations.upright
        return {
            "image": decode_crop(
                self.path(index), INPUT_SIZE, size, crop, sample.flip, self.decoder, sample.place, upright
            ),
            "boxes": sample.boxes,
            "labels": sample.labels,
            "colour": sample.colour,
            "image_id": int(self.annotations.image_ids[image]),
        }

    def path(self, index: int) -> Path:
        """The file of a sample."""
        return self.directory / self.annotations.file_name(self.tiles.image(index))


class EvaluationDataset(torch.utils.data.Dataset):
    """Whole pictures by index: image uint8 [300, 300, 3], image_id, and the annotated (width, height); with a tiling
    image, windows and shared of `coco.views.see`. With `truths` also these: boxes and labels of each view, as in
    training.

    Index None is no picture (see `coco.sampler.EvaluationSampler`) and gives None. Any picture that cannot be used
    raises ImageError: the numbers would not be those of the data set.
    """

    def __init__(
        self,
        annotations: CocoAnnotations,
        directory: Path,
        decoder: str = "auto",
        truths: bool = False,
        tiling: Tiling | None = None,
    ) -> None:
        self.annotations = annotations
        self.directory = Path(directory)
        self.decoder = decoder
        self.truths = truths
        self.tiling = tiling

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int | None) -> dict[str, Any] | None:
        if index is None:
            return None
        size = _annotated_size(self.annotations, index)
        path = self.directory / self.annotations.file_name(index)
        sample: dict[str, Any] = {"image_id": int(self.annotations.image_ids[index]), "size": size}
        truths = self.annotations.training_boxes(index)
        pixels = decode_pixels(path, size, self.decoder, self.annotations.upright)
        if self.tiling is None:
            sample |= {"image": resize(pixels, (INPUT_SIZE, INPUT_SIZE), decoder=self.decoder), "truths": [truths]}
        else:
            sample |= see(pixels, self.tiling, self.decoder)
            windows, least = sample["windows"].tolist(), self.tiling.min_area
            sample["truths"] = [boxes_in(tuple(window), size, *truths, least) for window in windows]
        return sample if self.truths else {key: value for key, value in sample.items() if key != "truths"}


def collate_training(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """images uint8 [B, 3, H, W] (channels-last in memory), boxes float32 [B, G, 4], labels int64 [B, G], both 0-padded,
    colour float32 [B, 3, 6]; for the host, image_ids int64 [B] as numpy and `damaged` of all samples."""
    return {
        "images": _stack(samples),
        **_padded([(sample["boxes"], sample["labels"]) for sample in samples]),
        "colour": torch.from_numpy(np.stack([sample["colour"] for sample in samples])),
        "image_ids": np.array([sample["image_id"] for sample in samples]),
        "damaged": {name: reason for sample in samples for name, reason in sample["damaged"].items()},
    }


def collate_evaluation(samples: Sequence[dict[str, Any] | None], at_once: int = 1) -> dict[str, Any]:
    """images uint8 [B, 3, H, W]; image_ids int64 [B] and sizes int64 [B, 2] (width, height) as numpy. B may be 0.
    Where samples have truths: boxes and labels as in training.

    Of tiled pictures: images, boxes and labels of all V views, and `views`, of which the network is to see `at_once`.
    """
    there = [sample for sample in samples if sample is not None]
    batch = {
        "images": _stack(there) if there else torch.zeros(0, 3, INPUT_SIZE, INPUT_SIZE, dtype=torch.uint8),
        "image_ids": np.array([sample["image_id"] for sample in there], dtype=np.int64),
        "sizes": np.array([sample["size"] for sample in there], dtype=np.int64).reshape(-1, 2),
    }
    if there and "windows" in there[0]:
        counts = np.array([len(sample["windows"]) for sample in there])
        windows, shared = (np.concatenate([sample[name] for sample in there]) for name in ("windows", "shared"))
        batch["views"] = Views(counts, windows, shared, at_once)
    if there and "truths" in there[0]:
        batch |= _padded([truths for sample in there for truths in sample["truths"]])
    return batch


def _padded(truths: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, torch.Tensor]:
    most = max(1, *(len(labels) for _, labels in truths))
    most = -(-most // TRUTHS_MULTIPLE) * TRUTHS_MULTIPLE
    boxes = torch.zeros(len(truths), most, 4)
    labels = torch.zeros(len(truths), most, dtype=torch.int64)
    for i, (of_image, names) in enumerate(truths):
        boxes[i, : len(names)] = torch.from_numpy(of_image)
        labels[i, : len(names)] = torch.from_numpy(names)
    return {"boxes": boxes, "labels": labels}


def _annotated_size(annotations: CocoAnnotations, index: int) -> tuple[int, int]:
    return int(annotations.widths[index]), int(annotations.heights[index])


def _stack(samples: Sequence[dict[str, Any]]) -> torch.Tensor:
    """The images of samples, [H, W, 3] or those of their views, [V, H, W, 3]."""
    images = [sample["image"] if sample["image"].ndim == 4 else sample["image"][None] for sample in samples]
    return torch.from_numpy(np.concatenate(images)).permute(0, 3, 1, 2)
