"""The boxes to train on: clipped, normalised, none without a size; evaluation keeps those of the file."""

import warnings

import numpy as np
import pytest

from coco.annotations import CocoAnnotations
from coco.transforms import draw_sample, generator
from tests.coco.conftest import write


def test_training_boxes_are_normalised_corners_the_caller_may_change(path):
    loaded = CocoAnnotations.load(path)
    boxes, labels = loaded.training_boxes(2)
    np.testing.assert_allclose(boxes, [[0.1, 0.1, 0.305, 0.3], [0, 0, 0.5, 1]], rtol=1e-6)
    assert labels.tolist() == [2, 1]
    boxes[:] = 0
    assert loaded.training_boxes(2)[0].any()
    assert loaded.trainable.tolist() == [0, 2]


def test_degenerate_boxes_are_dropped_and_protruding_ones_clipped_with_one_warning(path, content):
    boxes = [[0, 0, 0, 5], [5, 5, -3, 4], [250, 0, 10, 10], [0, 0, 1e-7, 1e-7], [-10, -10, 30, 30], [190, 90, 20, 5]]
    content["annotations"] = [{"image_id": 10, "category_id": 3, "bbox": box} for box in boxes]
    with pytest.warns(
        UserWarning, match="4 of 6 boxes were dropped.* and 2 that stick out.*first in sub/a.jpg"
    ) as seen:
        loaded = CocoAnnotations.load(write(path, content))
    assert len(seen) == 1
    assert (loaded.num_dropped, loaded.num_clipped) == (4, 2)
    got, _ = loaded.training_boxes(0)
    np.testing.assert_allclose(got, [[0, 0, 0.1, 0.2], [0.95, 0.9, 1, 0.95]], rtol=1e-6)
    assert loaded.bboxes.tolist() == boxes, "evaluation must see the boxes as written"
    with pytest.warns(UserWarning, match="4 of 6"):
        CocoAnnotations.load(path)  # a start from the cache warns as well


@pytest.mark.parametrize("left", [0, 0.01, 3, 100.003, 199.99])
def test_every_training_box_keeps_an_area_through_crop_and_flip(path, content, left):
    boxes = [[left, 30, width, 40] for width in (1e-12, 1e-7, 1e-5, 2.1e-4, 3e-4, 1e-3)]
    content["annotations"] = [{"image_id": 10, "category_id": 3, "bbox": box} for box in boxes]
    with pytest.warns(UserWarning, match="of 6 boxes were dropped"):
        loaded = CocoAnnotations.load(write(path, content))
    for epoch in range(100):
        kept = draw_sample(generator(0, epoch, 0), 200, 100, *loaded.training_boxes(0)).boxes
        assert len(kept) and (kept[:, 2:] > kept[:, :2]).all()


def test_boxes_that_stick_out_by_at_most_a_pixel_are_clipped_silently(path, content):
    content["annotations"] = [{"image_id": 10, "category_id": 3, "bbox": [-1, 0.5, 202, 100.49]}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = CocoAnnotations.load(write(path, content))
    assert loaded.num_clipped == 0
    assert loaded.training_boxes(0)[0].tolist() == [[0, np.float32(0.005), 1, 1]]


def test_an_image_left_without_boxes_is_not_trainable(path, content):
    content["annotations"] = [{"image_id": 10, "category_id": 3, "bbox": [0, 0, 0, 0]}]
    with pytest.warns(UserWarning, match="1 of 1 boxes"):
        assert CocoAnnotations.load(write(path, content)).trainable.tolist() == []


@pytest.mark.parametrize("huge", [1e308, -1e308])
def test_boxes_of_huge_finite_numbers_neither_warn_nor_overflow(path, content, huge):
    content["annotations"] = [{"image_id": 10, "category_id": 3, "bbox": [huge, huge, 1e308, 1e308]}]
    with pytest.warns(UserWarning, match="1 of 1 boxes") as seen:
        loaded = CocoAnnotations.load(write(path, content))
    assert len(seen) == 1
    assert loaded.num_dropped == 1
