"""One small COCO json with what is odd in such files, for the tests of annotations, and helpers around it."""

import json
import os
import time

import numpy as np
import pytest

from coco import annotations
from coco.annotations import AnnotationError, CocoAnnotations

# Two classes with gaps between their ids, ids out of order, a crowd, an image without annotations, no area in one.
CONTENT = {
    "info": {"year": 2017},
    "images": [
        {"id": 30, "file_name": "c.jpg", "width": 100, "height": 50, "license": 1},
        {"id": 10, "file_name": "sub/a.jpg", "width": 200, "height": 100},
        {"id": 20, "file_name": "été.jpg", "width": 64, "height": 64},
    ],
    "annotations": [
        {"id": 5, "image_id": 30, "category_id": 7, "bbox": [10, 5, 20.5, 10], "area": 99.5, "iscrowd": 0},
        {"id": 4, "image_id": 10, "category_id": 3, "bbox": [0, 0, 100, 50], "iscrowd": 1, "area": 5000},
        {"id": 3, "image_id": 30, "category_id": 3, "bbox": [0, 0, 50, 50], "segmentation": [[1, 2, 3, 4, 5, 6]]},
        {"id": 2, "image_id": 10, "category_id": 7, "bbox": [50, 25, 150, 75], "area": 1.0, "iscrowd": 0},
    ],
    "categories": [{"id": 7, "name": "dog", "supercategory": "animal"}, {"id": 3, "name": "cat"}],
}


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    return tmp_path / "cache-home" / "ssd300-lightning"


@pytest.fixture
def content():
    return json.loads(json.dumps(CONTENT))


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "annotations"
    folder.mkdir()
    return write(folder / "instances.json", CONTENT)


def write(path, content, seconds_old=60):
    """Old enough that its mtime is trusted, unless asked otherwise."""
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    set_age(path, seconds_old)
    return path


def set_age(path, seconds):
    os.utime(path, ns=(time.time_ns() - seconds * 10**9,) * 2)


def index_of(path):
    return path.with_name(path.name + ".index")


def arrays_of(path):
    """The one folder of arrays in the cache of the json at `path`."""
    [folder] = [entry for entry in index_of(path).iterdir() if entry.is_dir()]
    return folder


def error_of(path, content, **options):
    """The message for `content`, which begins with the file's path."""
    with pytest.raises(AnnotationError) as caught:
        CocoAnnotations.load(write(path, content, **options))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ | (caught.value.__context__ is None)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def builds(monkeypatch):
    """A list that grows by one whenever the json is parsed."""
    calls, parse = [], annotations.parse
    monkeypatch.setattr(annotations, "parse", lambda *args: calls.append(1) or parse(*args))
    return calls


def assert_same(left, right):
    for name in ("image_ids", "widths", "heights", "first", "bboxes", "areas", "iscrowd", "labels", "trainable"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    assert (left.category_ids, left.class_names) == (right.category_ids, right.class_names)
    assert [left.file_name(i) for i in range(len(left))] == [right.file_name(i) for i in range(len(right))]
    for i in range(len(left)):
        for a, b in zip(left.training_boxes(i), right.training_boxes(i), strict=True):
            np.testing.assert_array_equal(a, b)
