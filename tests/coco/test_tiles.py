"""Tiles cover pictures, overlap, and show the boxes that lie in them."""

import json
import math

import numpy as np
import pytest

from coco.annotations import CocoAnnotations
from coco.tiles import Tiling, TilingError, TrainingTiles, boxes_in, grid, in_their_tiles
from tests.coco.conftest import write

TILINGS = [Tiling(600), Tiling(600, 0.0), Tiling(100, 0.33), Tiling(64, 0.9), Tiling(32, 0.5)]
SIDES = (1, 31, 63, 64, 100, 101, 599, 600, 601, 1080, 1081, 1500)


@pytest.mark.parametrize("tiling", TILINGS)
def test_every_pixel_is_in_a_tile_and_neighbours_overlap_by_what_was_asked_at_least(tiling):
    for width, height in zip(SIDES, reversed(SIDES), strict=True):
        tiles = grid(width, height, tiling)
        seen = np.zeros((height, width), int)
        windows, all_shared = tiles.windows.tolist(), tiles.shared.tolist()
        if len(windows) > 1:
            assert windows.pop(0) == [0, 0, width, height] and all_shared.pop(0) == [-1] * 4, "the whole comes first"
        for (left, top, right, bottom), shared in zip(windows, all_shared, strict=True):
            assert 0 <= left < right <= width and 0 <= top < bottom <= height
            assert (right - left, bottom - top) == (min(tiling.size, width), min(tiling.size, height))
            seen[top:bottom, left:right] += 1
            borders = (left == 0, top == 0, right == width, bottom == height)
            for at_border, depth in zip(borders, shared, strict=True):
                assert depth == -1 if at_border else depth >= math.ceil(tiling.overlap * tiling.size)
        assert seen.min() == 1 and len(np.unique(tiles.windows, axis=0)) == len(tiles.windows)


def test_how_deep_a_neighbour_reaches_in_is_told_for_each_border():
    tiles = grid(1200, 600, Tiling(600))  # all of it; two, 480 apart; and one moved inwards by 360
    assert tiles.windows.tolist()[1:] == [[0, 0, 600, 600], [480, 0, 1080, 600], [600, 0, 1200, 600]]
    assert tiles.shared.tolist()[1:] == [[-1, -1, 120, -1], [120, -1, 480, -1], [480, -1, -1, -1]]


def test_a_picture_that_is_not_larger_is_one_tile_with_its_own_boxes():
    assert grid(600, 20, Tiling(600)).windows.tolist() == [[0, 0, 600, 20]]
    boxes = np.array([[0.1, 0.2, 0.3, 1.0]], np.float32)
    assert boxes_in((0, 0, 600, 20), (600, 20), boxes, np.array([3]), 0.5)[0] is boxes


def test_a_box_is_kept_and_cut_where_its_share_is_seen_and_left_out_where_it_is_not():
    boxes = np.array([[0.50, 0.1, 0.70, 0.3], [0.45, 0.1, 0.65, 0.3], [0.0, 0.0, 1.0, 1.0]], np.float32)
    cut, labels = boxes_in((0, 0, 600, 600), (1000, 600), boxes, np.array([1, 2, 3]), 0.51)
    assert labels.tolist() == [2, 3], "half of the first is seen, three quarters of the second, 0.6 of the third"
    np.testing.assert_allclose(cut, [[0.75, 0.1, 1.0, 0.3], [0, 0, 1, 1]], atol=1e-6)
    assert boxes_in((0, 0, 600, 600), (1000, 600), boxes, np.array([1, 2, 3]), 0.49)[1].tolist() == [1, 2, 3]


@pytest.mark.parametrize("tiling", TILINGS)
def test_a_box_is_seen_in_the_tile_that_shows_most_of_it(tiling):
    draw = np.random.default_rng(0)
    sizes = draw.integers(32, 1500, (300, 2))
    low = draw.uniform(0, 0.95, (300, 2))
    boxes = np.concatenate([low, low + (1 - low) * draw.uniform(0.01, 0.3, (300, 2))], 1).astype(np.float32)
    for box, size, seen in zip(boxes, sizes, in_their_tiles(boxes, sizes, tiling), strict=True):
        windows = grid(*map(int, size), tiling).windows
        tiles = windows[1:] if len(windows) > 1 else windows
        pixels = box * np.tile(size, 2)
        cut = np.minimum(pixels[2:], tiles[:, 2:]) - np.maximum(pixels[:2], tiles[:, :2])
        most = np.clip(cut, 0, None).prod(1).max()
        sides = np.minimum(tiling.size, size)
        assert (seen >= 0).all() and (seen <= 1).all()
        assert ((seen[2:] - seen[:2]) * sides).prod() == pytest.approx(most, rel=1e-3, abs=1e-2)


@pytest.fixture
def annotations(tmp_path):
    """Pictures of several sizes, with many boxes, a crowd, boxes without area and outside, and one without any."""
    rng = np.random.default_rng(0)
    sizes = [(300, 200), (64, 64), (130, 40), (100, 300), (250, 250), (90, 90)]
    images = [{"id": i, "file_name": f"{i}.jpg", "width": w, "height": h} for i, (w, h) in enumerate(sizes)]
    rows = []
    for image in images[:4]:
        for _ in range(3):
            corner = rng.uniform(0, 0.8, 2) * (image["width"], image["height"])
            box = [*corner, *rng.uniform(2, 60, 2)]
            rows.append({"image_id": image["id"], "category_id": 1 + len(rows) % 3, "bbox": box})
    rows[0]["iscrowd"] = 1
    rows += [{"image_id": 3, "category_id": 1, "bbox": [50, 100, 0, 0]}]
    rows += [{"image_id": i, "category_id": 1, "bbox": [900, 900, 5, 5]} for i in (4, 5)]
    images.append({"id": 6, "file_name": "6.jpg", "width": 200, "height": 90})
    content = {
        "images": images,
        "annotations": rows,
        "categories": [{"id": i, "name": f"thing {i}"} for i in (1, 2, 3)],
    }
    with pytest.warns(UserWarning, match="were dropped"):
        return CocoAnnotations.load(write(tmp_path / "a.json", json.dumps(content)))


@pytest.mark.parametrize("tiling", [Tiling(100), Tiling(64, 0.5, 0.2), Tiling(32, 0.0, 1.0)])
def test_samples_with_boxes_and_samples_with_nothing_are_found_among_all_tiles(annotations, tiling, monkeypatch):
    monkeypatch.setattr("coco.tiles.PAIRS_AT_ONCE", 100)
    tiles = TrainingTiles(annotations, tiling)
    pictures = [grid(int(w), int(h), tiling) for w, h in zip(annotations.widths, annotations.heights, strict=True)]
    places = [(i, window) for i, each in enumerate(pictures) for window in each.windows.tolist()]
    assert [(tiles.image(n), list(tiles.window(n))) for n in range(len(places))] == places
    firsts = np.cumsum([0, *(len(each.windows) for each in pictures)]).tolist()
    wholes = [first for first, each in zip(firsts[:-1], pictures, strict=True) if len(each.windows) > 1]
    with_boxes = [n for n in range(len(places)) if n not in wholes and len(tiles.training_boxes(n)[1])]
    assert [n for n in tiles.trainable.tolist() if n not in wholes] == with_boxes
    for image, first in enumerate(firsts[:-1]):  # boxes are told apart by their labels
        shown = {label for n in with_boxes if places[n][0] == image for label in tiles.training_boxes(n)[1].tolist()}
        missed = set(annotations.training_boxes(image)[1].tolist()) - shown
        assert (first in tiles.trainable and first in wholes) == bool(missed), "every box is trained on"
    empty = []
    for number, (image, (left, top, right, bottom)) in enumerate(places):
        if number in wholes:
            continue
        rows = slice(annotations.first[image], annotations.first[image + 1])
        x, y, w, h = annotations.bboxes[rows].T
        meets = (x <= right) & (x + w >= left) & (y <= bottom) & (y + h >= top)
        if not meets.any() and not (len(pictures[image].windows) == 1 and len(meets)):
            empty.append(number)
    assert tiles.backgrounds.tolist() == empty and 0 < len(empty) < len(places) - len(tiles.trainable)


def test_without_a_tiling_samples_are_the_pictures(annotations):
    tiles = TrainingTiles(annotations)
    assert tiles.trainable is annotations.trainable and tiles.backgrounds.tolist() == [6]
    assert tiles.training_boxes(0)[1].tolist() == [1, 2, 3]
    assert (tiles.image(2), tiles.window(2)) == (2, (0, 0, 130, 40))
    np.testing.assert_array_equal(tiles.training_boxes(0)[0], annotations.training_boxes(0)[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [((16,), "tiles 16: "), ((600, 1.0), "tile_overlap 1.0: "), ((600, 0.2, 0), "tile_min_area 0: ")],
)
def test_settings_out_of_range_are_refused_by_name(settings, message):
    with pytest.raises(TilingError, match=message):
        Tiling(*settings)
