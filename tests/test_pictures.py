import numpy as np
import pytest
from PIL import Image

from pictures import class_colour, draw_detections

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


def test_classes_have_distinct_colours():
    assert len({class_colour(label, 80) for label in range(1, 81)}) == 80
