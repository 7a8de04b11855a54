"""The images in which two sets of detections differ most, drawn side by side."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from coco.annotations import CocoAnnotations
from coco.lettering import drawable_names, text_size, write
from coco.names import for_file
from coco.whole_files import replacing
from evaluation.detections import Detections
from evaluation.drawing import draw_mistakes, open_image
from evaluation.errors import image_mistakes, match_detections, mistakes_per_image

GAP = 8  # px between the two pictures


class Changed(NamedTuple):
    """An image with its mistakes: objects missed and false positives, at IoU 0.5."""

    file_name: str
    image_id: int
    mistakes_a: int
    mistakes_b: int
    picture: str  # its file, A on the left


def draw_changed_images(
    directory: Path,
    annotations: CocoAnnotations,
    sides: tuple[Detections, Detections],
    images: Path,
    score_threshold: float,
    count: int = 12,
) -> list[Changed]:
    """Writes the pictures, most changed first; those that an earlier comparison left there go.

    Args:
        sides: A and B, of the same images. images: the directory of the pictures.
        score_threshold: detections below it count as not made.
    """
    matches = [match_detections(annotations, side) for side in sides]
    mistakes = np.array(
        [mistakes_per_image(annotations, *both, score_threshold) for both in zip(sides, matches, strict=True)]
    )  # [2, n]
    change = np.abs(mistakes[1] - mistakes[0])
    most = [int(index) for index in np.argsort(-change, kind="stable")[:count] if change[index]]
    names = drawable_names(tuple(annotations.class_names), tuple(annotations.category_ids))
    drawn = []
    for place, index in enumerate(most, start=1):
        image_id = int(sides[0].image_ids[index])
        path, picture = open_image(annotations, images, int(np.searchsorted(annotations.image_ids, image_id)))
        pictures = []
        for side, found in zip(sides, matches, strict=True):
            right, wrong = image_mistakes(annotations, side, found, index, score_threshold)
            pictures.append(draw_mistakes(picture, side.boxes[right], wrong, names))
        name = f"{place:02d}_{for_file(path.stem)}.png"
        with replacing(directory / name) as file:
            _side_by_side(*pictures).save(file, format="PNG")
        drawn.append(Changed(path.name, image_id, int(mistakes[0, index]), int(mistakes[1, index]), name))
    for old in _earlier(directory):
        if old.name not in {each.picture for each in drawn}:
            old.unlink()
    return drawn


def _earlier(directory: Path) -> Iterator[Path]:
    return directory.glob("[0-9][0-9]_*.png")


def _side_by_side(a: Image.Image, b: Image.Image) -> Image.Image:
    letters = max(12, a.width // 40)
    head = 2 * letters
    whole = Image.new("RGB", (a.width + GAP + b.width, head + max(a.height, b.height)), (255, 255, 255))
    for name, picture, left in (("A", a, 0), ("B", b, a.width + GAP)):
        whole.paste(picture, (left, head))
        _, height = text_size(name, letters)
        write(ImageDraw.Draw(whole), (left + letters / 2, (head - height) / 2), name, letters, (0, 0, 0))
    return whole
