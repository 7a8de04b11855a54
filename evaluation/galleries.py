"""Pictures of mistakes for the page: the images with most of them, and single objects that were missed or invented."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from coco.annotations import CocoAnnotations
from coco.lettering import drawable_names
from coco.names import plain
from evaluation.detections import Detections
from evaluation.drawing import MISSED, WRONG, crop_around, draw_mistakes, open_image
from evaluation.errors import Matches, Mistake, image_mistakes, mistakes_per_image, wrong_detection

WORST_IMAGES = 12
CROPS = 24  # of each gallery


@dataclass(frozen=True)
class WorstImage:
    """An image with many mistakes."""

    file_name: str
    image_id: int
    right: int
    mistakes: Sequence[str]  # in words, numbered as in the picture
    picture: str  # data URI


@dataclass(frozen=True)
class Crop:
    """One missed or invented object."""

    file_name: str
    image_id: int
    words: str
    picture: str  # data URI


class Galleries:
    """The mistakes of an evaluation at a score threshold, drawn.

    Args:
        directory: of the evaluated images.

    Raises (each gallery):
        ImageError: a picture that cannot be read.
    """

    def __init__(
        self,
        annotations: CocoAnnotations,
        detections: Detections,
        matches: Matches,
        directory: Path,
        score_threshold: float,
    ) -> None:
        self.annotations, self.detections, self.matches = annotations, detections, matches
        self.directory, self.score_threshold = directory, score_threshold
        self.names = drawable_names(tuple(annotations.class_names), tuple(annotations.category_ids))
        self._open = lru_cache(maxsize=4)(self._opened)

    def worst(self) -> list[WorstImage]:
        """The images with most mistakes, drawn with numbered mistakes."""
        counts = mistakes_per_image(self.annotations, self.detections, self.matches, self.score_threshold)
        worst = [index for index in np.argsort(-counts, kind="stable")[:WORST_IMAGES] if counts[index]]
        return [self._worst(index) for index in worst]

    def missed(self) -> list[Crop]:
        """The largest missed objects, by their share of the image."""
        annotations = self.annotations
        rows = np.flatnonzero(self.matches.missed(self.score_threshold))
        image = np.searchsorted(annotations.first, rows, side="right") - 1
        area = annotations.bboxes[rows, 2:].prod(axis=1) / (
            annotations.widths[image] * 1.0 * annotations.heights[image]
        )
        chosen = np.argsort(-area, kind="stable")[:CROPS]
        crops = []
        for row, i in zip(rows[chosen], image[chosen], strict=True):
            x, y, width, height = annotations.bboxes[row]
            best = self.matches.best_score[row]
            found = f"; found with {best:.2f} only" if best >= 0 else ""
            words = f"{annotations.class_names[annotations.labels[row] - 1]}, {width:.0f}x{height:.0f} px{found}"
            crops.append(self._crop(int(i), np.array([x, y, x + width, y + height]), words, MISSED))
        return crops

    def invented(self) -> list[Crop]:
        """The wrong detections of highest score."""
        wrong = np.flatnonzero(self.matches.wrong & (self.detections.scores >= self.score_threshold))
        chosen = wrong[np.argsort(-self.detections.scores[wrong], kind="stable")[:CROPS]]
        image = np.repeat(np.arange(len(self.detections.counts)), self.detections.counts)
        crops = []
        for row in chosen:
            mistake = wrong_detection(self.annotations, self.detections, self.matches, row)
            words = in_words(mistake, self.annotations.class_names, where=False)
            crops.append(self._crop(self._annotated(image[row]), mistake.box, words, WRONG))
        return crops

    def _worst(self, index: int) -> WorstImage:
        i = self._annotated(index)
        right, mistakes = image_mistakes(self.annotations, self.detections, self.matches, index, self.score_threshold)
        drawn = draw_mistakes(self._open(i), self.detections.boxes[right], mistakes, self.names)
        words = [in_words(mistake, self.annotations.class_names) for mistake in mistakes]
        name, image_id = self.annotations.file_name(i), int(self.annotations.image_ids[i])
        return WorstImage(plain(name), image_id, len(right), words, _data_uri(drawn))

    def _crop(self, i: int, box: np.ndarray, words: str, colour: tuple[int, int, int]) -> Crop:
        picture = crop_around(self._open(i), box, colour)
        name, image_id = self.annotations.file_name(i), int(self.annotations.image_ids[i])
        return Crop(plain(name), image_id, plain(words), _data_uri(picture))

    def _annotated(self, index: int) -> int:
        """The place in the annotations of image `index` of the detections."""
        return int(np.searchsorted(self.annotations.image_ids, self.detections.image_ids[index]))

    def _opened(self, i: int) -> Image.Image:
        return open_image(self.annotations, self.directory, i)[1]


def in_words(mistake: Mistake, class_names: Sequence[str], where: bool = True) -> str:
    """A mistake in a sentence; `where`: with the place of its box."""
    name = plain(class_names[mistake.label - 1])
    left, top, right, bottom = (round(float(value)) for value in mistake.box)
    place = f" at x {left}..{right}, y {top}..{bottom}" if where else ""
    if mistake.kind == "missed":
        return f"missed: {name}{place}"
    truth = plain(class_names[mistake.truth_label - 1]) if mistake.truth_label else ""
    why = {
        "duplicate": f"that {name} is found already",
        "wrong class": f"it is a {truth}, IoU {mistake.iou:.2f}",
        "wrong place": f"IoU with a {name} is only {mistake.iou:.2f}",
        "background": f"no {name} is annotated there",
    }
    return f"{mistake.kind}: {name} {mistake.score:.2f}{place}; {why[mistake.kind]}"


def _data_uri(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
