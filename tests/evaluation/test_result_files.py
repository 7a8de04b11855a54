import json

import numpy as np
import pytest

from coco.annotations import AnnotationError, CocoAnnotations
from evaluation import coco_sets
from evaluation.result_files import read_results
from tests.evaluation.test_metric import pycocotools_numbers, random_set


def written(path, results):
    path.write_text(json.dumps(results))
    return path


def test_the_numbers_from_a_file_are_those_of_pycocotools(tmp_path):
    path, results = random_set(tmp_path)
    annotations = CocoAnnotations.load(path)
    found = read_results(written(tmp_path / "results.json", results), annotations)
    evaluator = coco_sets.evaluate(annotations, found)
    evaluator.summary_lines()
    assert evaluator.stats == pytest.approx(pycocotools_numbers(path, results).stats, abs=1e-12)


def test_images_without_detections_count_and_a_choice_of_images_leaves_out_the_others(tmp_path):
    path, results = random_set(tmp_path)
    annotations = CocoAnnotations.load(path)
    file = written(tmp_path / "results.json", results)
    some = annotations.image_ids[3:15]
    found = read_results(file, annotations, some)
    assert found.image_ids.tolist() == some.tolist() and 0 in found.counts
    for image_id, count in zip(some, found.counts, strict=True):
        own = [result for result in results if result["image_id"] == image_id]
        assert len(own) == count
        boxes, scores = found.xywh[found.image == image_id], found.scores[found.image == image_id]
        assert np.allclose(boxes, np.array([result["bbox"] for result in own]).reshape(-1, 4), atol=1e-12)
        assert scores.tolist() == [result["score"] for result in own], "in the file's order"
    assert len(read_results(written(file, []), annotations).image_ids) == len(annotations)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 5}, r"\[2\].image_id is 5, which is not in .*truth.json \(1 of 9 detections"),
        ({"category_id": 4}, r"\[2\].category_id is 4, which is not in"),
        ({"bbox": [1, 2, 3]}, r"no COCO results, .*\$\[2\].bbox"),
        ({"score": "high"}, r"no COCO results, .*\$\[2\].score"),
    ],
)
def test_a_detection_that_cannot_be_used_is_named(tmp_path, change, message):
    path, results = random_set(tmp_path)
    results[2] = {**results[2], **change}
    with pytest.raises(AnnotationError, match=message):
        read_results(written(tmp_path / "results.json", results[:9]), CocoAnnotations.load(path))


def test_ids_written_as_whole_floats_are_taken(tmp_path):
    path, results = random_set(tmp_path)
    annotations = CocoAnnotations.load(path)
    floats = [{**result, "image_id": float(result["image_id"]), "category_id": 2.0} for result in results]
    found = read_results(written(tmp_path / "results.json", floats), annotations)
    assert len(found.labels) == len(results) and set(found.labels) == {1}


DEEP = (
    '[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1, "more": ' + "[" * 10**5 + "]" * 10**5 + "}]"
)


@pytest.mark.parametrize(
    "content",
    ['{"annotations": []}', "[1", "", '[{"image_id": 1, "category_id": 1, "score": 1}]', DEEP],
    ids=("another json", "torn", "empty", "without boxes", "deep"),
)
def test_another_format_is_refused_by_name(tmp_path, content):
    annotations = CocoAnnotations.load(random_set(tmp_path)[0])
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(AnnotationError, match=r"results.json: no COCO results, a list of \{image_id"):
        read_results(tmp_path / "results.json", annotations)
    with pytest.raises(AnnotationError, match=r"none.json: cannot be read: No such file"):
        read_results(tmp_path / "none.json", annotations)
