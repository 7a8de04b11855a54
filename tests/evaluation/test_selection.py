"""Some classes, one class, some images: the numbers against those that pycocotools counts with the same choice."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from coco.annotation_checks import AnnotationError
from evaluation.numbers import evaluate_at_once
from evaluation.selection import as_one_class, of_classes, of_images, read_slice
from tests.evaluation.test_metric import random_set
from tests.evaluation.test_thresholds import detected


def pycocotools_with(path, results, **params):
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluator = COCOeval(truth, truth.loadRes([dict(result) for result in results]), "bbox")
        for name, value in params.items():
            setattr(evaluator.params, name, value)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return pytest.approx(evaluator.stats.tolist(), abs=1e-9)


@pytest.fixture
def given(tmp_path):
    path, results = random_set(tmp_path, crowd=0.2)
    for result in results:
        result["score"] = float(np.float32(result["score"]))
    return path, results, *detected(path, results)


def numbers(annotations, detections):
    return list(evaluate_at_once(annotations, detections).numbers.values())


def test_some_classes_count_as_with_their_category_ids_alone(given):
    path, results, annotations, detections = given
    chosen, found = of_classes(annotations, detections, [2, 4])
    assert chosen.category_ids == (5, 11) and chosen.class_names == ("c1", "c3")
    assert numbers(chosen, found) == pycocotools_with(path, results, catIds=[5, 11])
    rows = evaluate_at_once(annotations, detections).classes
    assert evaluate_at_once(chosen, found).classes == [rows[1], rows[3]]
    assert len(chosen) == len(annotations)


def test_all_classes_as_one_count_as_without_categories(given):
    path, results, annotations, detections = given
    assert numbers(*as_one_class(annotations, detections)) == pycocotools_with(path, results, useCats=0)


def test_a_slice_counts_as_its_images_alone(given, tmp_path):
    path, results, annotations, detections = given
    images = annotations.image_ids[[3, 4, 7, 20, 21, 38]]
    lines = [annotations.file_name(3), str(images[1]), "", f"  {images[2]} ", *map(str, images[[5, 4, 3, 3]])]
    (tmp_path / "day.txt").write_text("\n".join(lines))
    image_ids = read_slice(tmp_path / "day.txt", annotations)
    assert image_ids.tolist() == images.tolist(), "each once"
    expected = pycocotools_with(path, results, imgIds=images.tolist())
    assert numbers(annotations, of_images(detections, image_ids)) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"0.jpg\n\nnight/0.jpg\n", r"list.txt, line 3: night/0.jpg is no file name or image id in .*truth.json"),
        (b"0.JPG", r"line 1: 0.JPG is no file name .* differ: '0.JPG' is not '0.jpg' \(upper and lower case\)"),
        (b"10000000003", "line 1: 10000000003 is the file name of one image and the id of another"),
        (b"\n \n", "list.txt: lists no image"),
        (b"\xff\xfe0", "list.txt: no text in UTF-8"),
        (None, "list.txt: cannot be read: No such file"),
    ],
)
def test_a_list_that_does_not_say_which_images_is_refused_by_file_and_line(tmp_path, content, message):
    path, results = random_set(tmp_path)
    truth = json.loads(path.read_text())
    truth["images"][9]["file_name"] = "10000000003"
    path.write_text(json.dumps(truth))
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(AnnotationError, match=message):
        read_slice(tmp_path / "list.txt", detected(path, results)[0])
