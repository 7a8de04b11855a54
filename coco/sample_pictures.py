"""Pictures of the sample data set: where objects stand, how many, and their annotations."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from coco.sample_painting import background, paint
from coco.sample_shapes import CATEGORIES, area_of, box_of, clip, full_mask, outline_of, overlap

EMPTY_SHARE, CROWD_SHARE = 0.05, 0.04  # of the pictures
OBJECT_COUNT_WEIGHTS = [0.04, 0.08, 0.12, 0.16, 0.20, 0.20, 0.20]  # 1 to 7 objects
SMALLEST, LARGEST = 30, 170  # longest side of an object's box, pixels
MAX_OVERLAP = 0.5  # of the smaller of two boxes, hence IoU <= 1/3
MIN_VISIBLE = 0.65  # share of an object that later objects leave uncovered
MIN_INSIDE = 0.8  # share of an object inside the picture


def draw_picture(rng: np.random.Generator) -> tuple[Image.Image, list[dict]]:
    """One picture and its annotations (without ids)."""
    width, height = int(rng.integers(320, 481)), int(rng.integers(240, 401))
    picture = background(rng, width, height)
    kind = rng.random()
    if kind < EMPTY_SHARE:
        return picture, []
    if kind < EMPTY_SHARE + CROWD_SHARE:
        annotations = [_paint_crowd(rng, picture)]
        return picture, annotations + _paint_objects(rng, picture, int(rng.integers(0, 3)), [annotations[0]["bbox"]])
    return picture, _paint_objects(rng, picture, 1 + int(rng.choice(7, p=OBJECT_COUNT_WEIGHTS)))


def _paint_objects(rng: np.random.Generator, picture: Image.Image, count: int, keep_clear: Sequence = ()) -> list[dict]:
    """Paint up to `count` objects, later over earlier ones, none over the boxes `keep_clear`; their annotations."""
    annotations: list[dict] = []
    uncovered: list[np.ndarray] = []  # of each object, the mask of what still shows
    pixels: list[int] = []  # of each object, in all
    for _ in range(40 * count):
        if len(annotations) == count:
            break
        category = int(rng.choice(list(CATEGORIES)))
        size = SMALLEST * (LARGEST / SMALLEST) ** (rng.random() ** 0.6)
        whole = outline_of(rng, category, size, rng.uniform([0, 0], picture.size))
        outline = clip(whole, *picture.size)
        if area_of(outline) < MIN_INSIDE * area_of(whole):
            continue
        box = box_of(outline)
        if any(overlap(box, other) > 0 for other in keep_clear):
            continue
        if any(overlap(box, other["bbox"]) > MAX_OVERLAP for other in annotations):
            continue
        mask = full_mask(outline, picture.size)
        still = [shown & ~mask for shown in uncovered]
        if any(shown.sum() < MIN_VISIBLE * total for shown, total in zip(still, pixels, strict=True)):
            continue
        uncovered, pixels = [*still, mask], [*pixels, mask.sum()]
        paint(rng, picture, outline)
        annotations.append(_annotation(category, box, area_of(outline), 0, [outline.ravel().tolist()]))
    return annotations


def _paint_crowd(rng: np.random.Generator, picture: Image.Image) -> dict:
    """Paint a tight cluster of many small shapes of one class; its single annotation."""
    category, size = int(rng.choice(list(CATEGORIES))), rng.uniform(18, 28)
    columns, rows = rng.integers(4, 7, 2)
    half = np.array([columns, rows]) * size / 2
    corner = rng.uniform(half, np.array(picture.size) - half) - half
    mask = np.zeros(picture.size[::-1], bool)
    for cell in rng.permutation(columns * rows):
        centre = corner + (np.array([cell % columns, cell // columns]) + rng.uniform(0.25, 0.75, 2)) * size
        outline = clip(outline_of(rng, category, size * rng.uniform(0.9, 1.2), centre), *picture.size)
        mask |= full_mask(outline, picture.size)
        paint(rng, picture, outline)
    ys, xs = np.nonzero(mask)
    box = [float(v) for v in (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)]
    return _annotation(category, box, mask.sum(), 1, _rle(mask))


def _annotation(category: int, box: list[float], area: float, iscrowd: int, segmentation: list | dict) -> dict:
    return {
        "category_id": category, "bbox": box, "area": float(area),
        "iscrowd": iscrowd, "segmentation": segmentation,
    }  # fmt: skip


def _rle(mask: np.ndarray) -> dict:
    """COCO's uncompressed run lengths: column by column, beginning with a run of zeros (perhaps empty)."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}
