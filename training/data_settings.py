"""The settings of `COCODataModule`, checked by name before anything is read."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from coco.selection import WHOLE
from coco.splits import DataError
from coco.tiles import Tiling, TilingError, tiling_from
from coco.transforms import Augmentation
from training.ranges import Range, out_of_range

RANGES = {
    "batch_size": Range(1, whole=True),
    "val_batch_size": Range(1, whole=True),
    "num_workers": Range(0, whole=True),
    "seed": Range(0, 2**32 - 1, whole=True),
    "damaged_limit": Range(0, 1),
}
AUGMENTATION_RANGES = {
    "zoom_out": Range(1, 10),
    "crop_side": Range(0, 1, above=True),
    "flip": Range(0, 1),
    "brightness": Range(0, 1),
    "contrast": Range(0, 1),
    "saturation": Range(0, 1),
    "hue": Range(0, 0.5),
}
# What runs of earlier versions trained with, which their checkpoints do not say.
NOT_IN_OLDER_RUNS = {"train_backgrounds": False, "augmentation.zoom_out": 1.0, "tiles": None, **asdict(WHOLE)}


def check_numbers(settings: Mapping[str, Any]) -> None:
    """Raises DataError for a number out of its range."""
    if told := out_of_range(settings, RANGES, "--data."):
        raise DataError(told)
    limit = settings["val_limit"]
    if limit is not None and limit not in RANGES["batch_size"]:
        raise DataError(f"--limit {limit}: expected a number of images, at least 1")


def checked_augmentation(given: Augmentation | dict[str, Any]) -> Augmentation:
    """Of an augmentation, or its settings as a parsed configuration has them. Raises DataError, as above."""
    augmentation = Augmentation(**given) if isinstance(given, dict) else given
    if told := out_of_range(asdict(augmentation), AUGMENTATION_RANGES, "--data.augmentation."):
        raise DataError(told)
    return augmentation


def checked_tiling(*settings: Any) -> Tiling | None:
    """`tiling_from`, whose errors become DataErrors."""
    try:
        return tiling_from(*settings)
    except TilingError as error:
        raise DataError(f"--data.{error}") from None
