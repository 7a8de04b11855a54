"""Pictures with boxes: drawing detections or mistakes. Class names come as coco.lettering.drawable_names gives them."""

import colorsys
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from coco.annotations import CocoAnnotations
from coco.decoding import decode
from coco.lettering import text_size, write
from evaluation.errors import Mistake

# Okabe and Ito's colours, told apart by colour-blind eyes too.
RIGHT, WRONG, MISSED = (86, 180, 233), (213, 94, 0), (240, 228, 66)
TEXT_SHARE = 0.35  # of a picture that texts may cover; beyond it, and where they would meet, boxes go without
MISTAKES_SIDE = 900  # px, the longer side of a picture of mistakes, so that their names can be read
CROP_SIDE = 200  # px, the longer side of a single mistake's picture
CROP_MARGIN = 0.6  # of the box's longer side, around it

Colour = tuple[int, int, int]


def draw_detections(
    picture: Image.Image,
    boxes: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray | None,
    class_names: Sequence[str],
    true_boxes: np.ndarray | None = None,
) -> Image.Image:
    """A copy of the picture with named, scored boxes in one colour per class, and true boxes in thin white.

    Where there is no room for all texts, as in a very small or crowded picture, the best scores keep theirs.

    Args:
        boxes, true_boxes: [n, 4] xyxy in pixels of the picture. labels: [n], 1..C. scores: [n], or None for boxes
            without a score (ground truths).
    """
    picture = picture.convert("RGB")
    draw = ImageDraw.Draw(picture)
    line, letters = _pen(picture)
    for box in true_boxes if true_boxes is not None else ():
        draw.rectangle(_within(box, picture), outline=(255, 255, 255), width=max(1, line // 2))
    order = np.argsort(-scores, kind="stable") if scores is not None else range(len(boxes))
    named = []
    for i in order:
        score = "" if scores is None else f" {scores[i]:.2f}"
        colour = class_colour(int(labels[i]), len(class_names))
        named.append((boxes[i], f"{class_names[int(labels[i]) - 1]}{score}", colour))
    _draw_named_boxes(draw, picture, named, line, letters, text_share=TEXT_SHARE)
    return picture


def draw_mistakes(
    picture: Image.Image, right_boxes: np.ndarray, mistakes: Sequence[Mistake], class_names: Sequence[str]
) -> Image.Image:
    """An enlarged copy with right detections in thin blue, and numbered mistakes: false positives in red, missed
    objects in yellow. A legend stands below it.

    Args:
        right_boxes: [n, 4] xyxy in pixels of the picture. mistakes: numbered from 1 in this order.
    """
    scale = max(1.0, MISTAKES_SIDE / max(picture.size))
    picture = picture.convert("RGB").resize([round(scale * side) for side in picture.size], Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    line, letters = _pen(picture)
    for box in right_boxes:
        draw.rectangle(_within(scale * box, picture), outline=RIGHT, width=max(2, 3 * line // 4))
    named = []
    for number, mistake in enumerate(mistakes, start=1):
        score = "" if mistake.score is None else f" {mistake.score:.2f}"
        colour = MISSED if mistake.kind == "missed" else WRONG
        named.append((scale * mistake.box, f"{number} {class_names[mistake.label - 1]}{score}", colour))
    _draw_named_boxes(draw, picture, named, line, letters)
    missed = sum(mistake.kind == "missed" for mistake in mistakes)
    return _with_legend(
        picture,
        [
            (RIGHT, f"right: {len(right_boxes)}"),
            (WRONG, f"false positives: {len(mistakes) - missed}"),
            (MISSED, f"missed: {missed}"),
        ],
        letters,
    )


def crop_around(picture: Image.Image, box: np.ndarray, colour: Colour) -> Image.Image:
    """A box (xyxy in pixels) and what is around it, `CROP_SIDE` px high or wide, with the box drawn."""
    left, top, right, bottom = _within(box, picture)
    margin = max(8.0, CROP_MARGIN * max(right - left, bottom - top))
    region = [max(0, left - margin), max(0, top - margin)]
    region += [min(picture.width, right + margin), min(picture.height, bottom + margin)]
    x0, y0, x1, y1 = (round(value) for value in region)
    cut = picture.convert("RGB").crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))
    scale = CROP_SIDE / max(cut.size)
    cut = cut.resize([max(1, round(scale * side)) for side in cut.size], Image.Resampling.BICUBIC)
    placed = _within((np.array([left, top, right, bottom]) - [x0, y0, x0, y0]) * scale, cut)
    ImageDraw.Draw(cut).rectangle(placed, outline=colour, width=2)
    return cut


def open_image(annotations: CocoAnnotations, directory: Path, i: int) -> tuple[Path, Image.Image]:
    """Path and RGB picture of image i of the annotations."""
    path = directory / annotations.file_name(i)
    return path, decode(path, annotations.upright)


def class_colour(label: int, num_classes: int) -> Colour:
    """Well separated hues, the same for a class in every picture."""
    red, green, blue = colorsys.hsv_to_rgb((label - 1) / num_classes, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _pen(picture: Image.Image) -> tuple[int, int]:
    """Line width and size of letters for a picture of this size."""
    side, narrow = max(picture.size), min(picture.size)
    line = max(1 if side < 200 else 2, round(min(side / 250, narrow / 20)))
    return line, max(10 if side < 200 else 11, round(min(side / 40, narrow / 8)))


def _draw_named_boxes(
    draw: ImageDraw.ImageDraw,
    picture: Image.Image,
    boxes: Sequence[tuple[np.ndarray, str, Colour]],
    line: int,
    letters: int,
    text_share: float | None = None,
) -> None:
    """The first of the (box, text, colour) lie on top; no line crosses a text, and texts avoid one another.

    All texts are written, or with `text_share` those that cover no more than that of the picture, nor one another.
    """
    for box, _, colour in reversed(boxes):
        draw.rectangle(_within(box, picture), outline=colour, width=line)
    room = math.inf if text_share is None else text_share * picture.width * picture.height
    placed: list[tuple[float, float, float, float]] = []
    written: list[tuple[str, Colour]] = []
    for box, text, colour in boxes:
        width, height = (side + 4 for side in text_size(text, letters))
        left, top = _text_corner(_within(box, picture), width, height, picture, placed)
        place = (left, top, left + width, top + height)
        area = width * height
        if text_share is None or (area <= room and _covered(place, placed) <= area / 10):
            room -= area
            placed.append(place)
            written.append((text, colour))
    for (left, top, right, bottom), (text, colour) in reversed(list(zip(placed, written, strict=True))):
        draw.rectangle((left, top, right, bottom), fill=colour)
        write(draw, (left + 2, top + 1), text, letters, _readable_on(colour))


def _text_corner(
    box: tuple[float, float, float, float], width: float, height: float, picture: Image.Image, placed: Sequence[tuple]
) -> tuple[float, float]:
    """Where a text of this size goes: at a corner of its box, above if there is room, clear of the texts placed."""
    left, top, right, bottom = box
    corners = [
        (max(0, min(x, picture.width - width)), y)
        for y in (top - height, top, bottom - height, bottom)
        for x in (left, right - width)
        if 0 <= y <= picture.height - height
    ] or [(max(0, min(left, picture.width - width)), max(0, top))]

    # The first of equals.
    return min(corners, key=lambda corner: _covered((*corner, corner[0] + width, corner[1] + height), placed))


def _covered(place: tuple[float, float, float, float], others: Sequence[tuple]) -> float:
    """The area that a rectangle shares with others."""
    left, top, right, bottom = place
    return sum(
        max(0, min(right, x1) - max(left, x0)) * max(0, min(bottom, y1) - max(top, y0)) for x0, y0, x1, y1 in others
    )


def _with_legend(picture: Image.Image, entries: Sequence[tuple[Colour, str]], letters: int) -> Image.Image:
    """The picture with a strip below it, a coloured square before each text."""
    square = letters
    strip = Image.new("RGB", (picture.width, 2 * square), (32, 32, 32))
    draw = ImageDraw.Draw(strip)
    left = square // 2
    for colour, text in entries:
        draw.rectangle((left, square // 2, left + square, square // 2 + square), fill=colour)
        width, height = text_size(text, letters)
        write(draw, (left + 1.5 * square, square - height / 2), text, letters, (255, 255, 255))
        left += 3 * square + width
    whole = Image.new("RGB", (picture.width, picture.height + strip.height))
    whole.paste(picture)
    whole.paste(strip, (0, picture.height))
    return whole


def _within(box: np.ndarray, picture: Image.Image) -> tuple[float, float, float, float]:
    left, top, right, bottom = (float(value) for value in box)
    left, top = min(max(left, 0), picture.width - 1), min(max(top, 0), picture.height - 1)
    return left, top, max(min(right, picture.width - 1), left), max(min(bottom, picture.height - 1), top)


def _readable_on(colour: Colour) -> Colour:
    return (0, 0, 0) if np.dot(colour, (0.299, 0.587, 0.114)) > 140 else (255, 255, 255)
