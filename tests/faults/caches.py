"""Damages the cache of an annotation file, or makes one up, as somebody could send it along with a data set."""

import contextlib
import io
import json
from pathlib import Path
from random import Random

import msgspec
import numpy as np

from coco.annotation_cache import ARRAYS, META, Meta, checksum
from tests.faults.mutations import damaged_bytes, damaged_json

HEADER = 128  # bytes before the numbers of an array
WAYS = ("meta", "meta made up", "array", "array header", "arrays exchanged", "array cut", "another thing")


def cache_of(path: Path) -> Path:
    return path.with_name(path.name + ".index")


class DamagedCache:
    """What to write over the valid cache in the directory `cache`.

    Attributes:
        way: one of WAYS.
        files: the content of each file to replace.
        believed: it cannot be told from a valid cache, since nothing but numbers in arrays differ or the checksum of
            the meta file is right; what it holds is then taken as it is.
    """

    def __init__(self, rng: Random, cache: Path) -> None:
        meta = cache / META
        [folder] = [entry for entry in cache.iterdir() if entry.is_dir()]
        array, other = (folder / f"{name}.npy" for name in rng.sample(sorted(ARRAYS), 2))
        whole = array.read_bytes()
        self.way = rng.choice(WAYS)
        self.believed = self.way in ("meta made up", "arrays exchanged")
        if self.way == "meta":
            self.files = {meta: damaged_bytes(rng, meta.read_bytes())}
        elif self.way == "meta made up":
            self.files = {meta: made_up(rng, meta.read_bytes())}
        elif self.way == "arrays exchanged":
            self.files = {array: other.read_bytes(), other: whole}
        elif self.way == "array cut":
            self.files = {array: whole[: rng.randrange(len(whole))]}
        elif self.way == "another thing":
            self.files = {rng.choice((cache, meta, folder, array)): rng.randbytes(300)}
        else:
            damaged = damaged_bytes(rng, whole, first=HEADER if self.way == "array header" else None)
            self.files = {array: damaged}
            self.believed = len(damaged) == len(whole) and description(damaged) == description(whole)


def made_up(rng: Random, meta: bytes) -> bytes:
    """Another meta file, its checksum right wherever it can be."""
    text = damaged_json(rng, json.loads(meta))
    with contextlib.suppress(ValueError, RecursionError, msgspec.DecodeError):
        changed = msgspec.json.decode(text, type=Meta)
        return msgspec.json.encode(msgspec.structs.replace(changed, check=checksum(changed)))
    return text


def description(npy: bytes) -> tuple | None:
    """Shape, order and type that the header of an `.npy` file gives, and where the numbers begin."""
    file = io.BytesIO(npy)
    with contextlib.suppress(Exception):
        np.lib.format.read_magic(file)
        return (*np.lib.format.read_array_header_1_0(file), file.tell())
    return None
