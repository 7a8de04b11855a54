"""What the readers of other tools' data sets share: a split as it was read, its pictures found, hotcoco's errors."""

import html
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from coco.names import shown
from coco.picture_modes import stored_size
from coco.whole_files import replacing

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2", ".ppm")  # of pictures
SPLITS = {
    **dict.fromkeys(("train", "training", "train2017"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "val2017"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
REFERENCE = re.compile(rb"&#?\w{1,10};")  # in xml
PRIVATE_USE = 0xF0000  # the first such character of Unicode's plane 15
WHOLE = ""  # the split of a data set without any


class ConversionError(ValueError):
    """A data set that cannot be converted; the message names the file and says what to do."""


@dataclass
class Part:
    """One split of a data set, read.

    split: train, val, test, or `WHOLE`. images: (file, width, height). boxes: of each image, (class name, left, top,
    width, height, is a crowd) in pixels. notes: what was changed or left out, a line each.
    """

    split: str
    images: list[tuple[Path, int, int]] = field(default_factory=list)
    boxes: list[list[tuple[str, float, float, float, float, bool]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def by_hotcoco(convert: Callable[[str], Any], path: Path) -> dict[str, Any]:
    """What hotcoco reads of a file, or of those of a folder.

    In xml it cuts texts off at `&amp;` and other references, or leaves these as they are: it gets a copy with a
    character of private use for each, which becomes what is meant.
    """
    files = sorted(path.glob("*.xml")) if path.is_dir() else [path] if path.suffix.lower() == ".xml" else []
    meant: dict[bytes, str] = {}
    for file in files:
        for found in REFERENCE.findall(file.read_bytes()):
            meant.setdefault(found, chr(PRIVATE_USE + len(meant)))
    with tempfile.TemporaryDirectory() as place:
        staged = Path(place) if path.is_dir() else Path(place, path.name)
        for file in files if meant else ():
            text = REFERENCE.sub(lambda found: meant[found[0]].encode(), file.read_bytes())
            with replacing(Path(place, file.name), durable=False) as copy:
                copy.write(text)
        read_from = staged if meant else path
        try:
            dataset = convert(str(read_from)).dataset
        except (ValueError, OSError) as error:
            raise ConversionError(f"{path}: {str(error).replace(str(read_from), str(path))}") from None
    back = {ord(letter): html.unescape(reference.decode()) for reference, letter in meant.items()}
    for key, rows in (("name", dataset["categories"]), ("file_name", dataset["images"])):
        for row in rows:
            row[key] = row[key].translate(back)
    return dataset


def add(part: Part, dataset: dict[str, Any], shares: bool = False) -> Part:
    """What hotcoco read, with pictures' paths as file names. shares: boxes are in units of their pictures."""
    names = {category["id"]: category["name"] for category in dataset["categories"]}
    place = {}
    for image in dataset["images"]:
        place[image["id"]] = len(part.images)
        part.images.append((image["file_name"], image["width"], image["height"]))
        part.boxes.append([])
    for it in dataset["annotations"]:
        i = place[it["image_id"]]
        _, width, height = part.images[i]
        x, y, w, h = it["bbox"]
        if shares:
            x, y, w, h = x * width, y * height, w * width, h * height
        part.boxes[i].append((names[it["category_id"]], x, y, w, h, bool(it.get("iscrowd"))))
    return part


def finder(root: Path, first: Sequence[Path]) -> Callable[[str, Path], Path]:
    """Finds the picture that an annotation names: in the directories that come first, else anywhere below `root`, with
    any ending if it has none. The second argument is the file that names it."""
    everywhere: dict[str, list[Path]] = {}

    def find(name: str, named_in: Path) -> Path:
        for folder in first:
            found = folder / name
            if found.suffix.lower() in SUFFIXES and found.is_file() and ".." not in Path(name).parts:
                return found
        if not everywhere:
            for path in pictures_below(root):
                everywhere.setdefault(path.name, []).append(path)
                everywhere.setdefault(path.stem, []).append(path)
        found_there = everywhere.get(Path(name).name, [])
        if len(found_there) != 1:
            what = "no such picture" if not found_there else f"{len(found_there)} pictures of this name"
            raise ConversionError(f"{named_in}: {shown(name)}: {what} below {root}")
        return found_there[0]

    return find


def pictures_below(place: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(place):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(files) if name.lower().endswith(SUFFIXES))


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) as stored."""
    try:
        with Image.open(path) as picture:
            return stored_size(picture)
    except OSError as error:
        raise ConversionError(f"{path}: no picture that can be read: {error}") from None


def write_unit_picture(folder: Path) -> Path:
    """A picture of one pixel: as one of this size hotcoco's boxes stay shares of a picture."""
    path = folder / "unit.png"
    with replacing(path, durable=False) as file:
        Image.new("1", (1, 1)).save(file, "PNG")
    return path
