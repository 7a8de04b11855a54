"""The picture files that an annotation file names: which are missing, which cannot be used, which are equal, and
whether they are those of before."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from coco.annotations import CocoAnnotations
from coco.cores import usable_cores
from coco.decoding import ImageError, decode, orientation, take_turned
from coco.names import look_alikes

READ, MEASURED = 64, 1024  # pictures: a second's work for a slow network disk, whatever the data set's size
MOST_BYTES = 2**24  # of one picture
AT_ONCE = 4096  # pictures given to the threads that open them: each that waits takes memory


def pictures_digest(annotations: CocoAnnotations, directory: Path) -> str:
    """Tells other pictures under the same names: a hash of the names, sizes and bytes of up to `READ` pictures, and of
    the names and sizes of up to `MEASURED`; which ones depends on the annotations alone.

    A picture that cannot be read is told from one that can.
    """
    chosen = np.random.default_rng(int(annotations.digest[:16], 16)).permutation(len(annotations))[:MEASURED]

    def look(place: int) -> bytes:
        name = annotations.file_name(int(chosen[place]))
        size, content = -1, b""
        with contextlib.suppress(OSError):
            found = os.stat(directory / name)
            if stat.S_ISREG(found.st_mode):  # opening a pipe would wait for somebody to write to it
                if place < READ:
                    with open(directory / name, "rb") as file:
                        content = file.read(MOST_BYTES)
                size = found.st_size
        told = f"{name}: {size} bytes ".encode("utf-8", "surrogatepass")
        return told + hashlib.blake2b(content, digest_size=16).digest()

    whole = hashlib.blake2b(digest_size=8)
    with ThreadPoolExecutor(8) as pool:  # which wait for the disk
        for seen in pool.map(look, range(len(chosen))):
            whole.update(hashlib.blake2b(seen, digest_size=16).digest())
    return whole.hexdigest()


def missing_pictures(annotations: CocoAnnotations, directory: Path) -> list[str]:
    """The file names of the annotations that are not in the image directory."""
    # One listing per directory instead of a stat per file: 118,000 stats take minutes on network disks.
    names = annotations.file_names()
    places = [name.rpartition("/") for name in names]
    present = {
        parent: set(os.listdir(directory / parent)) if os.path.isdir(directory / parent) else set()
        for parent in {parent for parent, _, _ in places}
    }
    missing = [name for name, (parent, _, own) in zip(names, places, strict=True) if own not in present[parent]]
    # A file system may take a name in other letters (upper case, Unicode forms) for the same.
    alike = {name for name, _ in files_alike(missing, directory)} if missing else set()
    return [name for name in missing if not (name in alike and os.path.exists(directory / name))]


def files_alike(missing: Sequence[str], directory: Path) -> list[tuple[str, str]]:
    """(file name of the annotations, file that is there) where the two only look the same."""
    there = (
        os.path.relpath(os.path.join(parent, name), directory).replace(os.sep, "/")
        for parent, _, names in os.walk(directory)
        for name in names
    )
    return look_alikes(missing, there)


@dataclass
class Look:
    """What was seen of the pictures of a split.

    faults: a line for each that is missing, cannot be decoded or has not the annotated size. by_content: paths of the
    good ones by the hash of the file. turned: how many of these are stored turned, by their EXIF orientation.
    likeness: what `like` made of them, by path.
    """

    faults: list[str] = field(default_factory=list)
    by_content: dict[bytes, list[str]] = field(default_factory=dict)
    turned: int = 0
    likeness: dict[str, int] = field(default_factory=dict)


def open_pictures(
    annotations: CocoAnnotations,
    directory: Path,
    progress: Callable[[int, int], None],
    like: Callable[[Image.Image], int] | None = None,
) -> Look:
    """Decodes every picture.

    Args:
        progress: called with the number of pictures done and of all. like: see `Look`; called in several threads.
    """
    seen = Look()
    with ThreadPoolExecutor(usable_cores()) as pool:
        parts = (range(start, min(start + AT_ONCE, len(annotations))) for start in range(0, len(annotations), AT_ONCE))
        looks = (pool.map(lambda i: _look_at(annotations, directory, i, like), part) for part in parts)
        for i, (fault, digest, turned, likeness) in enumerate(chain.from_iterable(looks)):
            path = str(directory / annotations.file_name(i))
            seen.turned += turned
            if fault:
                seen.faults.append(fault)
            else:
                seen.by_content.setdefault(digest, []).append(path)
            if likeness is not None:
                seen.likeness[path] = likeness
            progress(i + 1, len(annotations))
    return seen


def _look_at(
    annotations: CocoAnnotations, directory: Path, i: int, like: Callable[[Image.Image], int] | None
) -> tuple[str | None, bytes, bool, int | None]:
    """What is wrong with picture i, the hash of its file, whether it is stored turned, and what it is like."""
    path = directory / annotations.file_name(i)
    annotated = (int(annotations.widths[i]), int(annotations.heights[i]))
    try:
        picture, turned = decode(path, annotations.upright), orientation(path) != 1
    except ImageError as error:
        return str(error), b"", False, None
    if picture.size != annotated:
        told = f"{path}: {picture.width}x{picture.height} pixels, but {annotated[0]}x{annotated[1]} in the annotations"
        if picture.size == annotated[::-1]:
            told += " (width and height swapped)"
            told += f"; it has an EXIF orientation: {take_turned(annotations.upright)}" if turned else ""
        return told, b"", False, None
    with open(path, "rb") as file:
        digest = hashlib.blake2b(file.read(), digest_size=16).digest()
    return None, digest, turned, like and like(picture)
