"""Tiles of large pictures: where they lie, and what each shows of the boxes. coco/views.py cuts the pixels.

An object of 20 pixels in a picture 4000 wide is 1.5 wide at the network's 300x300 input, and in a tile of 600 it is 10.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from coco.annotations import MIN_SIDE, CocoAnnotations

PAIRS_AT_ONCE = 2**22  # of box and tile; bounds the memory of `TrainingTiles._meetings`

Window = tuple[int, int, int, int]  # left, top, right, bottom, in whole pixels of the picture


class TilingError(ValueError):
    """A tiling that cannot be; the message begins with its setting."""


@dataclass(frozen=True)
class Tiling:
    """Square tiles that cover a picture, row by row; those of the last row and column are moved inwards.

    size: px, of a side. A picture that is not larger is one tile, a side that is shorter is not filled up. overlap:
    share of the side that neighbours have in common at least: an object of up to `size * overlap` pixels is whole in
    some tile. min_area: share of a box's area that a tile must show for the box to be trained on there; half by
    default, what SSD's crop, which keeps boxes whose centre is inside, leaves of a box at its edge.

    Raises:
        TilingError: a number out of its range.
    """

    size: int
    overlap: float = 0.2
    min_area: float = 0.5

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 32:
            raise TilingError(f"tiles {self.size}: expected a whole number of pixels, at least 32")
        if not 0 <= self.overlap <= 0.9:
            raise TilingError(f"tile_overlap {self.overlap}: expected a share of a tile's side, from 0 to 0.9")
        if not 0 < self.min_area <= 1:
            raise TilingError(f"tile_min_area {self.min_area}: expected a share of a box's area, above 0 and up to 1")

    @property
    def step(self) -> int:
        """From one tile to the next, in pixels."""
        return self.size - math.ceil(self.size * self.overlap)


SETTINGS = ("tiles", "tile_overlap", "tile_min_area")


def settings_of(tiling: Tiling | None) -> dict[str, Any]:
    """By the names of the flags, as checkpoints have them and `saved_tiling` reads them."""
    return dict(zip(SETTINGS, (tiling.size, tiling.overlap, tiling.min_area) if tiling else (None,), strict=False))


def saved_tiling(settings: Mapping[str, Any]) -> Tiling | None:
    """Raises TilingError, AttributeError or TypeError for what is none."""
    return tiling_from(*(settings.get(name) for name in SETTINGS))


def tiling_from(
    tiles: int | None, tile_overlap: float | None = None, tile_min_area: float | None = None
) -> Tiling | None:
    """Of settings by the names of the flags; no tiling for 0 and None tiles, the defaults for all else that is None.

    Raises:
        TilingError: a number out of its range, or settings of tiles without a size.
    """
    settings = {"overlap": tile_overlap, "min_area": tile_min_area}
    given = {name: value for name, value in settings.items() if value is not None}
    if tiles is None and given:
        name, value = next(iter(given.items()))
        raise TilingError(f"tile_{name} {value}: of no tiles; give their size, too, as tiles")
    return Tiling(tiles, **given) if tiles else None


@dataclass(frozen=True)
class Grid:
    """What is looked at of a picture: all of it, then its tiles, row by row; a picture that is one tile once.

    windows: int64 [V, 4], xyxy in pixels. shared: int64 [V, 4], how many pixels deep the neighbours at the left, top,
    right and bottom reach into a tile; -1 where there is none, at the picture's border.
    """

    windows: np.ndarray
    shared: np.ndarray


@lru_cache(maxsize=1024)
def grid(width: int, height: int, tiling: Tiling) -> Grid:
    """Of a picture of width x height pixels."""
    (left, right, before, after), (top, bottom, above, below) = (_axis(side, tiling) for side in (width, height))
    row, column = np.divmod(np.arange(len(top) * len(left)), len(left))
    windows = np.stack([left[column], top[row], right[column], bottom[row]], 1)
    shared = np.stack([before[column], above[row], after[column], below[row]], 1)
    if len(windows) > 1:
        windows = np.concatenate([[[0, 0, width, height]], windows])
        shared = np.concatenate([[[-1] * 4], shared])
    for array in (windows, shared):
        array.flags.writeable = False
    return Grid(windows, shared)


def _axis(length: int, tiling: Tiling) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Along one side: where tiles begin and end, and how deep the one before and the one after reach into each."""
    begin, end = _span(np.arange(int(_counts(np.array(length), tiling))), np.array(length), tiling)
    shared = end[:-1] - begin[1:]
    return begin, end, np.append(-1, shared), np.append(shared, -1)


def view_counts(sizes: np.ndarray, tiling: Tiling) -> np.ndarray:
    """How many windows the grids of pictures have: int64 [N, 2], width and height -> int64 [N]."""
    tiles = _counts(sizes, tiling).prod(1)
    return tiles + (tiles > 1)


def _counts(lengths: np.ndarray, tiling: Tiling) -> np.ndarray:
    """How many tiles cover sides of so many pixels; int64, of the same shape."""
    return 1 - np.minimum(tiling.size - lengths, 0) // tiling.step


def _span(index: np.ndarray, lengths: np.ndarray, tiling: Tiling) -> tuple[np.ndarray, np.ndarray]:
    """Where the index-th tiles along sides of so many pixels begin and end; arrays that broadcast."""
    begin = np.minimum(index * tiling.step, np.maximum(lengths - tiling.size, 0))
    return begin, np.minimum(begin + tiling.size, lengths)


def boxes_in(
    window: Window, size: tuple[int, int], boxes: np.ndarray, labels: np.ndarray, min_area: float
) -> tuple[np.ndarray, np.ndarray]:
    """What a part of a picture shows of its boxes: those of whose area it has at least `min_area`, cut by its borders.

    Args:
        size: of the picture, (width, height). boxes: float32 [G, 4] xyxy, normalised to it. labels: int64 [G].

    Returns boxes float32 [n, 4], normalised to the part, and labels int64 [n].
    """
    if window == (0, 0, *size):
        return boxes, labels
    pixels = boxes * np.tile(np.array(size, np.float64), 2)
    low, high = np.maximum(pixels[:, :2], window[:2]), np.minimum(pixels[:, 2:], window[2:])
    kept = (np.clip(high - low, 0, None) / (pixels[:, 2:] - pixels[:, :2])).prod(1) >= min_area
    corner, side = np.array(window[:2]), np.subtract(window[2:], window[:2])
    cut = (np.concatenate([low - corner, high - corner], 1) / np.tile(side, 2)).astype(np.float32)
    kept &= (cut[:, 2:] - cut[:, :2] >= MIN_SIDE).all(1)
    return cut[kept], labels[kept]


def in_their_tiles(boxes: np.ndarray, sizes: np.ndarray, tiling: Tiling) -> np.ndarray:
    """Each box in the tile that shows most of it: float32 [K, 4] xyxy, normalised to the tile and cut at its border.

    Args:
        boxes: float32 [K, 4] xyxy, normalised. sizes: int64 [K, 2], width and height of the pictures they are in.
    """
    sides, counts = [], _counts(sizes, tiling)
    for axis in (0, 1):
        lengths = sizes[:, axis, None]
        low, high = (boxes[:, axis + end, None] * lengths.astype(np.float64) for end in (0, 2))
        middle = np.rint(((low + high) / 2 - tiling.size / 2) / tiling.step).astype(np.int64)
        begin, end = _span(np.clip(middle + [-1, 0, 1], 0, counts[:, axis, None] - 1), lengths, tiling)  # [K, 3]
        most = (np.minimum(high, end) - np.maximum(low, begin)).argmax(1)[:, None]
        begin, end = (np.take_along_axis(each, most, 1) for each in (begin, end))
        sides.append([(np.clip(each, begin, end) - begin) / (end - begin) for each in (low, high)])
    (left, right), (top, bottom) = sides
    return np.concatenate([left, top, right, bottom], 1).astype(np.float32)


class TrainingTiles:
    """The samples of a training set by number: its pictures, or with a tiling the windows of the first picture's grid,
    then those of the second's, and so on.

    Attributes:
        trainable: int64, the numbers of samples to train on, ascending: tiles with a box, and whole pictures with a box
            that no tile shows enough of. So every box is trained on.
    """

    def __init__(self, annotations: CocoAnnotations, tiling: Tiling | None = None) -> None:
        self.annotations, self.tiling = annotations, tiling
        if tiling is None:
            self.trainable = annotations.trainable
            return
        self._sizes = np.stack([annotations.widths, annotations.heights], 1).astype(np.int64)
        self._counts = _counts(self._sizes, tiling)  # int64 [N, 2], columns and rows
        self._first = np.concatenate(([0], np.cumsum(view_counts(self._sizes, tiling))))  # int64 [N + 1]
        image, boxes, _ = annotations.all_training_boxes
        pixels = boxes * np.tile(self._sizes[image], 2).astype(np.float64)
        samples, shown = np.zeros(self._first[-1], bool), np.zeros(len(boxes), bool)
        for box, number in self._meetings(image, pixels, tiling.min_area):
            samples[number] = shown[box] = True
        samples[self._first[image[~shown]]] = True
        self.trainable = np.flatnonzero(samples)

    @property
    def backgrounds(self) -> np.ndarray:
        """int64, the numbers of tiles that show nothing of any annotation, a crowd being one."""
        if self.tiling is None:
            return self.annotations.backgrounds
        image = np.repeat(np.arange(len(self._sizes)), np.diff(self.annotations.first))
        begin = self.annotations.bboxes[:, :2]
        with np.errstate(over="ignore"):
            end = begin + self.annotations.bboxes[:, 2:]
        corners = np.concatenate([np.minimum(begin, end), np.maximum(begin, end)], 1)
        one_tile = self._counts.prod(1) == 1
        # Of a picture that is one tile all annotations count, as they do without tiles: also those outside of it.
        corners[one_tile[image]] = 0
        empty = np.ones(self._first[-1], bool)
        empty[self._first[:-1][~one_tile]] = False  # whole pictures
        for _, number in self._meetings(image, corners, 0):
            empty[number] = False
        return np.flatnonzero(empty)

    def images(self, numbers: np.ndarray) -> np.ndarray:
        """int64 [n], the indices of samples' pictures."""
        return numbers if self.tiling is None else np.searchsorted(self._first, numbers, side="right") - 1

    def image(self, number: int) -> int:
        """The index of a sample's picture."""
        return int(self.images(np.array(number)))

    def window(self, number: int) -> Window:
        """Which part of its picture a sample is."""
        image = self.image(number)
        width, height = int(self.annotations.widths[image]), int(self.annotations.heights[image])
        if self.tiling is None:
            return 0, 0, width, height
        left, top, right, bottom = grid(width, height, self.tiling).windows[number - self._first[image]].tolist()
        return left, top, right, bottom

    def training_boxes(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Fresh arrays of a sample: boxes float32 [G, 4], xyxy normalised to it; labels int64 [G]."""
        image = self.image(number)
        boxes, labels = self.annotations.training_boxes(image)
        if self.tiling is None:
            return boxes, labels
        width, height = self._sizes[image].tolist()
        return boxes_in(self.window(number), (width, height), boxes, labels, self.tiling.min_area)

    def _meetings(
        self, image: np.ndarray, corners: np.ndarray, least: float
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pairs of a box and the number of a tile that shows at least this share of its area (0: anything, its edge
        too), some at a time: rows and numbers, int64 [n].

        Args:
            image: int64 [K], of each box. corners: float64 [K, 4], xyxy in pixels.
        """
        assert self.tiling is not None
        most = self._counts.max(0, initial=1)
        at_once = max(1, PAIRS_AT_ONCE // int(most.prod()))
        for start in range(0, len(image), at_once):
            some, boxes = image[start : start + at_once], corners[start : start + at_once]
            meets, share = [], []  # along x and y: [k, most columns], [k, most rows]
            for axis in (0, 1):
                index, low, high = np.arange(most[axis]), boxes[:, axis, None], boxes[:, axis + 2, None]
                begin, end = _span(index, self._sizes[some, axis, None], self.tiling)
                seen = np.minimum(high, end) - np.maximum(low, begin)
                meets.append((seen >= 0) & (index < self._counts[some, axis, None]))
                with np.errstate(over="ignore"):
                    share.append(np.clip(seen, 0, None) / np.maximum(high - low, np.finfo(float).tiny))
            found = meets[0][:, None] & meets[1][:, :, None] & (share[0][:, None] * share[1][:, :, None] >= least)
            box, row, column = np.nonzero(found)
            columns, rows = self._counts[some[box]].T
            yield start + box, self._first[some[box]] + (columns * rows > 1) + row * columns + column
