"""Every number of the metric, and the arrays behind it, equal COCOeval's to the bit: on random sets and real files."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from coco.annotations import CocoAnnotations
from evaluation.metric import CocoMeanAveragePrecision
from tests.evaluation.test_metric import pycocotools_numbers

pytestmark = pytest.mark.filterwarnings("ignore:.*for training.*")  # boxes without area
CATEGORY_IDS = (2, 3, 90)
NUMPY_ADDS_OTHERWISE = np.lib.NumpyVersion(np.__version__) < "2.0.0"


def grid_boxes(rng, count):
    """[count, 4] xywh in quarters of a pixel, so that nothing is rounded; small to large, many alike, some without
    width or height."""
    boxes = rng.integers(0, 6, (count, 4)) * rng.choice([0.25, 8, 40], (count, 1))
    return np.where(rng.random((count, 1)) < 0.2, 64.0, boxes)


def write_truth(path, rng, images, crowd):
    """An annotation file of `images` images, their ids in no order; a third has no annotation."""
    ids = rng.permutation(np.arange(1, images + 1) * 1000)
    records = []
    for image_id in ids:
        for box in grid_boxes(rng, rng.integers(0, 12) if rng.random() < 0.7 else 0):
            area = float(box[2] * box[3] * rng.choice([0.25, 1]))
            record = {"id": len(records) + 1, "image_id": int(image_id), "category_id": int(rng.choice(CATEGORY_IDS))}
            records.append({**record, "bbox": box.tolist(), "area": area, "iscrowd": int(rng.random() < crowd)})
    images = [{"id": int(i), "file_name": f"{i}.jpg", "width": 400, "height": 400} for i in ids]
    categories = [{"id": i, "name": f"class {i}"} for i in CATEGORY_IDS]
    path.write_text(json.dumps({"images": images, "annotations": records, "categories": categories}))


def random_detections(rng, annotations, most):
    """boxes [n, D, 4] xyxy, scores [n, D], labels [n, D]: of objects of the image, or anywhere; many scores alike."""
    images, classes = len(annotations), len(annotations.class_names)
    boxes = grid_boxes(rng, images * most).reshape(images, most, 4)
    labels = rng.integers(0, classes + 1, (images, most))
    for i in range(images):
        rows = np.arange(*annotations.first[i : i + 2])
        if len(rows):
            near = rng.random(most) < 0.6
            own = rng.choice(rows, near.sum())
            boxes[i, near] = annotations.bboxes[own] + rng.choice([0, 0, 0.25, 2, 16], (len(own), 4))
            labels[i, near] = np.where(rng.random(len(own)) < 0.9, annotations.labels[own], labels[i, near])
        if rng.random() < 0.2:
            labels[i] = 0  # nothing found
    boxes[..., 2:] += boxes[..., :2]
    return boxes, rng.integers(1, 11, (images, most)) / 10, labels


def check_equal(path, detections, shards, batch):
    """The images go in any order to `shards` metrics, whose shares are then evaluated together as on rank 0."""
    annotations = CocoAnnotations.load(path, cache=False)
    boxes, scores, labels = (torch.from_numpy(array) for array in detections)
    order = np.random.default_rng(0).permutation(len(annotations))
    metrics = [CocoMeanAveragePrecision(annotations) for _ in range(shards)]
    for rank, metric in enumerate(metrics):
        own = order[rank::shards]
        for start in range(0, len(own), batch):
            some = own[start : start + batch]
            metric.update(annotations.image_ids[some], boxes[some], scores[some], labels[some])
    numbers = metrics[0]._evaluate([metric._shard() for metric in metrics])
    xywh = boxes.numpy().astype(np.float64)
    xywh[..., 2:] -= xywh[..., :2]
    results = [
        {
            "image_id": int(annotations.image_ids[i]),
            "category_id": annotations.category_ids[labels[i, d] - 1],
            "bbox": xywh[i, d].tolist(),
            "score": scores[i, d].item(),
        }
        for i, d in zip(*np.nonzero(labels.numpy()), strict=True)
    ]
    expected = pycocotools_numbers(path, results)
    told = list(numbers.values())
    if NUMPY_ADDS_OTHERWISE:  # in pycocotools' means
        np.testing.assert_array_max_ulp(np.array(told), np.array(expected.stats), maxulp=2)
    else:
        assert told == expected.stats.tolist()
    for key, found in metrics[0].found_evaluation.items():
        assert np.array_equal(found, expected.eval[key]), key
    return expected.stats


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    images=st.integers(1, 12),
    most=st.sampled_from((1, 12, 150)),
    crowd=st.sampled_from((0, 0.2, 1)),
    shards=st.integers(1, 4),
    batch=st.integers(1, 5),
)
def test_random_sets(seed, images, most, crowd, shards, batch):
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "truth.json"
        write_truth(path, rng, images, crowd)
        annotations = CocoAnnotations.load(path, cache=False)
        detections = random_detections(rng, annotations, most)
        if not detections[2].any():
            detections[2][0, 0] = 1  # without any detection pycocotools cannot load them
        check_equal(path, detections, shards, batch)


@pytest.mark.parametrize("of", ("bccd", "coco_cc_mini"))
def test_real_annotations(shared_data, of):
    path = shared_data(of) / "annotations" / "instances_val2017.json"
    annotations = CocoAnnotations.load(path, cache=False)
    rng = np.random.default_rng(0)
    boxes = np.zeros((len(annotations), 60, 4), np.float32)
    scores = rng.random((len(annotations), 60), np.float32)
    labels = rng.integers(0, len(annotations.class_names) + 1, (len(annotations), 60))
    for i in range(len(annotations)):
        rows = rng.choice(np.arange(*annotations.first[i : i + 2]), 60)
        near = annotations.bboxes[rows] + rng.normal(0, 0.1, (60, 4)) * np.tile(annotations.bboxes[rows, 2:], 2)
        boxes[i] = np.concatenate((near[:, :2], near[:, :2] + near[:, 2:]), axis=1)
        labels[i] = np.where(rng.random(60) < 0.7, annotations.labels[rows], labels[i])
    assert check_equal(path, (boxes, scores, labels), shards=3, batch=4)[0] > 0.1
