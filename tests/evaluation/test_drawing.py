import numpy as np
import pytest
from PIL import Image

from evaluation.drawing import MISSED, RIGHT, WRONG, class_colour, draw_detections, draw_mistakes
from evaluation.errors import Mistake

NAMES = ("cat", "a class with a very long name")


def draw(size, box, label=1):
    picture = Image.new("RGB", size, (128, 128, 128))
    drawn = draw_detections(picture, np.array([box]), np.array([label]), np.array([0.9]), NAMES)
    assert drawn.size == size and picture.getcolors() == [(size[0] * size[1], (128, 128, 128))], "the original stays"
    return np.asarray(drawn)


def test_a_box_is_drawn_where_it_is_in_the_colour_of_its_class():
    drawn = draw((200, 200), (50, 60, 150, 160))
    assert tuple(drawn[160, 100]) == class_colour(1, 2)
    assert tuple(drawn[100, 150]) == class_colour(1, 2)
    assert tuple(drawn[110, 100]) == (128, 128, 128), "the inside stays visible"


@pytest.mark.parametrize("size", [(20, 20), (640, 480), (4000, 3000)])
@pytest.mark.parametrize("box", [(-50, -50, 10, 10), (5, 0, 19, 19), (10, 5, 9000, 9000)])
def test_boxes_beyond_the_border_are_drawn_within_it_at_any_size(size, box):
    assert (draw(size, box, label=2) != 128).any()


def test_no_detections_leave_the_picture_as_it_is():
    picture = Image.new("RGB", (30, 30), (1, 2, 3))
    assert np.array_equal(draw_detections(picture, np.zeros((0, 4)), np.zeros(0), np.zeros(0), NAMES), picture)


def test_right_detections_false_positives_and_missed_objects_differ_in_colour():
    mistakes = [
        Mistake("background", 1, np.array([400.0, 100, 500, 200]), 0.9, None, 0.0),
        Mistake("missed", 2, np.array([600.0, 100, 700, 200]), None, None, 0.0),
    ]
    picture = Image.new("RGB", (900, 300), (128, 128, 128))
    drawn = np.asarray(draw_mistakes(picture, np.array([[100.0, 100, 200, 200]]), mistakes, NAMES))
    assert tuple(drawn[200, 150]) == RIGHT and tuple(drawn[200, 450]) == WRONG and tuple(drawn[200, 650]) == MISSED
    legend = drawn[300:].reshape(-1, 3).tolist()
    assert all(list(colour) in legend for colour in (RIGHT, WRONG, MISSED))


def test_small_pictures_are_enlarged_so_that_mistakes_can_be_read():
    assert draw_mistakes(Image.new("RGB", (90, 60)), np.zeros((0, 4)), [], NAMES).width == 900


def test_names_of_boxes_at_one_place_do_not_cover_one_another():
    picture = Image.new("RGB", (600, 600), (128, 128, 128))
    box, colours = (200, 200, 400, 400), [class_colour(label, 2) for label in (1, 2)]
    drawn = draw_detections(picture, np.array([box, box]), np.array([1, 2]), np.array([0.9, 0.8]), ("cat", "dog"))
    pixels = np.asarray(drawn)
    for colour in colours:
        assert (pixels == colour).all(axis=2).sum() > 900, "a text's background"


def test_classes_have_distinct_colours():
    assert len({class_colour(label, 80) for label in range(1, 81)}) == 80


def test_in_a_tiny_picture_texts_do_not_bury_the_boxes():
    picture = Image.new("RGB", (64, 48), (128, 128, 128))
    boxes = [(x, y, x + 10, y + 10) for y in (2, 18, 34) for x in (2, 16, 30, 44)]
    labels = np.array([2] + [1] * 11)
    drawn = np.asarray(draw_detections(picture, np.array(boxes), labels, np.linspace(0.9, 0.5, 12), ("cat", "dog")))
    assert (drawn == class_colour(2, 2)).all(axis=2)[:, 15:].sum() > 150, "the best score keeps its text"
    assert (drawn == 128).all(axis=2).mean() > 0.3, "most of the picture stays visible"
    outlines = [drawn[y : y + 11, x : x + 11] == class_colour(1, 2) for x, y, *_ in boxes[1:]]
    assert sum(outline.all(axis=2).any() for outline in outlines) >= 8, "and so do boxes"


def test_boxes_without_scores_are_named_alone():
    picture = Image.new("RGB", (200, 200), (128, 128, 128))
    box, label = np.array([[50, 60, 150, 160]]), np.array([1])
    named, scored = (draw_detections(picture, box, label, scores, NAMES) for scores in (None, np.array([0.9])))
    widths = [(np.asarray(drawn)[50] == class_colour(1, 2)).all(axis=1).sum() for drawn in (named, scored)]
    assert 0 < widths[0] < widths[1], "the text above the box"
