"""COCOeval itself, of pycocotools: the numbers that the metric's other backend has to give."""

import contextlib
import gc
import io
from collections.abc import Iterator

import hotcoco
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coco.annotations import CocoAnnotations
from evaluation import coco_sets
from evaluation.detections import Detections


def evaluate(annotations: CocoAnnotations, detections: Detections) -> COCOeval:
    """Of the images of `detections`, accumulated and summarised; ids as in `coco_sets`."""
    images = np.searchsorted(annotations.image_ids, detections.image_ids)
    truth = coco_sets.truth_set(annotations, images)
    found = truth.load_res(coco_sets.result_rows(annotations, detections))
    # pycocotools prints its progress. A million records are no garbage, but looking through them takes time.
    with contextlib.redirect_stdout(io.StringIO()), _no_garbage_collection():
        evaluator = COCOeval(_theirs(truth), _theirs(found), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def _theirs(ours: hotcoco.COCO) -> COCO:
    coco = COCO()
    coco.dataset = ours.dataset
    coco.createIndex()
    return coco


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
