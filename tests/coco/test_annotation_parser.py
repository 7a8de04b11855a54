"""Which files are taken for COCO annotations, and what is said about those that are not."""

import json

import pytest

from coco.annotations import AnnotationError, CocoAnnotations
from tests.coco.conftest import CONTENT, error_of, write


def test_a_file_with_images_but_no_annotations_is_fine(path, content):
    content["annotations"] = []
    for _ in range(2):  # built, then from the cache
        loaded = CocoAnnotations.load(write(path, content))
        assert len(loaded) == 3
        assert loaded.bboxes.shape == (0, 4)
        assert loaded.trainable.tolist() == []
        assert loaded.training_boxes(0)[0].shape == (0, 4)


def test_integral_floats_bools_nulls_and_a_byte_order_mark_from_exporters_are_accepted(path, content):
    content["images"][0] |= {"width": 100.0, "id": 30.0}
    content["categories"][0]["id"] = 7.0
    content["annotations"][0] |= {"image_id": 30.0, "category_id": 7.0, "iscrowd": False, "area": None}
    content["annotations"][1] |= {"iscrowd": True}
    loaded = CocoAnnotations.load(write(path, "\ufeff" + json.dumps(content)))
    assert loaded.areas.tolist() == [5000, 1, 205, 2500]
    assert loaded.iscrowd.tolist() == [True, False, False, False]
    assert loaded.labels.tolist() == [1, 2, 2, 1]


def test_unknown_keys_are_ignored_even_if_they_hold_nan(path, content):
    content["annotations"][0]["score"] = float("nan")
    content["extra"] = {"anything": float("-inf")}
    assert CocoAnnotations.load(write(path, content)).labels.tolist() == [1, 2, 2, 1]


def test_file_names_and_category_names_may_repeat(path, content):
    content["images"][1]["file_name"] = "c.jpg"
    content["categories"][1]["name"] = "dog"
    loaded = CocoAnnotations.load(write(path, content))
    assert loaded.class_names == ("dog", "dog")
    assert loaded.file_name(0) == loaded.file_name(2) == "c.jpg"


def test_dots_inside_a_file_name_are_harmless(path, content):
    content["images"][0]["file_name"] = "..a/b..jpg"
    assert CocoAnnotations.load(write(path, content)).file_name(2) == "..a/b..jpg"


def test_a_missing_file_names_the_json_files_beside_it(path):
    with pytest.raises(
        AnnotationError, match=r"other\.json: no such annotation file \(that folder has instances\.json\)"
    ):
        CocoAnnotations.load(path.with_name("other.json"))
    with pytest.raises(AnnotationError, match=r"no \.json file, or does not exist"):
        CocoAnnotations.load(path.parent / "nowhere" / "other.json")


def test_a_directory_is_refused(path):
    with pytest.raises(AnnotationError, match="is a directory"):
        CocoAnnotations.load(path.parent)


@pytest.mark.parametrize("text", ["", " \n"])
def test_an_empty_file_is_refused(path, text):
    assert error_of(path, text).startswith(f"is empty ({len(text)} bytes)")


def test_broken_json_is_reported_with_line_column_and_byte(path):
    text = '{"images": [],\n "annotations": [1, }'
    byte = text.index("}")
    assert f"line 2, column 21 (byte {byte} of {len(text)}): invalid character, b'}}'" in error_of(path, text)


def test_a_truncated_file_is_reported_as_ending_too_early(path):
    text = json.dumps(CONTENT)[:-100]
    assert f"(byte {len(text)} of {len(text)}): ends before the last bracket or quote" in error_of(path, text)


def test_bytes_that_are_not_utf8_are_reported_where_they_are_used(path, content):
    raw = json.dumps(content).encode()
    for old, message in ((b"c.jpg", r"images\[0\].*not valid Unicode"), (b"annotations", "not UTF-8|cannot|has no")):
        path.write_bytes(raw.replace(old, b"\xff.jpg"))
        with pytest.raises(AnnotationError, match=message):
            CocoAnnotations.load(path)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"images"'])
def test_a_json_that_is_no_object_is_refused(path, text):
    assert error_of(path, text).startswith(f"is not an object but {text}; expected an object with the lists images")


@pytest.mark.parametrize("name", ["images", "annotations", "categories"])
def test_each_list_must_be_there_and_be_a_list(path, content, name):
    assert f'"{name}" is not a list but {{' in error_of(path, content | {name: {"0": 1}})
    del content[name]
    assert error_of(path, content).startswith(f'has no "{name}"; expected')


@pytest.mark.parametrize("name", ["images", "categories"])
def test_images_and_categories_must_not_be_empty(path, content, name):
    assert f'"{name}" is empty' in error_of(path, content | {name: []})


@pytest.mark.parametrize("where", ["annotations", "extra"])
def test_deeply_nested_json_is_refused_and_does_not_crash(path, where):
    text = json.dumps(CONTENT | {where: "HERE"}).replace('"HERE"', "[" * 100_000 + "]" * 100_000)
    assert "nested too deeply" in error_of(path, text)
    assert "nested too deeply" in error_of(path, text.replace("2017", "NaN"))
