import math

import numpy as np
import pytest

from training.ranges import Range, out_of_range


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (Range(1, whole=True), [1, 7, np.int64(3)], [0, -1, 1.5, "1", True, None]),
        (Range(0), [0, 0.5, 3], [-1e-9, math.nan, math.inf, -math.inf]),
        (Range(0, above=True), [1e-9, 3], [0, -1]),
        (Range(0, 1, below=True), [0, 0.99], [1, 1.5, -0.1]),
        (Range(0, 1), [0, 1], [1.01]),
    ],
)
def test_a_range_holds_its_numbers_and_no_others(allowed, inside, outside):
    assert all(value in allowed for value in inside) and not any(value in allowed for value in outside)


def test_the_first_setting_out_of_range_is_told_with_its_flag_and_what_is_expected():
    ranges = {"a": Range(0), "b": Range(1, whole=True), "c": Range(0, 1, below=True)}
    assert out_of_range({"a": None, "b": 2}, ranges, "--x.") is None
    assert out_of_range({"b": 0}, ranges, "--x.") == "--x.b 0: expected a whole number, at least 1"
    assert out_of_range({"c": 1}, ranges, "--") == "--c 1: expected a number from 0 to 1 (not itself)"
