"""The annotations behind what a Trainer was given to evaluate: a data module, or a loader of one."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from coco.annotations import CocoAnnotations

USE = "`COCODataModule(data_root)`, or the loader of its `val_dataloader()`"


def evaluated_annotations(trainer: pl.Trainer) -> CocoAnnotations:
    """Those that `trainer.validate` or `trainer.test` evaluates.

    Raises:
        MisconfigurationException: they are not of a `COCODataModule`; or a loader was given to several processes,
            which would each evaluate all of it.
    """
    given = trainer.datamodule if trainer.datamodule is not None else _loader(trainer)
    data = given if trainer.datamodule is not None else getattr(given, "dataset", None)
    annotations = getattr(data, "val_annotations", getattr(data, "annotations", None))
    if not isinstance(annotations, CocoAnnotations):
        raise MisconfigurationException(f"evaluation was given a {type(given).__name__} without annotations; use {USE}")
    if trainer.datamodule is None and trainer.world_size > 1:
        raise MisconfigurationException(
            f"each of {trainer.world_size} processes would evaluate all images of the loader given; use "
            "`datamodule=COCODataModule(data_root)`, which shares them out"
        )
    return annotations


def _loader(trainer: pl.Trainer) -> Any:
    loaders = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
    return loaders[0] if isinstance(loaders, list) and len(loaders) == 1 else loaders
