"""Tables of boxes: Open Images' csv files, and a plain one of our own."""

import csv
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import hotcoco

from coco.foreign.parts import (
    SPLITS,
    WHOLE,
    ConversionError,
    Part,
    add,
    by_hotcoco,
    finder,
    size_of,
    write_unit_picture,
)
from coco.names import shown

TABLE_COLUMNS = ("split", "picture", "class", "left", "top", "right", "bottom")


def read_openimages(source: Path, names: Sequence[str] | None) -> tuple[list[Part], list[str]]:
    """A csv of boxes for each split, with the class descriptions and the pictures beside or below it."""
    folder = source if source.is_dir() else source.parent
    tables = [source] if source.is_file() else sorted(folder.glob("*.csv"))
    described = next(iter(sorted(folder.glob("*class-descriptions*.csv"))), None)
    parts = []
    for table in tables:
        if kind_of_csv(table) != "openimages":
            continue
        words = table.stem.lower().replace("_", "-").split("-")
        split = next((SPLITS[word] for word in words if word in SPLITS), WHOLE)
        with open(table, newline="", encoding="utf-8") as file:
            ids = sorted({row["ImageID"] for row in csv.DictReader(file)})
        if unsafe := [image_id for image_id in ids if Path(image_id).name != image_id]:
            raise ConversionError(f"{table}: ImageID {shown(unsafe[0])}: expected a name without folders")
        find = finder(folder, [folder / split, folder / "images", folder])
        pictures = {image_id: find(image_id, table) for image_id in ids}
        with tempfile.TemporaryDirectory() as place:
            unit = write_unit_picture(Path(place))
            for image_id in ids:
                Path(place, f"{image_id}.png").symlink_to(unit)
            options = (str(described) if described else None, place)
            dataset = by_hotcoco(partial(_from_oid, options), table)
        for image in dataset["images"]:
            picture = pictures[image["file_name"]]
            image["file_name"], (image["width"], image["height"]) = picture, size_of(picture)
        for annotation in dataset["annotations"]:
            annotation["iscrowd"] = int(annotation.get("is_group_of", False))
        part = add(Part(split), dataset, shares=True)
        if groups := sum(crowd for boxes in part.boxes for *_, crowd in boxes):
            part.notes.append(f"{groups} boxes around a group became crowds: neither trained on nor counted")
        parts.append(part)
    return parts, []


def _from_oid(options: tuple[str | None, str], path: str) -> hotcoco.COCO:
    return hotcoco.COCO.from_oid(path, *options)


def read_table(source: Path, names: Sequence[str] | None) -> tuple[list[Part], list[str]]:
    """`TABLE_COLUMNS`; the last five are empty for a picture without objects, the first may be."""
    file = source if source.is_file() else next(p for p in sorted(source.glob("*.csv")) if kind_of_csv(p) == "table")
    folder = file.parent
    parts: dict[str, Part] = {}
    finders: dict[str, Callable[[str, Path], Path]] = {}
    places: dict[tuple[str, str], int] = {}
    with open(file, newline="", encoding="utf-8-sig") as opened:
        for number, row in enumerate(csv.DictReader(opened), start=2):
            given = (row.get("split") or "").strip()
            split = SPLITS.get(given.lower(), WHOLE if not given else None)
            if split is None:
                raise ConversionError(
                    f"{file}, line {number}: split {given!r}: expected train, val or test, or nothing"
                )
            part = parts.setdefault(split, Part(split))
            find = finders.setdefault(given, finder(folder, [folder / given, folder]))
            key = (split, row["picture"])
            if key not in places:
                picture = find(row["picture"], file)
                places[key] = len(part.images)
                part.images.append((picture, *size_of(picture)))
                part.boxes.append([])
            if row["class"]:
                try:
                    left, top, right, bottom = (float(row[column]) for column in TABLE_COLUMNS[3:])
                except (TypeError, ValueError):
                    raise ConversionError(
                        f"{file}, line {number}: left, top, right, bottom: expected four numbers, in pixels"
                    ) from None
                part.boxes[places[key]].append((row["class"], left, top, right - left, bottom - top, False))
    return list(parts.values()), []


def kind_of_csv(path: Path) -> str | None:
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        columns = set(file.readline(10_000).strip().split(","))
    if {"ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax"} <= columns:
        return "openimages"
    return "table" if set(TABLE_COLUMNS[1:]) <= columns else None
