"""COCODataModule: serves COCO-format data to Lightning. Loaders, and the device half of the input pipeline."""

import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from coco.annotations import CocoAnnotations
from coco.augment import normalise
from coco.cores import default_workers
from coco.damaged import DamagedImages
from coco.data_file import splits_of
from coco.dataset import EvaluationDataset, TrainingDataset, collate_evaluation, collate_training
from coco.decoding import decoder_name
from coco.names import plain
from coco.picture_files import pictures_digest
from coco.sampler import EvaluationSampler, OverfittingSampler, TrainingSampler
from coco.splits import SPLITS, DataError
from coco.tiles import TrainingTiles, settings_of
from coco.transforms import RECIPE, Augmentation
from coco.views import pictures_at_once
from training.data_settings import (
    NOT_IN_OLDER_RUNS,
    check_numbers,
    checked_augmentation,
    checked_tiling,
)
from training.loader_watch import SteadyLoader, WatchedDataset
from training.position import Position, geometry, position
from training.ranks import gathered
from training.what_changed import check_samples


class COCODataModule(pl.LightningDataModule):
    """COCO-format training and validation data; classes come from the annotations.

    Args:
        data_root: directory of the data set, in the COCO 2017 layout by default; or a file that says where its parts
            are and what to take of them (`coco.data_file`). Settings below that are given go before the file's.
        train_images, val_images: image directories below data_root.
        train_annotations, val_annotations: annotation files below data_root.
        batch_size: images, or tiles, per device and step; the command line replaces `auto` by the most that fit.
        val_batch_size: the same for evaluation; batch_size by default.
        val_limit: evaluate this many images only, the first by image id.
        num_workers: loader processes per device; by default the cores this process may use, at most 8.
        train_backgrounds: train on pictures without any annotation too; the recipe leaves them out, and so does False.
        seed: of the sample order and the augmentation.
        allow_other_samples: resume from a checkpoint although seed, annotations, pictures or decoder are not its run's.
        decoder: of JPEGs: `simplejpeg`, `pillow` (slower; other by rounding, less than 0.1 grey level on average), or
            `auto`, the faster one installed here; `decoder_name` says which.
        augmentation: of training pictures (`coco.transforms.Augmentation`); `--data.augmentation.flip 0` and so on.
        classes: train on and evaluate these classes alone, `person,car`; all by default. Their category ids stay.
        merge_classes: classes that are one, `vehicle=car+truck,pet=cat+dog`, under the least of their category ids.
        single_class: all classes are one.
        val_share: of the training images, for validation, where the data set has no such part; stratified by class
            (`coco.splitting`). val_seed: which ones; the same images for every `seed`.
        upright: boxes are those of pictures turned as their EXIF orientation says; by default of pictures as stored, as
            COCO and the published recipe have them.
        names: of classes by category id, `{1: person}`, in place of the annotations' own.
        tiles: train on tiles of this many pixels a side in place of whole pictures, and evaluate what all tiles of a
            picture and the whole find together (`coco.tiles`, docs/tiles.md); 0 or None, by default, neither.
        tile_overlap, tile_min_area: see `coco.tiles.Tiling`, whose defaults are 0.2 and 0.5.
        damaged_limit: share of the training images that may be damaged. Up to there each is reported and replaced by
            another; `damaged_images` lists them and is saved with checkpoints. Evaluation allows none.

    Batches for the model, after the transfer: images float32 [B, 3, 300, 300], normalised; image_ids int64 [B] (numpy,
    on the CPU); in a fit boxes float32 [B, G, 4] xyxy in [0, 1] and labels int64 [B, G], both 0-padded; evaluation:
    sizes [B, 2] (width, height in pixels).

    Raises:
        DataError: missing directories, annotation files or images, or two annotation files with other categories.
        AnnotationError: an annotation file that cannot be used.
        ImageError: a picture that cannot be used, a decoder that is not there; TooManyDamagedImages in training.
    """

    def __init__(
        self,
        data_root: str = "data/coco",
        train_images: str = "train2017",
        val_images: str = "val2017",
        train_annotations: str = "annotations/instances_train2017.json",
        val_annotations: str = "annotations/instances_val2017.json",
        batch_size: int | Literal["auto"] = 32,
        val_batch_size: int | None = None,
        val_limit: int | None = None,
        num_workers: int | None = None,
        seed: int = 0,
        allow_other_samples: bool = False,
        decoder: str = "auto",
        train_backgrounds: bool = False,
        augmentation: Augmentation = RECIPE,
        classes: str | list[str] | None = None,
        merge_classes: str | dict[str, list[str]] | None = None,
        single_class: bool = False,
        val_share: float | None = None,
        val_seed: int = 0,
        upright: bool = False,
        names: dict[int, str] | None = None,
        tiles: int | None = None,
        tile_overlap: float | None = None,
        tile_min_area: float | None = None,
        damaged_limit: float = 0.01,
    ) -> None:
        super().__init__()
        check_numbers(locals())
        self.augmentation = checked_augmentation(augmentation)
        self.data_root = Path(data_root)
        self._splits = splits_of(locals())
        self.selection = self._splits.selection
        self.tiling = checked_tiling(tiles, tile_overlap, tile_min_area)
        self.normalise = normalise  # or the same compiled (training/compiled.py)
        self.batch_size = int(batch_size)
        self.val_batch_size = self.batch_size if val_batch_size is None else val_batch_size
        self.val_limit = val_limit
        self.num_workers = default_workers() if num_workers is None else num_workers
        self.seed = seed
        self.allow_other_samples = allow_other_samples
        self.start = Position()  # where training goes on; a checkpoint sets it
        self.decoder_name = decoder_name(decoder)
        self._decoder = decoder
        self.train_backgrounds = train_backgrounds
        self._damaged = DamagedImages(damaged_limit)

    @property
    def train_annotations(self) -> CocoAnnotations:
        return self._splits.annotations("train")

    @property
    def val_annotations(self) -> CocoAnnotations:
        return self._splits.annotations("val")

    @property
    def val_directory(self) -> Path:
        return self._splits.directories["val"]

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.train_annotations.class_names

    @property
    def category_ids(self) -> tuple[int, ...]:
        return self.train_annotations.category_ids

    @property
    def damaged_images(self) -> dict[str, str]:
        """Training images found damaged so far: {file name: what is wrong}."""
        return self._damaged.found

    def check(self, stages: Sequence[str] = SPLITS, boxes: bool = True) -> None:
        """As `Splits.check`, which says what it raises."""
        self._splits.check(stages, boxes)

    def setup(self, stage: str) -> None:
        stages = fit_stages(getattr(self.trainer, "limit_val_batches", None)) if stage == "fit" else ("val",)
        needs_boxes = stage != TrainerFn.PREDICTING
        self.check(stages, needs_boxes)
        if self.selection.val_share is not None and self._replicas()[1] == 0:
            images = [len(self._splits.annotations(split)) for split in SPLITS]
            told = f"--data.val_share {self.selection.val_share:g}, --data.val_seed {self.selection.val_seed}"
            print(f"validation: {images[1]} of the {sum(images)} training images ({told})", file=sys.stderr)
        if needs_boxes and self._replicas()[1] == 0:
            for line in self._splits.oddities(stages):
                print(f"warning: {plain(line, lines=True)}", file=sys.stderr)

    def train_dataloader(self) -> DataLoader:
        replicas, rank = self._replicas()
        try:
            start = (self.start.epoch, self.start.samples)
            kind = OverfittingSampler if getattr(self.trainer, "overfit_batches", 0) else TrainingSampler
            sampler = kind(self._train_samples, self.batch_size, self.seed, replicas, rank, start)
        except ValueError as error:
            raise DataError(str(error)) from None
        directory, settings = self._splits.directories["train"], (self._decoder, self.augmentation, self._tiles)
        dataset = TrainingDataset(self.train_annotations, directory, self.seed, *settings)
        return self._loader(WatchedDataset(dataset, self.num_workers), sampler, self.batch_size, collate_training)

    def val_dataloader(self) -> DataLoader:
        length = min(len(self.val_annotations), self.val_limit or len(self.val_annotations))
        sampler = EvaluationSampler(length, *self._replicas())
        fits = self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING  # which logs the loss
        annotations, at_once = self.val_annotations, self.val_batch_size
        images = pictures_at_once(annotations.widths, annotations.heights, self.tiling, at_once)
        dataset = EvaluationDataset(annotations, self.val_directory, self._decoder, fits, self.tiling)
        return self._loader(dataset, sampler, images, partial(collate_evaluation, at_once=at_once))

    test_dataloader = predict_dataloader = val_dataloader

    def state_dict(self) -> dict[str, Any]:
        """The place in the epoch, and what its samples depend on; plain data, in every checkpoint of a fit."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            return {}
        now = geometry(self.trainer, self.batch_size)
        return {
            "position": asdict(position(self.trainer, self.start, now.batch)),
            "geometry": asdict(now),
            "selection": self._chosen,
            "samples_from": self.samples_from(),
            "evaluated_on": self.evaluated_on(),
            "damaged_images": self._all_damaged_images(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Training goes on at that place. Raises CheckpointError if its samples would not be the same."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            return
        self.start = Position(**state["position"])
        self._damaged.found = dict(state["damaged_images"])
        # Lightning cannot know that the loader does begin at the right sample.
        warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
        saved = {**NOT_IN_OLDER_RUNS, **state["samples_from"]}
        check_samples(saved, self.samples_from(), self.allow_other_samples)

    def samples_from(self) -> dict[str, Any]:
        """What the training samples depend on beside (epoch, index); of the pictures a sample is read, once."""
        return {
            "seed": self.seed,
            "annotations": self.train_annotations.digest[:16],
            "pictures": self._train_pictures,
            "decoder": self.decoder_name,
            "train_backgrounds": self.train_backgrounds,
            **self._chosen,
            **{f"augmentation.{name}": value for name, value in asdict(self.augmentation).items()},
        }

    def evaluated_on(self) -> dict[str, Any] | None:
        """What the numbers of a validation depend on beside the model; None where there is none."""
        if getattr(self.trainer, "limit_val_batches", None) == 0:
            return None
        return {
            "annotations": self.val_annotations.digest[:16],
            "pictures": self._val_pictures,
            "images": min(len(self.val_annotations), self.val_limit or len(self.val_annotations)),
            "decoder": self.decoder_name,
            **({"upright": True} if self.selection.upright else {}),
            **({"tiles": self.tiling.size, "tile_overlap": self.tiling.overlap} if self.tiling else {}),
        }

    @property
    def _chosen(self) -> dict[str, Any]:
        """What a run chose of its data, and how it is shown: evaluation does the same."""
        return {**asdict(self.selection), **settings_of(self.tiling)}

    @property
    def num_train_samples(self) -> int:
        """Images, or tiles, that are trained on: those with a usable box, with `train_backgrounds` also those without
        anything."""
        return len(self._train_samples)

    @cached_property
    def num_train_images(self) -> int:
        """The images that those are, or are tiles of."""
        return len(np.unique(self._tiles.images(self._train_samples)))

    @cached_property
    def _train_samples(self) -> np.ndarray:
        backgrounds = self._tiles.backgrounds if self.train_backgrounds else np.zeros(0, np.int64)
        return np.sort(np.concatenate((self._tiles.trainable, backgrounds)))

    @cached_property
    def _tiles(self) -> TrainingTiles:
        return TrainingTiles(self.train_annotations, self.tiling)

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Counts damaged images as training reaches them; their names stay on the host."""
        if "damaged" not in batch:
            return batch
        self._damaged.add(batch["damaged"], self.num_train_images)
        return {key: value for key, value in batch.items() if key != "damaged"}

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """The device half: colour jitter (in training) and normalisation."""
        return {**batch, "images": self.normalise(batch["images"], batch.get("colour"))}

    def _all_damaged_images(self) -> dict[str, str]:
        """Of all processes, which each know their own."""
        self._damaged.found = {name: reason for own in gathered(self._damaged.found) for name, reason in own.items()}
        return dict(self._damaged.found)

    def _loader(self, dataset: Any, sampler: Any, batch_size: int, collate: Any) -> DataLoader:
        device = self.trainer.strategy.root_device.type if self.trainer else "cpu"
        return SteadyLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            pin_memory=device != "cpu",
            # Before torch 2.5 memory is pinned for CUDA unless told otherwise; later the argument is deprecated.
            pin_memory_device=device if device != "cpu" and torch.__version__ < "2.5" else "",
            persistent_workers=self.num_workers > 0,
        )

    def _replicas(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    @cached_property
    def _train_pictures(self) -> str:
        return pictures_digest(self.train_annotations, self._splits.directories["train"])

    @cached_property
    def _val_pictures(self) -> str:
        return pictures_digest(self.val_annotations, self._splits.directories["val"])


def fit_stages(limit_val_batches: Any) -> tuple[str, ...]:
    """The splits that a fit needs; `limit_val_batches` 0 is Lightning's way to train without validation."""
    return ("train",) if limit_val_batches == 0 else ("train", "val")
