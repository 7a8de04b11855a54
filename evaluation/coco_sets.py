"""Annotations and detections as the evaluator's own objects, made from arrays; COCOeval over all images at once or
as they come.

Image i of the annotation file has the id i there, and label l the category id l: both travel in arrays of floats, which
do not hold every id of a file.

Diagnostics (confusion matrix, TIDE, calibration) come from `evaluate`: after `stream` and `add` they are
empty, without an error.
"""

import os
from typing import Any

import hotcoco
import numpy as np

from coco.annotations import CocoAnnotations
from evaluation.detections import Detections

_threads_of: int | None = None  # the process in which the evaluator made its threads
FIRST_ID = 1  # of an annotation: COCOeval takes a match with id 0 for none


def annotation_rows(annotations: CocoAnnotations, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of all annotations of these images: the image, and the row in the file's arrays. int64 [m], int64 [m]"""
    counts = np.diff(annotations.first)[images]
    starts = annotations.first[images] - np.cumsum(counts) + counts
    return np.repeat(images, counts), np.repeat(starts, counts) + np.arange(counts.sum())


def truth_set(annotations: CocoAnnotations, images: np.ndarray | None = None, crowds: bool = True) -> hotcoco.COCO:
    """The ground truth of some images.

    Args:
        images: int64 [n], their indices in the annotation file; all by default.
        crowds: with crowd regions. The confusion matrix and TIDE count them as objects, so give them a set without.
    """
    images = np.arange(len(annotations)) if images is None else images
    image, rows = annotation_rows(annotations, images)
    if not crowds:
        kept = ~annotations.iscrowd[rows]
        image, rows = image[kept], rows[kept]
    sizes = zip(images.tolist(), annotations.widths[images].tolist(), annotations.heights[images].tolist(), strict=True)
    return hotcoco.COCO.from_arrays(
        [{"id": i, "width": width, "height": height} for i, width, height in sizes],
        _categories(annotations),
        image,
        annotations.labels[rows],
        annotations.bboxes[rows],
        ids=rows + FIRST_ID,
        area=annotations.areas[rows],
        iscrowd=annotations.iscrowd[rows],
    )


def result_rows(annotations: CocoAnnotations, detections: Detections) -> np.ndarray:
    """float64 [m, 7], `load_res`'s form of detections: image, x, y, width, height, score, category."""
    image = np.searchsorted(annotations.image_ids, detections.image)
    return np.column_stack((image, detections.xywh, detections.scores, detections.labels))


def evaluate(annotations: CocoAnnotations, detections: Detections, crowds: bool = True) -> hotcoco.COCOeval:
    """COCOeval of the images of `detections`, matched and accumulated; `summary_lines()` gives it `stats`."""
    check_threads()
    images = np.searchsorted(annotations.image_ids, detections.image_ids)
    truth = truth_set(annotations, images, crowds)
    evaluator = hotcoco.COCOeval(truth, truth.load_res(result_rows(annotations, detections)), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator


def check_threads() -> None:
    """Before matching or accumulating: without its threads, as after a fork, the evaluator would wait for them forever.

    Raises:
        RuntimeError: this process was forked from one that had evaluated.
    """
    global _threads_of
    if _threads_of not in (None, os.getpid()):
        raise RuntimeError(
            "this process was forked from one that had evaluated already, and the evaluator's threads are not here. "
            "Start processes in another way (strategy ddp or ddp_spawn in place of ddp_fork and ddp_notebook), do not "
            'evaluate before, or use CocoMeanAveragePrecision(annotations, backend="pycocotools")'
        )
    _threads_of = os.getpid()


def stream(annotations: CocoAnnotations) -> hotcoco.StreamingEval:
    """An evaluator without images yet, for `add`."""
    return hotcoco.StreamingEval(_categories(annotations))


def add(evaluator: hotcoco.StreamingEval, annotations: CocoAnnotations, detections: Detections) -> None:
    """Matches the images of `detections`, all of them in the annotation file."""
    images = np.searchsorted(annotations.image_ids, detections.image_ids)
    image, rows = annotation_rows(annotations, images)
    columns = (
        *(rows + FIRST_ID, image, annotations.labels[rows], annotations.bboxes[rows]),
        *(annotations.areas[rows], annotations.iscrowd[rows]),
    )
    names = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
    truths = [dict(zip(names, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]
    evaluator.update([{"id": i} for i in images.tolist()], truths, result_rows(annotations, detections))


def _categories(annotations: CocoAnnotations) -> list[dict[str, Any]]:
    return [{"id": label, "name": name} for label, name in enumerate(annotations.class_names, start=1)]
