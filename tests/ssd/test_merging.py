"""Each object of a picture once, however many of its views show it, whole or in part."""

import numpy as np
import pytest
import torch

from coco.tiles import Tiling, grid
from ssd.boxes import box_iou
from ssd.merging import merge_views

SIZE = (1500, 1000)  # width, height
GRID = grid(*SIZE, Tiling(600))  # 120 px are shared; the last tiles share more
WINDOWS, SHARED = torch.from_numpy(GRID.windows.copy()), torch.from_numpy(GRID.shared.copy())


def merged(found, **settings):
    """Of (view, box in pixels of the picture, score, label)."""
    most = max([1, *(sum(other[0] == each[0] for other in found) for each in found)])
    boxes, scores = torch.zeros(len(WINDOWS), most, 4), torch.zeros(len(WINDOWS), most)
    labels = torch.zeros(len(WINDOWS), most, dtype=torch.int64)
    for view, box, score, label in found:
        place = int((labels[view] > 0).sum())
        left, top, right, bottom = WINDOWS[view].tolist()
        side = torch.tensor([right - left, bottom - top] * 2)
        boxes[view, place] = (torch.tensor(box) - torch.tensor([left, top] * 2)) / side
        scores[view, place], labels[view, place] = score, label
    boxes, scores, labels = merge_views(boxes, scores, labels, WINDOWS, SHARED, **settings)
    assert (scores.diff() <= 0).all() and not boxes[labels == 0].any() and not scores[labels == 0].any()
    there = labels > 0
    return boxes[there].round().tolist(), scores[there].tolist(), labels[there].tolist()


def seen_by_all(box, least=0.0, score=lambda view, share: 0.5):
    """What a detector without fault finds of one object: in every view the part that it shows."""
    found = []
    for view, (left, top, right, bottom) in enumerate(WINDOWS.tolist()):
        part = [max(box[0], left), max(box[1], top), min(box[2], right), min(box[3], bottom)]
        width, height = part[2] - part[0], part[3] - part[1]
        share = width * height / ((box[2] - box[0]) * (box[3] - box[1]))
        if min(width, height) > 0 and share > least:
            found.append((view, part, score(view, share), 1))
    return found


@pytest.mark.parametrize("parts_score_more", [False, True])
def test_an_object_that_is_not_larger_than_the_overlap_is_found_once_and_whole_wherever_it_lies(parts_score_more):
    rng = np.random.default_rng(0)
    for _ in range(150):
        sides = rng.integers(10, 121, 2)
        corner = rng.integers(0, np.array(SIZE) - sides)
        box = [*corner.tolist(), *(corner + sides).tolist()]
        # The whole picture shows too little of it: there it is not found.
        score = lambda view, share: 0.95 - 0.5 * share if parts_score_more else 0.4 + 0.5 * share  # noqa: E731
        boxes, _, _ = merged([each for each in seen_by_all(box, 0.02, score) if each[0] > 0])
        assert boxes == [box]


def test_an_object_larger_than_the_overlap_is_the_box_of_a_view_that_has_it_whole_though_its_parts_score_more():
    box = [300, 200, 900, 700]  # cut in every tile
    found = seen_by_all(box, score=lambda view, share: 0.6 if view == 0 else 0.9)
    assert len(found) > 4 and merged(found)[0] == [box]


def test_of_parts_that_no_view_has_whole_the_best_stays_and_one_sure_of_its_own_is_not_lost_to_a_doubtful_whole():
    left, right = [400, 100, 600, 200], [480, 100, 660, 200]  # of an object of 260 pixels, in two tiles
    assert merged([(1, left, 0.8, 1), (2, right, 0.7, 1)])[0] == [left]
    whole = [400, 100, 660, 200]
    assert merged([(1, left, 0.8, 1), (0, whole, 0.1, 1)])[0] == [left]
    assert merged([(1, left, 0.8, 1), (0, whole, 0.5, 1)])[0] == [whole]


def test_neighbours_of_another_class_or_apart_stay():
    part, beyond = [570, 100, 600, 160], [500, 100, 590, 160]
    assert merged([(2, [560, 100, 640, 160], 0.9, 1), (2, [700, 100, 780, 160], 0.8, 1)])[2] == [1, 1]
    assert merged([(1, [400, 100, 600, 160], 0.5, 1), (2, [490, 90, 700, 170], 0.9, 2)])[2] == [2, 1]
    assert merged([(1, part, 0.9, 1), (1, beyond, 0.8, 1)])[0] == [beyond], "what the next tile shares is left to it"
    assert merged([(1, [476, 100, 606, 160], 0.9, 1)])[2] == [1], "deeper than the overlap, though it sticks out"
    assert merged([(3, [1470, 10, 1500, 60], 0.9, 1)])[2] == [1], "no neighbour at the picture's own border"


def test_of_objects_that_no_border_cuts_the_best_survive_as_in_exact_suppression_and_no_more_than_the_most():
    rng = np.random.default_rng(1)
    corners = rng.uniform(130, 380, (60, 2))  # within what the first tile has for itself
    found = [
        (1, [*c, *(c + rng.uniform(30, 80, 2))], float(s), 1) for c, s in zip(corners, rng.random(60), strict=True)
    ]
    boxes = torch.tensor([each[1] for each in sorted(found, key=lambda each: -each[2])])
    kept = []
    for i, box in enumerate(boxes):
        if not kept or (box_iou(box[None], boxes[kept]) < 0.4).all():
            kept.append(i)
    found_boxes, scores, _ = merged(found, iou_threshold=0.4)
    assert found_boxes == boxes[kept].round().tolist() and 10 < len(kept) < 60
    assert merged(found, iou_threshold=0.4, max_detections=7)[1] == scores[:7]
    assert merged([]) == ([], [], [])
