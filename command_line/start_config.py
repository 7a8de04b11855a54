"""A configuration to start with, for a data set: `coco.check --write_config FILE`."""

from collections.abc import Mapping
from typing import Any

import yaml

from coco.annotations import CocoAnnotations
from command_line.configs import CONFIGS

LARGE = 10_000  # pictures to train on, from which on the recipe's network and schedule have enough of them


def start_config(train: CocoAnnotations, data: Mapping[str, Any]) -> str:
    """The text of a YAML for train.py: that of configs/ for a training set of its size, on this data.

    Args:
        data: settings of `COCODataModule`.
    """
    images = len(train.trainable)
    name = "ssd300_resnet50_plus" if images >= LARGE else "small_data_plus"
    content = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    content["data"] |= data
    content["data"]["batch_size"] = max(2, min(content["data"]["batch_size"], images))
    about = (
        f"# configs/{name}.yaml for {images} training pictures: there is what it is and what it reached elsewhere.\n"
        "# Written by coco.check; change what you like.\n"
    )
    return about + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
