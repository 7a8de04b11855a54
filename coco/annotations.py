"""COCO annotations as flat arrays: no object per annotation, one sort, cached beside the json and memory-mapped.
A second start costs milliseconds, and every worker, forked or spawned, shares the same pages.
"""

import hashlib
import os
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from coco.annotation_cache import BrokenCache, Contents, Meta, load_or_build, open_cache
from coco.annotation_checks import UNSAFE_NAME, AnnotationError
from coco.annotation_parser import Columns, check_is_file, parse

__all__ = ["AnnotationError", "CocoAnnotations"]

# A box sticks out of its image when it does by more than this. COCO's own boxes overstep by some hundredths of a pixel,
# and exporters that count pixels from 1 by a whole one; neither is worth a warning. All are clipped for training.
STICKS_OUT_PX = 1.0
# Of the image's side. In float32 a crop and a flip can leave nothing of a smaller box, and the logarithm of its size in
# the loss would be -inf.
MIN_SIDE = 1e-6
EXAMPLES = 3  # images named in the warning


class CocoAnnotations:
    """The images, boxes and classes of one COCO json, N images and M annotations, sorted by image id.

    The arrays are read-only views. The raw boxes, areas and crowd flags are what evaluation uses; `training_boxes` are
    derived from them: clipped, normalised, degenerate ones dropped.

    An instance pickles as the paths of the json and its cache, and opens the cache again when unpickled.
    """

    path: Path  # the json, absolute
    image_ids: np.ndarray  # int64 [N], ascending
    widths: np.ndarray  # int32 [N]
    heights: np.ndarray  # int32 [N]
    first: np.ndarray  # int64 [N + 1]; annotations of image i are rows first[i]:first[i + 1], in file order
    bboxes: np.ndarray  # float64 [M, 4], xywh in pixels exactly as written
    areas: np.ndarray  # float64 [M]; width * height where the file has none
    iscrowd: np.ndarray  # bool [M]; False where the file has none
    labels: np.ndarray  # int64 [M], 1..C: rank of the category id
    category_ids: tuple[int, ...]  # ascending; label l is category_ids[l - 1]
    class_names: tuple[str, ...]
    trainable: np.ndarray  # int64, indices of the images with at least one training box
    num_dropped: int  # annotations without a training box: no size (below MIN_SIDE), or outside the image
    num_clipped: int  # training boxes that stuck out of the image by more than STICKS_OUT_PX
    upright = False  # whether sizes and boxes are those of pictures turned as their EXIF orientation says

    @classmethod
    def load(cls, path: str | Path, cache: bool = True) -> "CocoAnnotations":
        """Reads the json at `path`, or its cache if that is up to date; AnnotationError if the file cannot be used."""
        path = Path(os.path.abspath(path))
        check_is_file(path)
        if cache:
            contents, cache_path = load_or_build(path, lambda: _build(path))
        else:
            contents, cache_path = _build(path), None
        annotations = cls(path, contents, cache_path)
        if annotations.num_dropped or annotations.num_clipped:
            warnings.warn(annotations._oddities(), stacklevel=2)
        return annotations

    def __init__(self, path: Path, contents: Contents, cache_path: Path | None):
        arrays, meta = contents.arrays, contents.meta
        for array in arrays.values():
            array.flags.writeable = False
        self.path = path
        self.image_ids, self.widths, self.heights = arrays["image_ids"], arrays["widths"], arrays["heights"]
        self.first, self.bboxes, self.areas = arrays["first"], arrays["bboxes"], arrays["areas"]
        self.iscrowd, self.labels, self.trainable = arrays["iscrowd"], arrays["labels"], arrays["trainable"]
        self.category_ids, self.class_names = meta.category_ids, meta.class_names
        self.num_dropped, self.num_clipped = meta.num_dropped, meta.num_clipped
        self._first_training = arrays["first_training"]  # int64 [N + 1]
        self._training_boxes = arrays["training_boxes"]  # float32 [K, 4]
        self._training_labels = arrays["training_labels"]  # int64 [K]
        self._first_letter = arrays["first_letter"]  # int64 [N + 1]
        self._letters = arrays["letters"]  # uint8, all file names in UTF-8
        self._indices = range(len(self.image_ids))
        self._contents, self._cache_path = contents, cache_path

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def digest(self) -> str:
        """BLAKE2b of the json, in hexadecimal: tells one data set from another."""
        return self._contents.meta.digest

    def file_name(self, i: int) -> str:
        i = self._indices[i]
        name = self._letters[self._first_letter[i] : self._first_letter[i + 1]].tobytes().decode(errors="replace")
        self._check_safe(name)
        return name

    def file_names(self) -> list[str]:
        """Of all images, in a fraction of the time."""
        letters, ends = self._letters.tobytes(), self._first_letter.tolist()
        names = [letters[begin:end].decode(errors="replace") for begin, end in pairwise(ends)]
        for unsafe in filter(UNSAFE_NAME.search, names):
            self._check_safe(unsafe)
        return names

    def _check_safe(self, name: str) -> None:
        # Checked when the json was parsed; but a cache may come with somebody's data, and this name will be opened.
        if UNSAFE_NAME.search(name):
            raise AnnotationError(f"{self._cache_path}: {name!r} leaves the image directory. Delete this cache.")

    @property
    def training_objects(self) -> np.ndarray:
        """int64 [C], how many boxes of each class there are to train on."""
        return np.bincount(self._training_labels, minlength=len(self.class_names) + 1)[1:]

    @property
    def backgrounds(self) -> np.ndarray:
        """int64, indices of the images without any annotation (a crowd is one)."""
        return np.flatnonzero(np.diff(self.first) == 0)

    def training_boxes(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Fresh arrays of image i: boxes float32 [G, 4], xyxy normalised to [0, 1]; labels int64 [G]."""
        i = self._indices[i]
        rows = slice(self._first_training[i], self._first_training[i + 1])
        return self._training_boxes[rows].copy(), self._training_labels[rows].copy()

    @property
    def all_training_boxes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of all images, read-only: the index of each box's image, int64 [K]; boxes [K, 4] and labels [K] as above."""
        image = np.repeat(np.arange(len(self)), np.diff(self._first_training))
        return image, self._training_boxes, self._training_labels

    def of_upright_pictures(self) -> "CocoAnnotations":
        """The same, drawn on pictures that were turned upright."""
        turned = CocoAnnotations(self.path, self._contents, self._cache_path)
        turned.upright = True
        return turned

    def relabelled(self, new: np.ndarray, class_names: Sequence[str], category_ids: Sequence[int]) -> "CocoAnnotations":
        """The same images with other classes.

        Args:
            new: int64 [C + 1], the new label of each label; 0 leaves its annotations out. class_names, category_ids: of
                the new labels, from 1 on.
        """
        labels = new[self.labels]
        rows = np.flatnonzero(labels)
        return self._remade(np.arange(len(self)), rows, labels[rows], class_names, category_ids)

    def of_images(self, images: np.ndarray) -> "CocoAnnotations":
        """Some of the images, with all classes. images: int64, indices, ascending."""
        rows = np.flatnonzero(np.isin(self._image_of_rows(), images))
        return self._remade(images, rows, self.labels[rows], self.class_names, self.category_ids)

    def _remade(
        self,
        images: np.ndarray,
        rows: np.ndarray,
        labels: np.ndarray,
        class_names: Sequence[str],
        category_ids: Sequence[int],
    ) -> "CocoAnnotations":
        """Some of the images and rows, with new labels. It has no cache: it pickles whole."""
        place = np.zeros(len(self), np.int64)
        place[images] = np.arange(len(images))
        lengths = np.diff(self._first_letter)
        within = np.repeat(np.isin(np.arange(len(self)), images), lengths)
        columns = {
            "image_ids": self.image_ids[images],
            "widths": self.widths[images],
            "heights": self.heights[images],
            "bboxes": self.bboxes[rows],
            "areas": self.areas[rows],
            "iscrowd": self.iscrowd[rows],
            "labels": labels,
            "first_letter": np.concatenate(([0], np.cumsum(lengths[images]))),
            "letters": self._letters[within],
        }
        derived, arrays = _with_training_boxes(columns, place[self._image_of_rows()[rows]])
        content = [array.tobytes() for array in (images, rows, labels)]
        classes = repr((self.digest, tuple(class_names), tuple(category_ids))).encode()
        digest = hashlib.blake2b(b"".join([classes, *content]), digest_size=32).hexdigest()
        same = {"class_names": tuple(class_names), "category_ids": tuple(category_ids), "digest": digest}
        meta = msgspec.structs.replace(self._contents.meta, **derived, **same)
        made = CocoAnnotations(self.path, Contents(meta, arrays), None)
        return made.of_upright_pictures() if self.upright else made

    def _image_of_rows(self) -> np.ndarray:
        """int64 [M], the index of each annotation's image."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    def __reduce__(self) -> tuple[Any, ...]:
        if self._cache_path is None:
            return _from_contents, (type(self), self.path, self._contents, self.upright)
        return _from_cache, (type(self), self.path, self._cache_path, self.digest, self.upright)

    def _oddities(self) -> str:
        return (
            f"{self.path}: for training, {self.num_dropped} of {len(self.labels)} boxes were dropped (no size, or "
            f"outside the image) and {self.num_clipped} that stick out by more than {STICKS_OUT_PX:g} px were clipped, "
            f"first in {', '.join(self._contents.meta.examples)}. Evaluation uses the boxes as written."
        )


def _from_contents(cls: type[CocoAnnotations], path: Path, contents: Contents, upright: bool) -> CocoAnnotations:
    annotations = cls(path, contents, None)
    return annotations.of_upright_pictures() if upright else annotations


def _from_cache(
    cls: type[CocoAnnotations], path: Path, cache_path: Path, digest: str, upright: bool
) -> CocoAnnotations:
    annotations = None
    try:
        contents = open_cache(cache_path)
        if contents.meta.digest == digest:
            annotations = cls(path, contents, cache_path)
    except (OSError, BrokenCache):
        pass
    annotations = annotations or cls.load(path)  # the cache is gone or was built anew
    if annotations.digest != digest:
        raise AnnotationError(f"{path}: has changed since it was loaded, so indices no longer agree. Start again.")
    return annotations.of_upright_pictures() if upright else annotations


def _build(path: Path) -> Contents:
    """Reads and checks the json, and makes of it what `CocoAnnotations` needs."""
    try:
        checked_ns = time.time_ns()
        with open(path, "rb", buffering=0) as file:
            # Taken before the reading: a file that changes meanwhile will look changed to the next start.
            state = os.fstat(file.fileno())
            data = file.readall()
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}. Check its permissions.") from None
    with ThreadPoolExecutor(1) as other:  # hashing releases the GIL, so it costs nothing beside the parsing
        digest = other.submit(lambda: hashlib.blake2b(data, digest_size=32).hexdigest())
        summary, arrays = _arrange(parse(path, data))
        return Contents(Meta(state.st_size, state.st_mtime_ns, checked_ns, digest.result(), **summary), arrays)


def _arrange(columns: Columns) -> tuple[dict, dict[str, np.ndarray]]:
    """Sorts by image id, keeping file order within an image, and derives labels and training boxes."""
    by_id = np.argsort(columns.image_ids)
    image_ids, widths, heights = columns.image_ids[by_id], columns.widths[by_id], columns.heights[by_id]
    names = [columns.file_names[index] for index in by_id]
    letters = [name.encode() for name in names]

    by_image = np.argsort(columns.image_ranks, kind="stable")
    image, bboxes = columns.image_ranks[by_image], columns.bboxes[by_image]
    labels = columns.category_ranks[by_image] + 1
    category_ids = sorted(columns.categories)

    columns_by_image = {
        "image_ids": image_ids,
        "widths": widths,
        "heights": heights,
        "bboxes": bboxes,
        "areas": columns.areas[by_image],
        "iscrowd": columns.iscrowd[by_image],
        "labels": labels,
        "first_letter": np.cumsum([0, *map(len, letters)], dtype=np.int64),
        "letters": np.frombuffer(b"".join(letters), np.uint8),
    }
    derived, arrays = _with_training_boxes(columns_by_image, image)
    classes = {
        "category_ids": tuple(category_ids),
        "class_names": tuple(columns.categories[id] for id in category_ids),
    }
    return {**classes, **derived}, arrays


def _with_training_boxes(columns: dict[str, np.ndarray], image: np.ndarray) -> tuple[dict, dict[str, np.ndarray]]:
    """Columns by image, of rows whose images are `image` [M], ascending -> what `Meta` has of them, and all arrays."""
    sizes = np.stack([columns["widths"], columns["heights"]], 1)
    boxes, usable, sticks_out = _normalised(columns["bboxes"], sizes[image])
    first_training = _first_rows(image[usable], len(sizes))
    clipped = usable & sticks_out
    odd_images = list(dict.fromkeys(image[~usable | clipped].tolist()))[:EXAMPLES]
    ends, letters = columns["first_letter"], columns["letters"]
    names = (letters[ends[i] : ends[i + 1]].tobytes().decode(errors="replace") for i in odd_images)
    derived = {"num_dropped": int(np.sum(~usable)), "num_clipped": int(np.sum(clipped)), "examples": tuple(names)}
    return derived, {
        **columns,
        "first": _first_rows(image, len(sizes)),
        "first_training": first_training,
        "training_boxes": boxes[usable],
        "training_labels": columns["labels"][usable],
        "trainable": np.flatnonzero(np.diff(first_training)).astype(np.int64),
    }


def _normalised(bboxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """xywh pixels [M, 4] in images of `sizes` [M, 2] -> (clipped xyxy in [0, 1], usable [M], sticks_out [M])."""
    with np.errstate(over="ignore"):
        low, high = bboxes[:, :2], bboxes[:, :2] + bboxes[:, 2:]
    boxes = np.concatenate([np.clip(low, 0, sizes) / sizes, np.clip(high, 0, sizes) / sizes], 1).astype(np.float32)
    usable: Any = (bboxes[:, 2:] > 0).all(1) & (boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(1)
    sticks_out: Any = ((low < -STICKS_OUT_PX) | (high > sizes + STICKS_OUT_PX)).any(1)
    return boxes, usable, sticks_out


def _first_rows(image: np.ndarray, images: int) -> np.ndarray:
    """Rows sorted by `image` -> where each image's rows begin, and the end. [N + 1]"""
    return np.searchsorted(image, np.arange(images + 1))
