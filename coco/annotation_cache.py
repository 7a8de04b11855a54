"""The cache of what a COCO json holds: memory-mapped `.npy` files in a directory beside it, `instances.json.index/`.
Checked against the json (size, mtime, hash), built by one process while others wait, replaced atomically.

    meta.json            which state of the json this is, its classes, and the name of the folder that holds the arrays
    0f1e2d3c4b5a6978/    image_ids.npy, bboxes.npy, ...

A build fills a folder of its own, then replaces meta.json: who reads finds the cache before or the one after, whole.
Nothing in it is code. Damage inside the arrays is not looked for, as that would read all of them at every start.
"""

import contextlib
import hashlib
import logging
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import numpy as np

from coco.whole_files import alone

VERSION = 3  # raise it whenever the arrays of a given json change
META = "meta.json"
FOLDER = r"\A[0-9a-f]{16}\Z"
# Type and shape, of N images, M annotations, K training boxes; other letters stand for any length.
ARRAYS = {
    "image_ids": ("<i8", "N"),
    "widths": ("<i4", "N"),
    "heights": ("<i4", "N"),
    "first": ("<i8", "N + 1"),
    "bboxes": ("<f8", "M", 4),
    "areas": ("<f8", "M"),
    "iscrowd": ("|b1", "M"),
    "labels": ("<i8", "M"),
    "first_training": ("<i8", "N + 1"),
    "training_boxes": ("<f4", "K", 4),
    "training_labels": ("<i8", "K"),
    "trainable": ("<i8", "T"),
    "first_letter": ("<i8", "N + 1"),
    "letters": ("|u1", "L"),
}

# A file can change twice within one tick of its clock (2 s on the coarsest file systems), so an mtime this young when
# the json was read proves nothing: the hash is compared once more.
YOUNG_NS = 2 * 10**9
# Longer than any build (seconds); a builder that is stopped, not dead, must not hang the others.
WAIT_SECONDS = 300.0

logger = logging.getLogger(__name__)


class Meta(msgspec.Struct, frozen=True):
    """Which state of the json the arrays were made from, and the little that needs no array."""

    size: int  # of the json, in bytes
    mtime_ns: int  # of the json
    checked_ns: int  # when the hash was last known to belong to this mtime
    digest: str  # BLAKE2b of the json, in hexadecimal
    category_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    num_dropped: int
    num_clipped: int
    examples: tuple[str, ...]  # file names of images whose boxes were dropped or clipped
    version: int = VERSION
    folder: Annotated[str, msgspec.Meta(pattern=FOLDER)] = ""
    check: str = ""  # BLAKE2b of all this


@dataclass(frozen=True)
class Contents:
    meta: Meta
    arrays: dict[str, np.ndarray]


class BrokenCache(Exception):
    """What lies there is no cache of this version, or not all of it."""


def load_or_build(json_path: Path, build: Callable[[], Contents]) -> tuple[Contents, Path | None]:
    """The valid cache of `json_path` and where it lies; where nothing can be written, what `build` returns and None."""
    places = cache_paths(json_path)
    for cache_path in places:
        contents = open_valid(cache_path, json_path)
        if contents is not None:
            return contents, cache_path
    built, refusals = None, []
    for cache_path in places:
        try:
            with alone(cache_path, WAIT_SECONDS):
                # Another process may have built it while this one waited.
                contents = open_valid(cache_path, json_path, say_why_not=True)
                if contents is None:
                    built = built or build()
                    _write(cache_path, built)
                    contents = open_cache(cache_path)
            return contents, cache_path
        except (OSError, BrokenCache) as error:
            refusals.append(f"{cache_path.parent}: {getattr(error, 'strerror', None) or error}")
    logger.warning(
        "%s: no cache could be written (%s), so every process parses the file and holds its own copy",
        json_path,
        "; ".join(refusals),
    )
    return built or build(), None


def cache_paths(json_path: Path) -> list[Path]:
    """Where the cache may lie: beside the json, else in the user's cache directory."""
    places = [json_path.with_name(json_path.name + ".index")]
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if home.is_absolute():
        key = hashlib.blake2b(os.fsencode(json_path), digest_size=8).hexdigest()
        places.append(home / "ssd300-lightning" / f"{json_path.stem[:64]}-{key}.index")
    return places


def open_valid(cache_path: Path, json_path: Path, say_why_not: bool = False) -> Contents | None:
    """The cache, if it belongs to the json as it is now."""
    try:
        contents = open_cache(cache_path)
        meta, now = contents.meta, os.stat(json_path)
        if now.st_size != meta.size:
            return None
        if now.st_mtime_ns == meta.mtime_ns and meta.checked_ns - meta.mtime_ns > YOUNG_NS:
            return contents
        meta = msgspec.structs.replace(meta, mtime_ns=now.st_mtime_ns, checked_ns=time.time_ns())
        if hash_file(json_path) != meta.digest:
            return None
    except BrokenCache as error:
        if say_why_not:
            logger.warning("%s %s; building it again", cache_path, error)
        return None
    except OSError:
        return None
    with contextlib.suppress(OSError):  # a cache that cannot be written is as good, it only costs the hash each time
        _write_meta(cache_path, meta)
    return Contents(meta, contents.arrays)


def open_cache(cache_path: Path) -> Contents:
    """The arrays, mapped read-only. OSError if nothing is there, BrokenCache for anything but a whole cache."""
    if not stat.S_ISDIR(os.lstat(cache_path).st_mode):  # no link either: a cache may come with somebody's data
        raise BrokenCache("is no directory")
    try:
        meta = msgspec.json.decode(_regular(cache_path / META).read_bytes(), type=Meta)
        if meta.version != VERSION:
            raise BrokenCache(f"has format version {meta.version}, this program writes {VERSION}")
        if meta.check != checksum(meta) or len(meta.category_ids) != len(meta.class_names):
            raise BrokenCache(f"has a damaged {META}")
        folder = cache_path / meta.folder
        if folder.is_symlink():
            raise BrokenCache(f"has a link in place of {meta.folder}")
        arrays = {name: _mapped(folder / f"{name}.npy") for name in ARRAYS}
        images, boxes, to_train_on = (len(arrays[name]) for name in ("image_ids", "labels", "training_labels"))
        lengths: dict[Any, int] = {"N": images, "N + 1": images + 1, "M": boxes, "K": to_train_on}
        for name, (dtype, length, *more) in ARRAYS.items():
            array, shape = arrays[name], (lengths.get(length, len(arrays[name])), *more)
            if (array.dtype.str, array.shape) != (dtype, shape):
                raise BrokenCache(f"has {name} of type {array.dtype} and shape {array.shape}, not {dtype} and {shape}")
    except BrokenCache:
        raise
    except Exception as error:  # on damaged bytes msgspec and numpy raise whatever they trip over
        raise BrokenCache(f"cannot be read ({error})") from None
    return Contents(meta, arrays)


def _mapped(path: Path) -> np.ndarray:
    array = np.load(_regular(path), mmap_mode="r", allow_pickle=False)
    if array.offset + array.nbytes != path.stat().st_size or not array.flags.c_contiguous:
        raise BrokenCache(f"has a {path.name} of another size than its header says, or not in C order")
    return np.asarray(array)


def _regular(path: Path) -> Path:
    if not path.is_file():  # opening a pipe would wait for somebody to write to it
        raise BrokenCache(f"has a {path.name} that is not there or no regular file")
    return path


def hash_file(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=32)
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _write(cache_path: Path, contents: Contents) -> None:
    """Called by the sole builder; whatever earlier ones left, killed ones too, goes."""
    if cache_path.is_symlink() or not cache_path.is_dir():
        cache_path.unlink(missing_ok=True)  # an older version's cache was one file; the rest came with the data
    cache_path.mkdir(exist_ok=True)
    folder = cache_path / secrets.token_hex(8)
    try:
        folder.mkdir()
        for name, array in contents.arrays.items():
            with _durable_file(folder / f"{name}.npy") as file:
                np.save(file, array, allow_pickle=False)
        _write_meta(cache_path, msgspec.structs.replace(contents.meta, folder=folder.name))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # an older cache is in it
            cache_path.rmdir()
        raise
    for other in cache_path.iterdir():
        if re.match(FOLDER, other.name) and other.is_dir() and other != folder:  # rmtree would wait for a pipe's writer
            shutil.rmtree(other, ignore_errors=True)  # who has mapped it keeps it; Windows refuses, until a later build


def _write_meta(cache_path: Path, meta: Meta) -> None:
    partial = cache_path / meta.folder / f"{secrets.token_hex(8)}.json"
    try:
        with _durable_file(partial) as file:
            file.write(msgspec.json.encode(msgspec.structs.replace(meta, check=checksum(meta))))
        os.replace(partial, cache_path / META)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _durable_file(path: Path) -> Iterator[BinaryIO]:
    with open(path, "xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def checksum(meta: Meta) -> str:
    return hashlib.blake2b(msgspec.json.encode(msgspec.structs.replace(meta, check=""))).hexdigest()
