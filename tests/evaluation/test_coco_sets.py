import multiprocessing
import os

import numpy as np
import pytest

from coco.annotations import CocoAnnotations
from evaluation import coco_sets
from evaluation.detections import Detections
from evaluation.metric import CocoMeanAveragePrecision
from tests.evaluation.test_metric import pycocotools_numbers, random_set


def as_detections(annotations, results, images):
    """COCO results (dicts with xywh boxes) of the images with these indices."""
    parts = []
    for image_id in annotations.image_ids[images]:
        own = [result for result in results if result["image_id"] == image_id]
        boxes = np.array([result["bbox"] for result in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.searchsorted(annotations.category_ids, [result["category_id"] for result in own]) + 1
        scores = np.array([result["score"] for result in own])
        parts.append(Detections(np.array([image_id]), np.array([len(own)]), boxes, scores, labels.astype(np.int16)))
    return Detections.joined(parts)


@pytest.mark.parametrize("of", ("all images", "every third, last first"))
def test_the_numbers_of_the_sets_equal_pycocotools(tmp_path, of):
    path, results = random_set(tmp_path)
    annotations = CocoAnnotations.load(path)
    images = np.arange(len(annotations)) if of == "all images" else np.arange(len(annotations))[::-3]
    ids = annotations.image_ids[images].tolist()
    evaluator = coco_sets.evaluate(annotations, as_detections(annotations, results, images))
    evaluator.summary_lines()
    some = [result for result in results if result["image_id"] in ids]
    expected = pycocotools_numbers(path, some, ids)
    # xyxy and back to xywh rounds the boxes
    assert evaluator.stats == pytest.approx(expected.stats, abs=1e-12)
    assert np.asarray(evaluator.eval["precision"]) == pytest.approx(expected.eval["precision"], abs=1e-12)


def test_a_set_has_the_images_asked_for_and_their_boxes_without_crowds_if_so_asked(tmp_path):
    annotations = CocoAnnotations.load(random_set(tmp_path, crowd=0.7)[0])
    rows = np.concatenate([np.arange(*annotations.first[i : i + 2]) for i in (7, 3)])
    assert annotations.iscrowd[rows].any() and not annotations.iscrowd[rows].all()
    for crowds in (True, False):
        found = coco_sets.truth_set(annotations, np.array([7, 3]), crowds).dataset
        kept = rows if crowds else rows[~annotations.iscrowd[rows]]
        assert [image["id"] for image in found["images"]] == [7, 3]
        assert [box["id"] - 1 for box in found["annotations"]] == kept.tolist()
        assert [box["bbox"] for box in found["annotations"]] == annotations.bboxes[kept].tolist()
        assert [box["area"] for box in found["annotations"]] == annotations.areas[kept].tolist()
        assert [box["category_id"] for box in found["annotations"]] == annotations.labels[kept].tolist()


def test_parts_join_to_one_order_whatever_they_were(tmp_path):
    path, results = random_set(tmp_path, images=9)
    annotations = CocoAnnotations.load(path)
    whole = as_detections(annotations, results, np.arange(9))
    parts = [as_detections(annotations, results, images) for images in (np.array([8, 1]), np.array([], int))]
    joined = Detections.joined([*parts, as_detections(annotations, results, np.array([0, 7, 2, 3, 6, 5, 4]))])
    for column, expected in zip(joined, whole, strict=True):
        assert column.tolist() == expected.tolist()
    assert len(Detections.joined([]).xywh) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_process_forked_after_an_evaluation_is_told_so_and_does_not_wait_forever(tmp_path):
    path, results = random_set(tmp_path)
    annotations = CocoAnnotations.load(path)
    detections = as_detections(annotations, results, np.arange(len(annotations)))
    coco_sets.evaluate(annotations, detections)
    metric = CocoMeanAveragePrecision(annotations)
    tries = (lambda: coco_sets.evaluate(annotations, detections), metric.compute)
    process = multiprocessing.get_context("fork").Process(target=_all_raise, args=(tries,))
    process.start()
    process.join(30)
    try:
        assert process.exitcode == 0
    finally:
        process.kill()


def _all_raise(tries):
    for each in tries:
        with pytest.raises(RuntimeError, match="forked from one that had evaluated already"):
            each()
