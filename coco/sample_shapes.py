"""Shapes of the sample data set, one a class, as outlines: float64 [N, 2], x and y in pixels; and their masks."""

import math

import numpy as np
from PIL import Image, ImageDraw

CATEGORIES = {2: "disc", 3: "square", 7: "triangle", 40: "cross"}  # ids with gaps, as COCO's own

_turns = np.linspace(0, 2 * math.pi, 40, endpoint=False)
_circle = np.stack([np.sin(_turns), -np.cos(_turns)], 1)
_a = 0.34  # half the width of a cross's arm
_cross = [(-_a, -1), (_a, -1), (_a, -_a), (1, -_a), (1, _a), (_a, _a),
          (_a, 1), (-_a, 1), (-_a, _a), (-1, _a), (-1, -_a), (-_a, -_a)]  # fmt: skip
UNIT_SHAPES = {
    "disc": _circle,
    "square": np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]),
    "triangle": np.array([(0, -1), (1, 1), (-1, 1)]),
    "cross": np.array(_cross),
}


def outline_of(rng: np.random.Generator, category: int, size: float, centre: np.ndarray) -> np.ndarray:
    """A shape in a box whose longest side is `size`: stretched, then turned a little. On quarter pixels, so that the
    boxes taken from it are exact in the annotations and never stick out by a rounding error."""
    shape = UNIT_SHAPES[CATEGORIES[category]]
    stretch, angle = math.exp(rng.uniform(math.log(0.6), math.log(1.6)) / 2), math.radians(rng.uniform(-20, 20))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    shape = (shape * [stretch, 1 / stretch]) @ turn
    low, high = shape.min(0), shape.max(0)
    shape = (shape - (low + high) / 2) * size / (high - low).max()
    return np.round((shape + centre) * 4) / 4


def clip(outline: np.ndarray, width: int, height: int) -> np.ndarray:
    """The part of an outline inside the picture (Sutherland-Hodgman), possibly without points."""
    for axis, sign, limit in ((0, 1, 0), (0, -1, -width), (1, 1, 0), (1, -1, -height)):
        depth = sign * outline[:, axis] - limit  # >= 0: inside this border
        kept = []
        for i in range(len(outline)):
            if depth[i - 1] * depth[i] < 0:
                kept.append(outline[i - 1] + (outline[i] - outline[i - 1]) * depth[i - 1] / (depth[i - 1] - depth[i]))
            if depth[i] >= 0:
                kept.append(outline[i])
        outline = np.round(np.reshape(kept, (-1, 2)) * 4) / 4
    return outline


def area_of(outline: np.ndarray) -> float:
    x, y = outline.T
    return abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2


def box_of(outline: np.ndarray) -> list[float]:
    low, high = outline.min(0), outline.max(0)
    return [*low.tolist(), *(high - low).tolist()]


def overlap(a: list[float], b: list[float]) -> float:
    """Intersection of two xywh boxes as a share of the smaller one."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0) / min(a[2] * a[3], b[2] * b[3])


def window_and_mask(outline: np.ndarray, size: tuple[int, int], edge: int | None = None) -> tuple[tuple, Image.Image]:
    """The window around an outline, (left, top, right, bottom), and the outline's anti-aliased mask in it;
    with `edge`, the mask of a border that many pixels wide along the inside of the outline."""
    low = np.maximum(np.floor(outline.min(0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(outline.max(0)).astype(int) + 1, size)
    mask = Image.new("L", tuple((2 * (high - low)).tolist()))  # drawn at twice the size
    points = [tuple(point) for point in ((outline - low) * 2 - 0.5).tolist()]
    if edge is None:
        ImageDraw.Draw(mask).polygon(points, fill=255)
    else:
        ImageDraw.Draw(mask).polygon(points, outline=255, width=2 * edge)
    return (*low.tolist(), *high.tolist()), mask.reduce(2)


def full_mask(outline: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: the picture's pixels inside an outline."""
    full = Image.new("L", size)
    window, mask = window_and_mask(outline, size)
    full.paste(mask, window)
    return np.asarray(full) > 127
