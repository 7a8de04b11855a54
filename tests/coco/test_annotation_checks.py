"""An entry that cannot be used is named, with what was found and what was expected."""

import json
import re

import pytest

from tests.coco.conftest import CONTENT, error_of


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "id is None; expected an integer"),
        ({"id": "30"}, """id is the text '30'; expected an integer, written without quotes: "id": 123"""),
        ({"id": 2**63}, "id is 9223372036854775808; expected an integer from"),
        ({"id": 1.5}, "id is 1.5; expected an integer"),
        ({"width": 0}, "width is 0; expected an integer from 1 to 2147483647"),
        ({"height": -5}, "height is -5; expected"),
        ({"height": 2**31}, "height is 2147483648; expected"),
        ({"width": True}, "width is True; expected an integer"),
        ({"file_name": 7}, "file_name is 7; expected a text"),
    ],
)
def test_wrong_image_fields_are_refused(path, content, change, message):
    content["images"][0] |= change
    reported = error_of(path, content)
    assert reported.startswith("images[0] (id ")
    assert message in reported


def test_half_a_surrogate_pair_in_a_file_name_is_refused(path, content):
    content["images"][0]["file_name"] = "\ud800.jpg"
    assert "hex escape" in error_of(path, content)


@pytest.mark.parametrize("key", ["id", "file_name", "width", "height"])
def test_missing_image_fields_are_refused(path, content, key):
    del content["images"][2][key]
    assert re.match(rf'images\[2\].*: has no "{key}"', error_of(path, content))


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a.jpg", "a/../../b.jpg", "a/..", "a\\b.jpg", "C:/a.jpg", "a\0b", ""]
)
def test_file_names_that_leave_the_image_directory_are_refused(path, content, name):
    content["images"][1]["file_name"] = name
    assert f"images[1] (id 10): file_name {name!r} is empty, absolute or leaves" in error_of(path, content)


def test_repeated_image_ids_are_refused_with_their_count(path, content):
    content["images"][2]["id"] = 30
    message = error_of(path, content)
    assert "image id 30 is given to 2 images (c.jpg, été.jpg); 1 ids in all are repeated" in message


def test_repeated_category_ids_are_refused(path, content):
    content["categories"][1]["id"] = 7
    assert "category id 7 is given to 'dog' and 'cat'" in error_of(path, content)


def test_a_category_without_a_name_is_refused(path, content):
    del content["categories"][1]["name"]
    assert 'categories[1] (id 3): has no "name"' in error_of(path, content)


@pytest.mark.parametrize(("key", "target"), [("image_id", "images"), ("category_id", "categories")])
def test_unknown_references_are_refused_with_their_count(path, content, key, target):
    content["annotations"][1][key] = content["annotations"][2][key] = 99
    message = error_of(path, content)
    assert f'annotations[1] (id 4): {key} 99 is not in "{target}"; so with 2 of 4 annotations' in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [1, 2, 3]}, "bbox is [1, 2, 3]; expected [x, y, width, height], four finite numbers"),
        ({"bbox": None}, "bbox is None"),
        ({"bbox": [1, 2, "3", 4]}, "bbox is [1, 2, '3', 4]"),
        ({"bbox": [1, 2, True, 4]}, "bbox is [1, 2, True, 4]"),
        ({"bbox": [1, 2, float("nan"), 4]}, "bbox is [1, 2, nan, 4]"),
        ({"bbox": [1, 2, float("-inf"), 4]}, "bbox is [1, 2, -inf, 4]"),
        ({"bbox": [1, 2, 10**400, 4]}, "four finite numbers"),
        ({"area": float("nan")}, "area is nan; expected a finite number"),
        ({"area": -1}, "area is -1; expected"),
        ({"area": "5"}, "area is '5'; expected"),
        ({"iscrowd": 2}, "iscrowd is 2; expected 0 or 1"),
        ({"iscrowd": "0"}, "iscrowd is '0'; expected 0 or 1"),
        ({"image_id": "30"}, """image_id is the text '30'; expected an integer, written without quotes"""),
        ({"category_id": 7.5}, "category_id is 7.5; expected an integer"),
        ({"image_id": 10**30}, "expected an integer from"),
    ],
)
def test_wrong_annotation_fields_are_refused(path, content, change, message):
    content["annotations"][1] |= change
    reported = error_of(path, content)
    assert reported.startswith("annotations[1] (id 4): ")
    assert message in reported


def test_numbers_beyond_float64_are_refused(path):
    assert "annotations[0] (id 5): bbox is" in error_of(path, json.dumps(CONTENT).replace("20.5", "1e400"))


def test_an_integer_of_thousands_of_digits_is_refused_in_plain_words(path):
    text = json.dumps(CONTENT).replace('"image_id": 10', f'"image_id": {"9" * 5000}', 1)
    assert error_of(path, text) == "annotations[1]: has an integer of more than 4300 digits. Correct or remove it."


@pytest.mark.parametrize("key", ["bbox", "image_id", "category_id"])
def test_missing_annotation_fields_are_refused(path, content, key):
    del content["annotations"][1][key]
    assert f'annotations[1] (id 4): has no "{key}"' in error_of(path, content)


@pytest.mark.parametrize("name", ["images", "annotations", "categories"])
def test_an_entry_that_is_no_object_is_refused(path, content, name):
    content[name][1] = [1, 2]
    assert f"{name}[1]: is [1, 2], not an object" in error_of(path, content)
