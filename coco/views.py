"""What the network sees of a picture that is tiled: all of it, and each of its tiles, at the network's size."""

from typing import Any, NamedTuple

import numpy as np

from coco.decoding import INPUT_SIZE, resize
from coco.tiles import Tiling, grid, view_counts


class Views(NamedTuple):
    """The V views of a batch of B pictures, one picture's after the other's; on the CPU."""

    counts: np.ndarray  # int64 [B], views of each picture
    windows: np.ndarray  # int64 [V, 4], xyxy in pixels of the picture
    shared: np.ndarray  # int64 [V, 4], see `coco.tiles.Grid`
    at_once: int  # how many the network is to see at a time


def see(pixels: np.ndarray, tiling: Tiling, decoder: str = "auto") -> dict[str, Any]:
    """A picture, uint8 [H, W, 3], as image uint8 [V, 300, 300, 3], what lies in the windows of its grid; windows and
    shared are the grid's."""
    height, width = pixels.shape[:2]
    seen = grid(width, height, tiling)
    parts = (pixels[top:bottom, left:right] for left, top, right, bottom in seen.windows.tolist())
    image = np.stack([resize(part, (INPUT_SIZE, INPUT_SIZE), decoder=decoder) for part in parts])
    return {"image": image, "windows": seen.windows, "shared": seen.shared}


def pictures_at_once(widths: np.ndarray, heights: np.ndarray, tiling: Tiling | None, at_once: int) -> int:
    """How many pictures of these a batch may hold so that it has `at_once` views at most; at least one."""
    if tiling is None:
        return at_once
    return max(1, at_once // int(view_counts(np.stack([widths, heights], 1), tiling).max(initial=1)))
