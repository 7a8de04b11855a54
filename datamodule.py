"""COCODataModule: serves COCO-format data to Lightning. Loaders, and the device half of the input pipeline."""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from coco.annotations import CocoAnnotations
from coco.augment import normalise
from coco.damaged import DamagedImages
from coco.dataset import EvaluationDataset, TrainingDataset, collate_evaluation, collate_training
from coco.decoding import decoder_name
from coco.sampler import EvaluationSampler, TrainingSampler


class DataError(ValueError):
    """The data set is not there or not whole; the message says what was looked for and what to do."""


class COCODataModule(pl.LightningDataModule):
    """COCO-format training and validation data; classes come from the annotations.

    Args:
        data_root: directory of the data set, in the COCO 2017 layout by default.
        train_images, val_images: image directories below data_root.
        train_annotations, val_annotations: annotation files below data_root.
        batch_size: images per device and step. val_batch_size: the same for evaluation; batch_size by default.
        val_limit: evaluate this many images only, the first by image id.
        num_workers: loader processes per device; by default the cores this process may use, at most 8.
        seed: of the sample order and the augmentation.
        decoder: of JPEGs: `simplejpeg`, `pillow` (slower; other by rounding, less than 0.1 grey level on average), or
            `auto`, the faster one installed here; `decoder_name` says which.
        damaged_limit: share of the training images that may be damaged. Up to there each is reported and replaced by
            another; `damaged_images` lists them and is saved with checkpoints. Evaluation allows none.

    Batches for the model, after the transfer: images float32 [B, 3, 300, 300], normalised; image_ids int64 [B] (numpy,
    on the CPU); training: boxes float32 [B, G, 4] xyxy in [0, 1] and labels int64 [B, G], both 0-padded; evaluation:
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
        batch_size: int = 32,
        val_batch_size: int | None = None,
        val_limit: int | None = None,
        num_workers: int | None = None,
        seed: int = 0,
        decoder: str = "auto",
        damaged_limit: float = 0.01,
    ) -> None:
        super().__init__()
        self.data_root = Path(data_root)
        self._directories = {"train": self.data_root / train_images, "val": self.data_root / val_images}
        self._files = {"train": self.data_root / train_annotations, "val": self.data_root / val_annotations}
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size or batch_size
        if batch_size < 1 or self.val_batch_size < 1 or (num_workers or 0) < 0:
            raise DataError(
                f"expected batch sizes of at least 1 and no fewer than 0 workers; got batch_size={batch_size}, "
                f"val_batch_size={val_batch_size}, num_workers={num_workers}"
            )
        if val_limit is not None and val_limit < 1:
            raise DataError(f"--limit {val_limit}: expected a number of images, at least 1")
        self.val_limit = val_limit
        self.num_workers = min(len(os.sched_getaffinity(0)), 8) if num_workers is None else num_workers
        self.seed = seed
        self.decoder_name = decoder_name(decoder)
        self._decoder = decoder
        self._damaged = DamagedImages(damaged_limit)
        if not 0 <= damaged_limit <= 1:
            raise DataError(f"--data.damaged_limit {damaged_limit:g}: expected a share of the images, from 0 to 1")

    @cached_property
    def train_annotations(self) -> CocoAnnotations:
        return self._load("train")

    @cached_property
    def val_annotations(self) -> CocoAnnotations:
        return self._load("val")

    @property
    def val_directory(self) -> Path:
        return self._directories["val"]

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

    def check(self, stages: Sequence[str] = ("train", "val")) -> None:
        """Raises DataError or AnnotationError before any training if the splits are not whole and consistent."""
        missing = [
            str(path)
            for stage in stages
            for path in (self._files[stage], self._directories[stage])
            if not path.exists()
        ]
        if missing:
            raise DataError(_how_to_get_data(self.data_root, missing))
        for stage in stages:
            self._check_images(getattr(self, f"{stage}_annotations"), self._directories[stage])
        if len(stages) == 2:
            self._check_same_classes()

    def setup(self, stage: str) -> None:
        self.check(("train", "val") if stage == "fit" else ("val",))

    def train_dataloader(self) -> DataLoader:
        annotations = self.train_annotations
        replicas, rank = self._replicas()
        try:
            sampler = TrainingSampler(annotations.trainable, self.batch_size, self.seed, replicas, rank)
        except ValueError as error:
            raise DataError(str(error)) from None
        dataset = TrainingDataset(annotations, self._directories["train"], self.seed, decoder=self._decoder)
        return self._loader(dataset, sampler, self.batch_size, collate_training)

    def val_dataloader(self) -> DataLoader:
        length = min(len(self.val_annotations), self.val_limit or len(self.val_annotations))
        sampler = EvaluationSampler(length, *self._replicas())
        dataset = EvaluationDataset(self.val_annotations, self._directories["val"], decoder=self._decoder)
        return self._loader(dataset, sampler, self.val_batch_size, collate_evaluation)

    predict_dataloader = val_dataloader

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Counts damaged images as training reaches them; their names stay on the host."""
        if "damaged" not in batch:
            return batch
        self._damaged.add(batch["damaged"], len(self.train_annotations.trainable))
        return {key: value for key, value in batch.items() if key != "damaged"}

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """The device half: colour jitter (in training) and normalisation."""
        return {**batch, "images": normalise(batch["images"], batch.get("colour"))}

    def state_dict(self) -> dict[str, Any]:
        """Called in every process when one saves a checkpoint: the damaged images of all."""
        if dist.is_available() and dist.is_initialized():
            found: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(found, self._damaged.found)
            self._damaged.found = {name: reason for own in found for name, reason in own.items()}
        return {"damaged_images": dict(self._damaged.found)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._damaged.found = dict(state_dict["damaged_images"])

    def _loader(self, dataset: Any, sampler: Any, batch_size: int, collate: Any) -> DataLoader:
        device = self.trainer.strategy.root_device.type if self.trainer else "cpu"
        return DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            pin_memory=device != "cpu",
            # Before torch 2.5 memory is pinned for CUDA unless told otherwise; later the argument is deprecated.
            pin_memory_device=device if device != "cpu" and torch.__version__ < (2, 5) else "",
            persistent_workers=self.num_workers > 0,
        )

    def _replicas(self) -> tuple[int, int]:
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)

    def _load(self, stage: str) -> CocoAnnotations:
        if not self._files[stage].is_file():
            raise DataError(_how_to_get_data(self.data_root, [str(self._files[stage])]))
        return CocoAnnotations.load(self._files[stage])

    def _check_images(self, annotations: CocoAnnotations, directory: Path) -> None:
        # One listing per directory instead of a stat per file: 118,000 stats take minutes on network disks.
        names = [annotations.file_name(i) for i in range(len(annotations))]
        present = {
            parent: set(os.listdir(directory / parent)) if (directory / parent).is_dir() else set()
            for parent in {os.path.dirname(name) for name in names}
        }
        missing = [name for name in names if os.path.basename(name) not in present[os.path.dirname(name)]]
        if missing:
            raise DataError(
                f"{directory}: {len(missing)} of the {len(names)} images in {annotations.path} are missing, "
                f"first {', '.join(missing[:3])}. Check that the download is whole and the directory the right one"
            )

    def _check_same_classes(self) -> None:
        train, val = self.train_annotations, self.val_annotations
        if (train.category_ids, train.class_names) != (val.category_ids, val.class_names):
            differing = set(zip(train.category_ids, train.class_names, strict=True)) ^ set(
                zip(val.category_ids, val.class_names, strict=True)
            )
            raise DataError(
                f"{train.path} and {val.path} list different categories; not in both: {sorted(differing)[:5]}. "
                "Give both files the same `categories`"
            )
        if len(train.trainable) == 0:
            raise DataError(f"{train.path}: no image has a usable box, so there is nothing to train on")


def check_same_classes(class_names: Sequence[str], category_ids: Sequence[int], annotations: CocoAnnotations) -> None:
    """Raises DataError unless a model's classes are those of an annotation file, by category id and name."""
    model = dict(zip(category_ids, class_names, strict=True))
    data = dict(zip(annotations.category_ids, annotations.class_names, strict=True))
    if model != data:
        differing = sorted(set(model.items()) ^ set(data.items()))
        raise DataError(
            f"the checkpoint's {len(model)} classes are not those of {annotations.path} ({len(data)}); "
            f"not in both: {', '.join(f'{i} {name}' for i, name in differing[:5])}"
        )


def _how_to_get_data(data_root: Path, missing: Sequence[str]) -> str:
    return f"""no data set at {data_root}: looked for {", ".join(missing)}.
Either point --data_root at a data set in COCO 2017 layout, or try the built-in sample:
    python -m coco.sample data/sample
    python train.py --config configs/demo.yaml --data_root data/sample
or get COCO 2017 (about 20 GB to download, 45 GB with the unpacked files):
    mkdir -p data/coco && cd data/coco
    for f in zips/train2017 zips/val2017 annotations/annotations_trainval2017; do
      curl -fLO -C - http://images.cocodataset.org/$f.zip && unzip -q $(basename $f).zip; done"""
