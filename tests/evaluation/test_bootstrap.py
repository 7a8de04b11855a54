"""Matches and resampled numbers against COCOeval itself, over sets with crowds, ties and boxes of all sizes."""

import json

import numpy as np
import pytest

from coco.annotations import CocoAnnotations
from evaluation import reference
from evaluation.bootstrap import Resampled
from evaluation.detections import Detections
from evaluation.matching import AREAS, IOU_THRESHOLDS, match
from evaluation.result_files import read_results
from tests.evaluation.test_metric import pycocotools_numbers
from tests.evaluation.test_metric_is_pycocotools import random_detections, write_truth

pytestmark = pytest.mark.filterwarnings("ignore:.*for training.*")  # boxes without area


def random_case(directory, seed, images=14, most=40):
    rng = np.random.default_rng(seed)
    write_truth(directory / "truth.json", rng, images, crowd=0.15)
    annotations = CocoAnnotations.load(directory / "truth.json", cache=False)
    boxes, scores, labels = random_detections(rng, annotations, most)
    found = labels > 0
    return annotations, Detections(
        annotations.image_ids, found.sum(axis=1), boxes[found], scores[found], labels[found].astype(np.int16)
    )


@pytest.mark.parametrize("most", (40, 500))
def test_every_match_is_cocoevals(tmp_path, most):
    annotations, detections = random_case(tmp_path, 1, images=6, most=most)
    theirs = set()
    for each in reference.evaluate(annotations, detections).evalImgs:
        if each is not None:
            size = AREAS.index(tuple(each["aRng"]))
            for t, d in zip(*np.nonzero(each["dtMatches"]), strict=True):
                theirs.add((t, size, each["dtIds"][d] - 1, int(each["dtMatches"][t, d]) - 1))
    found = match(annotations, detections)
    ours = zip(found.threshold, found.size, found.rows[found.position], found.truth, strict=True)
    assert len(theirs) >= 300
    assert {tuple(map(int, each)) for each in ours} == theirs
    if most == 500:
        assert len(found.rows) < len(detections.scores), "no more than 100 of an image and class"


def as_results(annotations, detections):
    categories = np.asarray(annotations.category_ids)[detections.labels - 1]
    columns = (detections.image, categories, detections.xywh, detections.scores)
    names = ("image_id", "category_id", "bbox", "score")
    return [dict(zip(names, row, strict=True)) for row in zip(*(c.tolist() for c in columns), strict=True)]


@pytest.mark.parametrize("seed", range(8))
def test_the_numbers_of_images_drawn_again_are_cocoevals_over_their_copies(tmp_path, seed):
    annotations, detections = random_case(tmp_path, seed)
    rng = np.random.default_rng(seed)
    scores = rng.permutation(len(detections.scores)) / len(detections.scores)  # of equals copies have another order
    detections = detections._replace(scores=scores)
    weights = np.bincount(rng.integers(0, 14, 14 if seed else 0), minlength=14)
    if seed == 0:
        weights[:] = 1

    truth = json.loads((tmp_path / "truth.json").read_text())
    copies = {image_id: range(weight) for image_id, weight in zip(annotations.image_ids.tolist(), weights, strict=True)}
    truth["images"] = [{**i, "id": 100 * i["id"] + c} for i in truth["images"] for c in copies[i["id"]]]
    truth["annotations"] = [
        {**box, "image_id": 100 * box["image_id"] + c} for box in truth["annotations"] for c in copies[box["image_id"]]
    ]
    for number, box in enumerate(truth["annotations"], start=1):
        box["id"] = number
    (tmp_path / "copies.json").write_text(json.dumps(truth))
    results = as_results(annotations, detections)
    results = [{**r, "image_id": 100 * r["image_id"] + c} for r in results for c in copies[r["image_id"]]]
    expected = pycocotools_numbers(tmp_path / "copies.json", results)

    numbers = Resampled(annotations, detections).numbers(weights)
    assert np.nan_to_num(numbers.twelve, nan=-1) == pytest.approx(expected.stats, abs=1e-12)
    classes = expected.eval["precision"][:, :, :, 0, 2].mean(axis=(0, 1))
    assert np.nan_to_num(numbers.classes, nan=-1) == pytest.approx(classes, abs=1e-12)


def test_without_detections_the_numbers_are_zero_and_without_objects_there_are_none(tmp_path):
    annotations, _ = random_case(tmp_path, 0)
    (tmp_path / "none.json").write_text("[]")
    nothing = Resampled(annotations, read_results(tmp_path / "none.json", annotations))
    assert set(nothing.numbers(np.ones(14, int)).twelve) == {0}
    assert np.isnan(nothing.numbers(np.zeros(14, int)).twelve).all()


def test_thresholds_and_sizes_are_cocoevals(tmp_path):
    params = reference.evaluate(*random_case(tmp_path, 0)).params
    assert IOU_THRESHOLDS.tolist() == params.iouThrs.tolist()
    assert [tuple(each) for each in params.areaRng] == list(AREAS)
