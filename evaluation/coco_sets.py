"""Annotations and detections as the evaluator's own objects, made from arrays, and COCOeval over all images at once.

Image i of the annotation file has the id i there, and label l the category id l: both travel in arrays of floats, which
do not hold every id of a file. Diagnostics (confusion matrix, TIDE, calibration) come from `evaluate`: an evaluator
that was fed batch by batch returns them empty, without an error.
"""

from typing import Any

import hotcoco
import numpy as np

from coco.annotations import CocoAnnotations
from evaluation.detections import Detections


def categories(annotations: CocoAnnotations) -> list[dict[str, Any]]:
    """COCO's records of the classes, labels for ids."""
    return [{"id": label, "name": name} for label, name in enumerate(annotations.class_names, start=1)]


def truth_set(annotations: CocoAnnotations, images: np.ndarray | None = None, crowds: bool = True) -> hotcoco.COCO:
    """The ground truth of some images.

    Args:
        images: int64 [n], their indices in the annotation file; all by default.
        crowds: with crowd regions. The confusion matrix and TIDE count them as objects, so give them a set without.
    """
    images = np.arange(len(annotations)) if images is None else images
    counts = np.diff(annotations.first)[images]
    rows = np.repeat(annotations.first[images] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
    image = np.repeat(images, counts)
    if not crowds:
        kept = ~annotations.iscrowd[rows]
        rows, image = rows[kept], image[kept]
    sizes = zip(images.tolist(), annotations.widths[images].tolist(), annotations.heights[images].tolist(), strict=True)
    return hotcoco.COCO.from_arrays(
        [{"id": i, "width": width, "height": height} for i, width, height in sizes],
        categories(annotations),
        image,
        annotations.labels[rows],
        annotations.bboxes[rows],
        ids=rows + 1,  # from 1: COCOeval takes a match with id 0 for none
        area=annotations.areas[rows],
        iscrowd=annotations.iscrowd[rows],
    )


def result_rows(annotations: CocoAnnotations, detections: Detections) -> np.ndarray:
    """float64 [m, 7], `load_res`'s form of detections: image, x, y, width, height, score, category."""
    image = np.searchsorted(annotations.image_ids, detections.image)
    return np.column_stack((image, detections.xywh, detections.scores, detections.labels))


def evaluate(annotations: CocoAnnotations, detections: Detections, crowds: bool = True) -> hotcoco.COCOeval:
    """COCOeval of the images of `detections`, matched and accumulated; `summary_lines()` gives it `stats`."""
    images = np.searchsorted(annotations.image_ids, detections.image_ids)
    truth = truth_set(annotations, images, crowds)
    evaluator = hotcoco.COCOeval(truth, truth.load_res(result_rows(annotations, detections)), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator
