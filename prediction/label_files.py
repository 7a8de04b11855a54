"""Detections as labels of other tools: YOLO's text files and Pascal VOC's xml, beside the pictures that they are of.

Both are folders of their own that `python -m coco.convert` reads. Scores are no part of labels.
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import yaml

from coco.decoding import decode_upright, orientation
from coco.names import plain
from coco.whole_files import replacing, write_text
from prediction.detector import Detections

LABELS = ("yolo/images", "yolo/labels", "voc/JPEGImages", "voc/Annotations")  # below the output directory
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp")  # of pictures that every tool reads


class YoloFiles:
    """`yolo/`: data.yaml, which names the classes in the checkpoint's order; images/, links to the pictures; labels/, a
    text file a picture: class from 0, centre and size in shares of the picture, a line a box."""

    def __init__(self, directory: Path, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
        self._directory, self._names = directory / "yolo", class_names

    def add(self, image: dict[str, Any], found: Detections, stem: str) -> None:
        """As `prediction.files.Writer.add`."""
        _place_picture(Path(image["file_name"]), self._directory / "images", stem)
        boxes, labels = _within(found)
        width, height = found.size
        shares = np.stack([boxes[:, ::2].mean(1), boxes[:, 1::2].mean(1), *(boxes[:, 2:] - boxes[:, :2]).T], axis=1)
        shares /= (width, height, width, height)
        lines = (
            f"{label - 1} {' '.join(f'{share:.6f}' for share in row)}\n"
            for label, row in zip(labels, shares, strict=True)
        )
        write_text(self._directory / "labels" / f"{stem}.txt", "".join(lines))

    def close(self) -> None:
        content = {"train": "images", "names": dict(enumerate(self._names))}
        write_text(self._directory / "data.yaml", yaml.safe_dump(content, allow_unicode=True, sort_keys=False))


class VocFiles:
    """`voc/`: JPEGImages/, links to the pictures; Annotations/, an xml file a picture, in pixels from 1 on."""

    def __init__(self, directory: Path, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
        self._directory, self._names = directory / "voc", class_names

    def add(self, image: dict[str, Any], found: Detections, stem: str) -> None:
        """As `prediction.files.Writer.add`."""
        picture = _place_picture(Path(image["file_name"]), self._directory / "JPEGImages", stem)
        root = ElementTree.Element("annotation")
        _texts(root, folder="JPEGImages", filename=_xml(picture))
        _texts(ElementTree.SubElement(root, "size"), width=found.size[0], height=found.size[1], depth=3)
        for box, label in zip(*_within(found), strict=True):
            each = ElementTree.SubElement(root, "object")
            _texts(each, name=_xml(self._names[label - 1]), pose="Unspecified", truncated=0, difficult=0)
            x0, y0, x1, y1 = (f"{side:.2f}" for side in box + (1, 1, 0, 0))  # the last pixel is the box's
            _texts(ElementTree.SubElement(each, "bndbox"), xmin=x0, ymin=y0, xmax=x1, ymax=y1)
        ElementTree.indent(root)
        write_text(self._directory / "Annotations" / f"{stem}.xml", ElementTree.tostring(root, "unicode") + "\n")

    def close(self) -> None:
        (self._directory / "Annotations").mkdir(parents=True, exist_ok=True)


def _within(found: Detections) -> tuple[np.ndarray, np.ndarray]:
    """Boxes, float64 [n, 4], cut at the picture's border, with their labels; without those of which nothing is left."""
    width, height = found.size
    boxes = found.boxes.astype(float).clip(0, (width, height, width, height))
    left = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return boxes[left], found.labels[left]


def _place_picture(path: Path, folder: Path, stem: str) -> str:
    """A link to the picture. Where its EXIF turns it, an upright copy, since boxes are in upright pixels, which not
    every reader of labels knows; and of rarer formats a copy. Returns its name below the folder."""
    copied = path.suffix.lower() not in SUFFIXES or orientation(path) != 1
    place = folder / f"{stem}{'.png' if copied else path.suffix}"
    place.parent.mkdir(parents=True, exist_ok=True)
    if copied:
        with replacing(place, durable=False) as file:
            decode_upright(path)[0].save(file, "PNG")
        return place.relative_to(folder).as_posix()
    place.unlink(missing_ok=True)
    try:
        place.symlink_to(path.resolve())
    except OSError:  # a file system, or a Windows, without links
        with open(path, "rb") as source, replacing(place, durable=False) as file:
            shutil.copyfileobj(source, file)
    return place.relative_to(folder).as_posix()


def _texts(parent: ElementTree.Element, **texts: object) -> None:
    for name, text in texts.items():
        ElementTree.SubElement(parent, name).text = str(text)


def _xml(text: str) -> str:
    """A text without what XML 1.0 has no characters for, which is written out."""
    text = plain(text.encode("utf-8", "backslashreplace").decode("utf-8"))
    return re.sub("[\ufffe\uffff]", lambda found: f"{found[0]!a}"[1:-1], text)
