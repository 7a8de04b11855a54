"""CVAT for images 1.1: one xml file for all pictures."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import hotcoco

from coco.foreign.parts import WHOLE, Part, add, by_hotcoco, finder


def read_cvat(source: Path, names: Sequence[str] | None) -> tuple[list[Part], list[str]]:
    file = source if source.is_file() else source / "annotations.xml"
    part = Part(WHOLE)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = by_hotcoco(hotcoco.COCO.from_cvat, file)
    part.notes += [str(warning.message) for warning in caught]
    find = finder(file.parent, [file.parent / "images", file.parent])
    for image in dataset["images"]:
        image["file_name"] = find(image["file_name"], file)
    return [add(part, dataset)], [category["name"] for category in dataset["categories"]]
