"""Flat arrays in one file, memory-mapped: the cache of what a COCO json holds.
Checked against the json (size, mtime, hash), built by one process while others wait, replaced atomically.

Layout: a fixed prefix, a JSON header with the table of arrays, then the arrays, each aligned. Nothing in it is code.
A crash can leave no half-written cache under the final name; damage inside the arrays later on is not looked for, as
that would read the whole file at every start.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import math
import mmap
import os
import stat
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

VERSION = 2  # raise it whenever the arrays of a given json change
MAGIC = b"COCOFLAT"
ALIGNMENT = 64
# magic, version, header size, json size, json mtime (ns), checked at (ns), length of this file, json hash, header hash
PREFIX = struct.Struct("<8sIIQqqQ32s32s")
TIMES = struct.Struct("<qq")  # mtime and checked at, rewritten in place
TIMES_OFFSET = struct.calcsize("<8sIIQ")
DTYPES = {"<f8", "<f4", "<i8", "<i4", "|b1", "|u1"}

# A file can change twice within one tick of its clock (2 s on the coarsest file systems), so an mtime this young when
# the json was read proves nothing: the hash is compared once more.
YOUNG_NS = 2 * 10**9
# Longer than any build (seconds); a builder that is stopped, not dead, must not hang the others.
WAIT_SECONDS = 300.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stamp:
    """Which state of the json the arrays were made from."""

    size: int
    mtime_ns: int
    checked_ns: int  # when the hash was last known to belong to this mtime
    digest: bytes


@dataclass(frozen=True)
class Contents:
    stamp: Stamp
    meta: dict
    arrays: dict[str, np.ndarray]
    buffer: bytearray | mmap.mmap


class BrokenCache(ValueError):
    """A file that is no cache of this version, or not all of it."""


def load_or_build(
    json_path: Path, build: Callable[[], bytearray], check: Callable[[Contents], None]
) -> tuple[Contents, Path | None]:
    """The valid cache of `json_path` and where it lies; where nothing can be written, the contents in memory and None.

    `build` reads the json and returns the packed contents; `check` raises BrokenCache for contents of another kind.
    """
    places = cache_paths(json_path)
    for cache_path in places:
        contents = open_valid(cache_path, json_path, check)
        if contents is not None:
            return contents, cache_path
    packed, refusals = None, []
    for cache_path in places:
        try:
            with _sole_builder(cache_path) as partial:
                # Another process may have built it while this one waited.
                contents = open_valid(cache_path, json_path, check, say_why_not=True)
                if contents is None:
                    packed = packed or build()
                    _write(partial, packed)
                    os.replace(partial.name, cache_path)
                    contents = open_cache(cache_path)
            return contents, cache_path
        except OSError as error:
            refusals.append(f"{cache_path.parent}: {error.strerror or error}")
    logger.warning(
        "%s: no cache could be written (%s), so every process parses the file and holds its own copy",
        json_path,
        "; ".join(refusals),
    )
    return unpack(packed or build()), None


def cache_paths(json_path: Path) -> list[Path]:
    """Where the cache may lie: beside the json, else in the user's cache directory."""
    places = [json_path.with_name(json_path.name + ".index")]
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if home.is_absolute():
        key = hashlib.blake2b(os.fsencode(json_path), digest_size=8).hexdigest()
        places.append(home / "ssd300-lightning" / f"{json_path.stem[:64]}-{key}.index")
    return places


def pack(stamp: Stamp, meta: dict, arrays: dict[str, np.ndarray]) -> bytearray:
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    table, offset = {}, 0
    for name, array in arrays.items():
        table[name] = [array.dtype.str, list(array.shape), offset]
        offset += _aligned(array.nbytes)
    header = json.dumps({"meta": meta, "arrays": table}).encode()
    start = _aligned(PREFIX.size + len(header))
    packed = bytearray(start + offset)
    times = (stamp.mtime_ns, stamp.checked_ns)
    prefix = (MAGIC, VERSION, len(header), stamp.size, *times, len(packed), stamp.digest, _digest(header))
    PREFIX.pack_into(packed, 0, *prefix)
    packed[PREFIX.size : PREFIX.size + len(header)] = header
    for name, (_, _, offset) in table.items():
        into = slice(start + offset, start + offset + arrays[name].nbytes)
        packed[into] = memoryview(arrays[name].reshape(-1).view(np.uint8))
    return packed


def unpack(buffer: bytearray | mmap.mmap) -> Contents:
    """The arrays in `buffer`, read-only and not copied."""
    if len(buffer) < PREFIX.size:
        raise BrokenCache(f"has {len(buffer)} bytes, fewer than its header")
    magic, version, header_size, size, mtime_ns, checked_ns, length, digest, check = PREFIX.unpack_from(buffer)
    if magic != MAGIC:
        raise BrokenCache("is no annotation cache")
    if version != VERSION:
        raise BrokenCache(f"has format version {version}, this program writes {VERSION}")
    if length != len(buffer):
        raise BrokenCache(f"has {len(buffer)} bytes of {length}")
    header = buffer[PREFIX.size : PREFIX.size + header_size]
    if _digest(header) != check:
        raise BrokenCache("has a damaged header")
    start = _aligned(PREFIX.size + header_size)
    arrays = {}
    try:
        content = json.loads(header)
        for name, (dtype, shape, offset) in content["arrays"].items():
            if dtype not in DTYPES or offset < 0:
                raise BrokenCache(f"has an array {name} of type {dtype} at {offset}")
            arrays[name] = np.frombuffer(buffer, dtype, math.prod(shape), start + offset).reshape(shape)
            arrays[name].flags.writeable = False
        return Contents(Stamp(size, mtime_ns, checked_ns, digest), content["meta"], arrays, buffer)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise BrokenCache(f"has a wrong header ({error})") from None


def open_cache(cache_path: Path) -> Contents:
    if not stat.S_ISREG(os.stat(cache_path).st_mode):  # opening a pipe would wait for somebody to write to it
        raise BrokenCache("is no regular file")
    with open(cache_path, "rb") as file:
        try:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise BrokenCache("is empty") from None
    return unpack(buffer)


def open_valid(
    cache_path: Path, json_path: Path, check: Callable[[Contents], None], say_why_not: bool = False
) -> Contents | None:
    """The cache, if it belongs to the json as it is now."""
    try:
        contents = open_cache(cache_path)
        check(contents)
        stamp, now = contents.stamp, os.stat(json_path)
        if now.st_size != stamp.size:
            return None
        if now.st_mtime_ns == stamp.mtime_ns and stamp.checked_ns - stamp.mtime_ns > YOUNG_NS:
            return contents
        stamp = replace(stamp, mtime_ns=now.st_mtime_ns, checked_ns=time.time_ns())
        if hash_file(json_path) != stamp.digest:
            return None
    except BrokenCache as error:
        if say_why_not:
            logger.warning("%s %s; building it again", cache_path, error)
        return None
    except OSError:
        return None
    with contextlib.suppress(OSError):  # a cache that cannot be written is as good, it only costs the hash each time
        file = os.open(cache_path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(file, TIMES.pack(stamp.mtime_ns, stamp.checked_ns), TIMES_OFFSET)
        finally:
            os.close(file)
    return replace(contents, stamp=stamp)


def hash_file(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=32)
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.digest()


@contextlib.contextmanager
def _sole_builder(cache_path: Path):
    """Yields the file to write, to one process at a time; an OSError if it cannot be written or the wait is too long.

    The partial file is temporary file and lock in one. The system drops the lock when its holder dies, however it
    dies, and the next one overwrites what was left, so nothing piles up. When the holder has renamed the file to its
    final name (or removed it), those who waited hold the lock of a file that is no longer the partial one: they let go
    and try again.
    """
    cache_path.parent.mkdir(parents=True, exist_ok=True)
    partial = cache_path.with_name(cache_path.name + ".partial")
    deadline = time.monotonic() + WAIT_SECONDS
    # O_NOFOLLOW: a data set that comes with a link of this name must not make us overwrite its target.
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        with open(partial, "r+b", opener=lambda name, _: os.open(name, flags, 0o666)) as file:
            if _locked(file) and _is_at(file, partial):
                try:
                    yield file
                finally:
                    if _is_at(file, partial):  # not renamed
                        os.unlink(partial)
                    fcntl.flock(file, fcntl.LOCK_UN)  # closing would not do while a forked child has the file open
                return
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, f"another process has been building {cache_path.name} for too long")
        time.sleep(0.02)


def _locked(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False


def _write(file, packed: bytearray) -> None:
    file.truncate(0)
    file.write(packed)
    file.flush()
    os.fsync(file.fileno())


def _digest(header: bytes) -> bytes:
    return hashlib.blake2b(header, digest_size=32).digest()


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
