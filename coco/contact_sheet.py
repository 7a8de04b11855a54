"""A contact sheet: some pictures of a data set with their boxes, side by side in one picture."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from coco.annotations import CocoAnnotations
from coco.decoding import ImageError, decode
from coco.lettering import drawable_names, text_size, write

TILE = 384  # px; large enough to read the names of boxes
CAPTION = 18  # px
LETTERS = 12  # px, of captions
MARGIN = 8  # px
COLUMNS = 6

# (picture, boxes [G, 4] xyxy in pixels, labels [G] 1..C, crowd boxes, class names) -> the picture with boxes and names
Draw = Callable[[Image.Image, np.ndarray, np.ndarray, np.ndarray, Sequence[str]], Image.Image]


def contact_sheet(splits: Sequence[tuple[CocoAnnotations, Path]], draw: Draw, count: int = 24) -> Image.Image:
    """About `count` pictures with boxes, evenly spread over the splits (annotations and image directory).

    Pictures that cannot be decoded are left out.
    """
    return sheet_of([tile for split in splits for tile in _tiles(*split, draw, -(-count // len(splits)))])


def sheet_of(tiles: Iterable[tuple[Image.Image, str]]) -> Image.Image:
    """Pictures of at most `TILE` - `MARGIN` px a side, in rows, each below its caption."""
    tiles = list(tiles)
    rows = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    heights = [CAPTION + max(tile.height for tile, _ in row) + MARGIN for row in rows]
    sheet = Image.new("RGB", (TILE * min(COLUMNS, max(1, len(tiles))), max(1, sum(heights))), (32, 32, 32))
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, (tile, name) in enumerate(row):
            sheet.paste(tile, (column * TILE, top + CAPTION))
            _write(sheet, (column * TILE, top + CAPTION // 2), name)
        top += height
    return sheet


def _tiles(annotations: CocoAnnotations, directory: Path, draw: Draw, count: int) -> list[tuple[Image.Image, str]]:
    with_boxes = np.flatnonzero(np.diff(annotations.first))
    names = drawable_names(tuple(annotations.class_names), tuple(annotations.category_ids))
    tiles = []
    for i in with_boxes[np.linspace(0, len(with_boxes) - 1, min(count, len(with_boxes))).astype(int)].tolist():
        name = annotations.file_name(i)
        try:
            picture = decode(directory / name, annotations.upright)
        except ImageError:
            continue
        scale = (TILE - MARGIN) / max(picture.size)
        small = picture.resize([max(1, round(scale * side)) for side in picture.size], Image.Resampling.BICUBIC)
        rows = slice(annotations.first[i], annotations.first[i + 1])
        boxes, crowd = annotations.bboxes[rows].copy(), annotations.iscrowd[rows]
        boxes[:, 2:] += boxes[:, :2]
        boxes *= np.tile(np.divide(small.size, picture.size), 2)
        drawn = draw(small, boxes[~crowd], annotations.labels[rows][~crowd], boxes[crowd], names)
        tiles.append((drawn, f"{directory.name}/{name}"))
    return tiles


def _write(sheet: Image.Image, left_middle: tuple[int, int], text: str) -> None:
    while text_size(text, LETTERS)[0] > TILE - MARGIN:
        text = "..." + text[4:]
    left, middle = left_middle
    write(ImageDraw.Draw(sheet), (left, middle - text_size(text, LETTERS)[1] / 2), text, LETTERS, (255, 255, 255))
