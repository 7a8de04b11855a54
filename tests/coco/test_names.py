import unicodedata

import pytest

from coco.names import (
    cell,
    difference,
    for_file,
    look_alikes,
    plain,
    repeated,
    shortened,
    shown,
    told_apart,
    unique,
)

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
    assert shortened("a\udc80b\ud800", 3) == "a?b", "halves of characters, as in names of files that are no UTF-8"
    long = [unique("x" * 255, str(tie), taken) for taken in [set()] for tie in range(3)]
    assert len(set(long)) == 3 and max(map(len, long)) <= 210


EVIL = "red\x1b]0;owned\x07\x1b[2J\u202egnp\u2066\ud800\x9b\r"


def test_a_terminal_gets_nothing_to_obey_but_letters_of_every_language():
    assert plain(EVIL).isprintable() and plain(EVIL).startswith("red\\x1b]0;owned\\x07\\x1b[2J\\u202egnp")
    for name in ("traffic light", NFD, "犬 🐕\u200d🦺", "שלום\u200f", "C:\\x"):
        assert plain(name) == name
    assert plain("a\n\tb", lines=True) == "a\n\tb" and plain("a\nb") == "a\\nb"
    assert "\x1b" not in shown(EVIL)


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", " =1", "\uff1d1", "\ufe63x"])
def test_a_spreadsheet_gets_no_formula(formula):
    assert cell(formula).startswith("'")
    assert cell("a=1") == "a=1" and cell(-1.5) == -1.5 and cell("") == "" and cell("犬") == "犬"


def test_a_name_is_one_file_of_its_directory():
    for name in ("../../etc/x", "a\\b", "c:d", "a\nb", EVIL, "\ud800"):
        file = for_file(name)
        assert file.isprintable() and not set(file) & set('/\\:*?"<>|') and file.encode()
    assert unique("a/b", "1", set()) == "a_b" and for_file("traffic light.jpg") == "traffic light.jpg"
