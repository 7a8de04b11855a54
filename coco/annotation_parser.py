"""Reads a COCO json into plain columns and refuses what training or evaluation could not use.

Entries are decoded by msgspec into typed structs, a chunk at a time; segmentations and other keys are skipped, so
memory stays close to the file's own size. Only a chunk that does not decode is read again, entry by entry, with
the standard library, to accept what is harmless and to say exactly what is not.
"""

import json
import os
import re
import reprlib
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw

from coco.annotation_checks import (
    UNSAFE_NAME,
    Annotation,
    AnnotationError,
    Category,
    Fault,
    Image,
    exact_annotation,
    exact_category,
    exact_image,
    short,
)

CHUNK = 2048  # entries decoded at a time
LISTS = ("images", "annotations", "categories")


@dataclass
class Columns:
    """What a COCO json holds, in file order; every value checked, every reference resolvable."""

    image_ids: np.ndarray  # int64 [N], unique
    widths: np.ndarray  # int32 [N]
    heights: np.ndarray  # int32 [N]
    file_names: list[str]
    categories: dict[int, str]
    image_ranks: np.ndarray  # int64 [M], 0..N-1: rank of the annotation's image id among the image ids
    category_ranks: np.ndarray  # int64 [M], 0..C-1, likewise
    bboxes: np.ndarray  # float64 [M, 4] xywh, as written
    areas: np.ndarray  # float64 [M]
    iscrowd: np.ndarray  # bool [M]


class _File(msgspec.Struct):
    images: list[Raw]
    annotations: list[Raw]
    categories: list[Raw]


def check_is_file(path: Path) -> os.stat_result:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        near = sorted(file.name for file in path.parent.glob("*.json"))[:5]
        hint = f"that folder has {', '.join(near)}" if near else "its folder has no .json file, or does not exist"
        raise AnnotationError(f"{path}: no such annotation file ({hint}). Check the path.") from None
    except (OSError, ValueError) as error:
        raise AnnotationError(f"{path}: cannot be opened: {error}. Check the path and its permissions.") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise AnnotationError(f"{path}: is {kind}; expected a COCO annotation file. Give the path of the .json itself.")
    return found


def parse(path: Path, data: bytes) -> Columns:
    """The columns of the COCO json `data`, read from `path` (for messages)."""
    file = _split(path, data)
    if not file.images:
        raise AnnotationError(f'{path}: "images" is empty. A data set needs at least one image; export it again.')
    if not file.categories:
        raise AnnotationError(f'{path}: "categories" is empty. List every class as {{"id": 1, "name": "cat"}}.')
    categories = _categories(path, file.categories)
    images = _images(path, file.images)
    image_ids, category_ids, annotations = _annotations(path, file.annotations)
    return Columns(
        categories=categories,
        image_ranks=_ranks(path, file.annotations, "image_id", image_ids, images["image_ids"], "images"),
        category_ranks=_ranks(path, file.annotations, "category_id", category_ids, list(categories), "categories"),
        **images,
        **annotations,
    )


def _images(path: Path, entries: list) -> dict:
    names: list[str] = []
    ids, sizes = np.empty(len(entries), np.int64), np.empty((2, len(entries)), np.int32)
    for rows, images in _decoded(path, "images", entries, Image, exact_image):
        ids[rows] = [image.id for image in images]
        sizes[:, rows] = [[image.width for image in images], [image.height for image in images]]
        names.extend(image.file_name for image in images)
    for index, name in enumerate(names):
        if UNSAFE_NAME.search(name):
            raise AnnotationError(
                f"{path}: images[{index}] (id {ids[index]}): file_name {name!r} is empty, absolute or leaves the image "
                "directory. Write it relative to the image directory, with forward slashes."
            )
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        repeated = unique[counts > 1]
        same = [names[index] for index in np.flatnonzero(ids == repeated[0])[:3]]
        raise AnnotationError(
            f"{path}: image id {repeated[0]} is given to {counts[counts > 1][0]} images ({', '.join(same)}); "
            f"{len(repeated)} ids in all are repeated. Give every image its own id, in its annotations too."
        )
    return {"image_ids": ids, "widths": sizes[0], "heights": sizes[1], "file_names": names}


def _annotations(path: Path, entries: list) -> tuple[np.ndarray, np.ndarray, dict]:
    image_ids, category_ids = np.empty((2, len(entries)), np.int64)
    bboxes, areas = np.empty((len(entries), 4)), np.empty(len(entries))
    iscrowd = np.empty(len(entries), bool)
    for rows, annotations in _decoded(path, "annotations", entries, Annotation, exact_annotation):
        image_ids[rows] = [annotation.image_id for annotation in annotations]
        category_ids[rows] = [annotation.category_id for annotation in annotations]
        bboxes[rows] = [annotation.bbox for annotation in annotations]
        areas[rows] = [annotation.area for annotation in annotations]
        iscrowd[rows] = [annotation.iscrowd for annotation in annotations]
    with np.errstate(over="ignore"):
        areas = np.where(np.isnan(areas), bboxes[:, 2] * bboxes[:, 3], areas)
    return image_ids, category_ids, {"bboxes": bboxes, "areas": areas, "iscrowd": iscrowd}


def _categories(path: Path, entries: list) -> dict[int, str]:
    names: dict[int, str] = {}
    for _, categories in _decoded(path, "categories", entries, Category, exact_category):
        for category in categories:
            if category.id in names:
                raise AnnotationError(
                    f"{path}: category id {category.id} is given to {names[category.id]!r} and {category.name!r}. "
                    "Give every category its own id."
                )
            names[category.id] = category.name
    return names


def _ranks(
    path: Path, entries: list, key: str, values: np.ndarray, known: Sequence[int] | np.ndarray, target: str
) -> np.ndarray:
    """Ranks of the annotations' `key` among the `known` ids; stops at one that the list `target` does not have."""
    known = np.sort(np.asarray(known, np.int64))
    ranks = np.minimum(np.searchsorted(known, values), len(known) - 1)
    unknown = np.flatnonzero(known[ranks] != values)
    if len(unknown):
        first = unknown[0]
        raise AnnotationError(
            f"{path}: {_label('annotations', first, _plain(entries[first]))}: {key} {values[first]} is not in "
            f'"{target}"; so with {len(unknown)} of {len(entries)} annotations. Add it to "{target}" or remove them.'
        )
    return ranks


def _decoded(
    path: Path, kind: str, entries: list, struct: Any, exact: Callable[[dict], Any]
) -> Iterator[tuple[slice, list]]:
    """Yields (rows, structs) for successive parts of `entries`."""
    decode: Callable[[Any], Any] = msgspec.json.Decoder(struct).decode
    for start in range(0, len(entries), CHUNK):
        part = entries[start : start + CHUNK]
        rows = slice(start, start + len(part))
        try:
            decoded = [decode(entry) for entry in part] if isinstance(part[0], Raw) else None
        except (ValueError, msgspec.DecodeError, RecursionError):
            decoded = None
        if decoded is None:
            decoded = [_checked(path, kind, start + offset, entry, exact) for offset, entry in enumerate(part)]
        yield rows, decoded


def _checked(path: Path, kind: str, index: int, entry: Any, exact: Callable[[dict], Any]) -> Any:
    """The struct that `exact` makes of one entry; its complaint becomes an AnnotationError."""
    try:
        entry = _plain(entry)
        if not isinstance(entry, dict):
            raise Fault(f"is {short(entry)}, not an object")
        return exact(entry)
    except RecursionError:
        raise _nested_too_deeply(path) from None
    except ValueError:  # all that is left to go wrong in JSON that msgspec could split into entries
        fault = f"has an integer of more than {sys.get_int_max_str_digits()} digits"
        raise AnnotationError(f"{path}: {_label(kind, index, None)}: {fault}. Correct or remove it.") from None
    except Fault as fault:
        raise AnnotationError(f"{path}: {_label(kind, index, entry)}: {fault}. Correct or remove it.") from None


def _plain(entry: Any) -> Any:
    # A byte that is not UTF-8 matters only in a text that is used, where `_text` then finds it.
    return json.loads(bytes(entry).decode("utf-8", "surrogateescape")) if isinstance(entry, Raw) else entry


def _label(kind: str, index: int, entry: Any) -> str:
    return f"{kind}[{index}]" + (f" (id {short(entry['id'])})" if isinstance(entry, dict) and "id" in entry else "")


def _split(path: Path, data: bytes) -> _File:
    """The entries of the three lists, each still as JSON text."""
    if re.match(rb"\s*\Z", data):
        raise AnnotationError(f"{path}: is empty ({len(data)} bytes). Copy or download it again.")
    try:
        return _decode(path, data, _File)
    except msgspec.ValidationError:
        raise _not_coco(path, data) from None
    except _NotANumber as found:
        return _split_leniently(path, data, found.byte)


def _split_leniently(path: Path, data: bytes, byte: int) -> _File:
    """As `_split`, for a file with NaN or Infinity: not JSON, but Python writes it, and in a key that nobody reads it
    does no harm. The entries are plain objects; slow, and large in memory."""
    try:
        content = json.loads(data.decode("utf-8-sig"))
        lists = [content[name] for name in LISTS]
    except RecursionError:
        raise _nested_too_deeply(path) from None
    except (ValueError, TypeError, KeyError):
        lists = [None]
    if not all(isinstance(entries, list) for entries in lists):
        raise _broken(path, data, byte, "found NaN or Infinity, which JSON does not have")
    return _File(*lists)


class _NotANumber(Exception):
    def __init__(self, byte: int):
        self.byte = byte


def _decode(path: Path, data: bytes, struct: Any) -> Any:
    """msgspec's decoder with exact errors about syntax; it raises msgspec.ValidationError for what is JSON but no
    `struct`, and `_NotANumber` at a NaN or Infinity."""
    skipped = 3 if data.startswith(b"\xef\xbb\xbf") else 0  # a byte order mark, as some Windows editors write
    try:
        return msgspec.json.decode(memoryview(data)[skipped:], type=struct)
    except RecursionError:
        raise _nested_too_deeply(path) from None
    except msgspec.ValidationError:
        raise
    except UnicodeDecodeError as error:
        byte = data.find(error.object) + error.start
        raise _broken(path, data, byte, f"found {data[byte : byte + 1]!r}, which is not UTF-8") from None
    except (ValueError, msgspec.DecodeError) as error:  # a ValueError from msgspec 0.21 on
        position = re.search(r"\(byte (\d+)\)", str(error))
        byte = int(position[1]) + skipped if position else len(data)
        if data.startswith((b"NaN", b"Infinity"), byte):
            raise _NotANumber(byte) from None
        reason = re.sub(r"JSON is malformed: | \(byte \d+\)", "", str(error))
        found = f"{reason}, {data[byte : byte + 1]!r}" if byte < len(data) else "ends before the last bracket or quote"
        raise _broken(path, data, byte, found) from None


def _not_coco(path: Path, data: bytes) -> AnnotationError:
    expected = f"expected an object with the lists {', '.join(LISTS)}"
    fix = "Give an instances_*.json in COCO format (not a results file)."
    try:
        content = _decode(path, data, dict[str, Raw])
    except msgspec.ValidationError:
        return AnnotationError(f"{path}: is not an object but {_start_of(data)}; {expected}. {fix}")
    except _NotANumber as found:
        return _broken(path, data, found.byte, "found NaN or Infinity, which JSON does not have")
    for name in LISTS:
        if name not in content:
            keys = reprlib.repr(sorted(content))
            return AnnotationError(f'{path}: has no "{name}"; {expected}, found the keys {keys}. {fix}')
        if not bytes(content[name]).startswith(b"["):
            return AnnotationError(f'{path}: "{name}" is not a list but {_start_of(content[name])}; {expected}. {fix}')
    return AnnotationError(f"{path}: cannot be read; {expected}. {fix}")


def _start_of(text: Any) -> str:
    return bytes(memoryview(text)[:30]).decode("utf-8", "replace").strip()


def _broken(path: Path, data: bytes, at: int, found: str) -> AnnotationError:
    line, column = data.count(b"\n", 0, at) + 1, at - data.rfind(b"\n", 0, at)
    return AnnotationError(
        f"{path}: broken JSON at line {line}, column {column} (byte {at} of {len(data)}): {found}. "
        "Correct it there, or copy or download the file again."
    )


def _nested_too_deeply(path: Path) -> AnnotationError:
    return AnnotationError(f"{path}: is nested too deeply for a COCO annotation file. Export it again.")
