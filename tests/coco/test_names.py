import unicodedata

import pytest

from coco.names import difference, look_alikes, repeated, shortened, shown, told_apart, unique

NFC = "café"
NFD = unicodedata.normalize("NFD", NFC)


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        (NFC, NFD, "Unicode form NFC against NFD"),
        ("Cat", "cat", "upper and lower case"),
        ("traffic light", "traffic  light", "spaces"),
        ("cat ", "cat", "spaces"),
        ("cat\u200b", "cat", "characters that look alike or cannot be seen"),
        ("ﬁsh", "fish", "characters that look alike"),
    ],
)
def test_names_that_look_alike_are_told_apart_by_their_code_points_and_the_reason(one, other, why):
    assert look_alikes([one], [other]) == [(one, other)]
    assert why in difference(one, other)
    told = told_apart([(one, other)])
    assert ascii(one) in told and ascii(other) in told and why in told


def test_equal_and_different_names_are_no_look_alikes():
    assert look_alikes(["cat", "dog"], ["cat", "bird"]) == [] and told_apart([]) == ""
    assert repeated(["cat", "dog", "Cat", "dog", "bird"]) == [["cat", "Cat"], ["dog", "dog"]]


def test_a_name_is_shown_with_its_code_points_only_where_letters_do_not_say_which_it_is():
    assert shown("traffic light") == "traffic light"
    assert shown(NFD) == f"{NFD} ('cafe\\u0301')"
    assert shown("cat ") == "cat  ('cat ')"
    assert "\\u0430" in shown("c\u0430t"), "Cyrillic"


def test_every_name_becomes_unique_for_any_file_system():
    taken: set[str] = set()
    names = [unique(name, str(tie), taken) for tie, name in enumerate(["a", "A", "a", "a_3", "a_2", NFC, NFD, "b"])]
    assert names == ["a", "A_1", "a_2", "a_3", "a_2_4", NFC, f"{NFD}_6", "b"]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == len(names)


def test_long_names_are_cut_between_letters():
    cut = shortened("é" * 150, 201)
    assert cut == "é" * 100
    long = [unique("x" * 255, str(tie), taken) for taken in [set()] for tie in range(3)]
    assert len(set(long)) == 3 and max(map(len, long)) <= 210
