"""What `devices=` may say for MLUs."""

import pytest
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from accelerators.devices import parse_devices


@pytest.mark.parametrize(
    ("devices", "ordinals"),
    [
        (1, [0]),
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("8", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("auto", [0, 1, 2, 3, 4, 5, 6, 7]),
        (-1, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("-1", [0, 1, 2, 3, 4, 5, 6, 7]),
        ("0,2", [0, 2]),
        (" 3 , 1 ", [3, 1]),
        ("1,", [1]),
        ([0, 2], [0, 2]),
        ((5,), [5]),
        (["0", "2"], [0, 2]),
    ],
)
def test_a_number_counts_and_a_list_chooses(devices, ordinals):
    assert parse_devices(devices, seen=8) == ordinals


@pytest.mark.parametrize(
    ("devices", "why"),
    [
        (3, r"devices=3 .*3 MLUs were asked for, but 2 are visible"),
        ("9", "9 MLUs were asked for"),
        ([0, 2], r"no MLU \[2\]: 2 are visible, ordinals 0 to 1"),
        ("-1,0", r"no MLU \[-1\]"),
        ([1, 1], r"each MLU once, but \[1\] came twice"),
        (0, "at least one MLU"),
        ("0", "at least one MLU"),
        (-2, "a count is positive, or -1 for all 2"),
        ([], "expected a count"),
        ("", "expected a count"),
        ("two", "expected a count"),
        ("0-1", "expected a count"),
        ([0, "one"], "expected a count"),
        ([0.5], "expected a count"),
        (1.0, "expected a count"),
        (None, "expected a count"),
        (True, "expected a count"),
    ],
)
def test_what_makes_no_sense_is_named(devices, why):
    with pytest.raises(MisconfigurationException, match=why):
        parse_devices(devices, seen=2)


def test_all_of_none_is_an_error():
    with pytest.raises(MisconfigurationException, match="none is visible"):
        parse_devices("auto", seen=0)
