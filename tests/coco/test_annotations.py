"""`CocoAnnotations`: COCO's own values in flat arrays."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO

from coco.annotations import CocoAnnotations
from tests.coco.conftest import write
from tests.conftest import SHARED

COCO_CC_MINI = SHARED / "data" / "coco_cc_mini" / "annotations"


def test_images_are_sorted_by_id_and_annotations_keep_file_order_within_an_image(path):
    loaded = CocoAnnotations.load(path)
    assert len(loaded) == 3
    assert loaded.image_ids.tolist() == [10, 20, 30]
    assert loaded.widths.tolist() == [200, 64, 100]
    assert loaded.heights.tolist() == [100, 64, 50]
    assert [loaded.file_name(i) for i in range(3)] == ["sub/a.jpg", "été.jpg", "c.jpg"] == loaded.file_names()
    assert loaded.first.tolist() == [0, 2, 2, 4]
    assert loaded.bboxes.tolist() == [[0, 0, 100, 50], [50, 25, 150, 75], [10, 5, 20.5, 10], [0, 0, 50, 50]]
    assert loaded.iscrowd.tolist() == [True, False, False, False]


def test_file_order_survives_the_sort_of_many_annotations(path, content):
    draw = np.random.default_rng(0)
    images = draw.choice([10, 20, 30], 3000).tolist()
    content["annotations"] = [
        {"image_id": image, "category_id": 3, "bbox": [0, 0, 1, 1 + row / 1e4]} for row, image in enumerate(images)
    ]
    loaded = CocoAnnotations.load(write(path, content))
    for i in range(3):
        heights = loaded.bboxes[loaded.first[i] : loaded.first[i + 1], 3]
        assert len(heights) == images.count(loaded.image_ids[i])
        assert (np.diff(heights) > 0).all()


def test_labels_are_ranks_of_category_ids_from_one(path):
    loaded = CocoAnnotations.load(path)
    assert loaded.category_ids == (3, 7)
    assert loaded.class_names == ("cat", "dog")
    assert loaded.labels.tolist() == [1, 2, 2, 1]


def test_a_missing_area_is_width_times_height(path):
    assert CocoAnnotations.load(path).areas.tolist() == [5000, 1, 99.5, 2500]


def test_types_and_shapes_are_as_documented(path):
    loaded = CocoAnnotations.load(path)
    dtypes = {"image_ids": "i8", "widths": "i4", "heights": "i4", "first": "i8", "bboxes": "f8", "areas": "f8"}
    for name, dtype in (dtypes | {"iscrowd": "?", "labels": "i8", "trainable": "i8"}).items():
        array = getattr(loaded, name)
        assert array.dtype == np.dtype(dtype)
        assert type(array) is np.ndarray
        assert not array.flags.writeable
    boxes, labels = loaded.training_boxes(1)
    assert boxes.shape == (0, 4)
    assert boxes.dtype == np.float32
    assert labels.dtype == np.int64


def test_negative_indices_count_from_the_end_and_others_are_index_errors(path):
    loaded = CocoAnnotations.load(path)
    assert loaded.file_name(-1) == "c.jpg"
    assert len(loaded.training_boxes(-1)[1]) == 2
    for index in (3, -4):
        with pytest.raises(IndexError):
            loaded.file_name(index)
        with pytest.raises(IndexError):
            loaded.training_boxes(index)


@pytest.mark.parametrize("source", ["built in", "train2017", "val2017"])
def test_values_equal_pycocotools(source, path):
    if source != "built in":
        original = COCO_CC_MINI / f"instances_{source}.json"
        if not original.exists():
            pytest.skip(f"no {original}: the shared data sets are not here")
        write(path, original.read_text())
    loaded = CocoAnnotations.load(path, cache=False)
    with contextlib.redirect_stdout(io.StringIO()):
        peer = COCO(str(path))
    assert loaded.image_ids.tolist() == sorted(peer.getImgIds())
    assert list(loaded.category_ids) == sorted(peer.getCatIds())
    assert list(loaded.class_names) == [peer.cats[id]["name"] for id in loaded.category_ids]
    for i, image_id in enumerate(loaded.image_ids.tolist()):
        rows, theirs = slice(loaded.first[i], loaded.first[i + 1]), peer.imgToAnns[image_id]
        image = peer.imgs[image_id]
        assert (loaded.file_name(i), loaded.widths[i], loaded.heights[i]) == (
            image["file_name"],
            image["width"],
            image["height"],
        )
        assert loaded.bboxes[rows].tolist() == [a["bbox"] for a in theirs]
        assert [loaded.category_ids[label - 1] for label in loaded.labels[rows]] == [a["category_id"] for a in theirs]
        assert loaded.iscrowd[rows].tolist() == [bool(a.get("iscrowd", 0)) for a in theirs]
        assert loaded.areas[rows].tolist() == [a.get("area", a["bbox"][2] * a["bbox"][3]) for a in theirs]
