"""`CocoAnnotations`: COCO's own values in flat arrays, a cache that is never stale, errors that say what to do."""

import contextlib
import errno
import hashlib
import io
import json
import logging
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from coco import annotation_cache, annotations
from coco.annotation_cache import open_cache
from coco.annotations import AnnotationError, CocoAnnotations
from coco.transforms import draw_sample, generator

ROOT = Path(__file__).resolve().parents[2]
COCO_CC_MINI = ROOT.parent / "shared" / "data" / "coco_cc_mini" / "annotations"

# Two classes with gaps between their ids, ids out of order, a crowd, an image without annotations, no area in one.
CONTENT = {
    "info": {"year": 2017},
    "images": [
        {"id": 30, "file_name": "c.jpg", "width": 100, "height": 50, "license": 1},
        {"id": 10, "file_name": "sub/a.jpg", "width": 200, "height": 100},
        {"id": 20, "file_name": "été.jpg", "width": 64, "height": 64},
    ],
    "annotations": [
        {"id": 5, "image_id": 30, "category_id": 7, "bbox": [10, 5, 20.5, 10], "area": 99.5, "iscrowd": 0},
        {"id": 4, "image_id": 10, "category_id": 3, "bbox": [0, 0, 100, 50], "iscrowd": 1, "area": 5000},
        {"id": 3, "image_id": 30, "category_id": 3, "bbox": [0, 0, 50, 50], "segmentation": [[1, 2, 3, 4, 5, 6]]},
        {"id": 2, "image_id": 10, "category_id": 7, "bbox": [50, 25, 150, 75], "area": 1.0, "iscrowd": 0},
    ],
    "categories": [{"id": 7, "name": "dog", "supercategory": "animal"}, {"id": 3, "name": "cat"}],
}


@pytest.fixture(autouse=True)
def cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    return tmp_path / "cache-home" / "ssd300-lightning"


@pytest.fixture
def content():
    return json.loads(json.dumps(CONTENT))


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "annotations"
    folder.mkdir()
    return write(folder / "instances.json", CONTENT)


def write(path, content, seconds_old=60):
    """Old enough that its mtime is trusted, unless asked otherwise."""
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    set_age(path, seconds_old)
    return path


def set_age(path, seconds):
    os.utime(path, ns=(time.time_ns() - seconds * 10**9,) * 2)


def index_of(path):
    return path.with_name(path.name + ".index")


def error_of(path, content, **options):
    """The message for `content`, which begins with the file's path."""
    with pytest.raises(AnnotationError) as caught:
        CocoAnnotations.load(write(path, content, **options))
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ | (caught.value.__context__ is None)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def builds(monkeypatch):
    """A list that grows by one whenever the json is parsed."""
    calls, parse = [], annotations.parse
    monkeypatch.setattr(annotations, "parse", lambda *args: calls.append(1) or parse(*args))
    return calls


def assert_same(left, right):
    for name in ("image_ids", "widths", "heights", "first", "bboxes", "areas", "iscrowd", "labels", "trainable"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
    assert (left.category_ids, left.class_names) == (right.category_ids, right.class_names)
    assert [left.file_name(i) for i in range(len(left))] == [right.file_name(i) for i in range(len(right))]
    for i in range(len(left)):
        for a, b in zip(left.training_boxes(i), right.training_boxes(i), strict=True):
            np.testing.assert_array_equal(a, b)


# What is in the arrays


def test_images_are_sorted_by_id_and_annotations_keep_file_order_within_an_image(path):
    loaded = CocoAnnotations.load(path)
    assert len(loaded) == 3
    assert loaded.image_ids.tolist() == [10, 20, 30]
    assert loaded.widths.tolist() == [200, 64, 100]
    assert loaded.heights.tolist() == [100, 64, 50]
    assert [loaded.file_name(i) for i in range(3)] == ["sub/a.jpg", "été.jpg", "c.jpg"]
    assert loaded.first.tolist() == [0, 2, 2, 4]
    assert loaded.bboxes.tolist() == [[0, 0, 100, 50], [50, 25, 150, 75], [10, 5, 20.5, 10], [0, 0, 50, 50]]
    assert loaded.iscrowd.tolist() == [True, False, False, False]


def test_file_order_survives_the_sort_of_many_annotations(path, content):
    draw = np.random.default_rng(0)
    images = draw.choice([10, 20, 30], 3000).tolist()
    content["annotations"] = [
        {"image_id": image, "category_id": 3, "bbox": [0, 0, 1, 1 + row / 1e4]} for row, image in enumerate(images)
    ]
    loaded = CocoAnnotations.load(write(path, content))
    for i in range(3):
        heights = loaded.bboxes[loaded.first[i] : loaded.first[i + 1], 3]
        assert len(heights) == images.count(loaded.image_ids[i])
        assert (np.diff(heights) > 0).all()


def test_labels_are_ranks_of_category_ids_from_one(path):
    loaded = CocoAnnotations.load(path)
    assert loaded.category_ids == (3, 7)
    assert loaded.class_names == ("cat", "dog")
    assert loaded.labels.tolist() == [1, 2, 2, 1]


def test_a_missing_area_is_width_times_height(path):
    assert CocoAnnotations.load(path).areas.tolist() == [5000, 1, 99.5, 2500]


def test_types_and_shapes_are_as_documented(path):
    loaded = CocoAnnotations.load(path)
    dtypes = {"image_ids": "i8", "widths": "i4", "heights": "i4", "first": "i8", "bboxes": "f8", "areas": "f8"}
    for name, dtype in (dtypes | {"iscrowd": "?", "labels": "i8", "trainable": "i8"}).items():
        array = getattr(loaded, name)
        assert array.dtype == np.dtype(dtype)
        assert type(array) is np.ndarray
        assert not array.flags.writeable
    boxes, labels = loaded.training_boxes(1)
    assert boxes.shape == (0, 4)
    assert boxes.dtype == np.float32
    assert labels.dtype == np.int64


def test_training_boxes_are_normalised_corners_the_caller_may_change(path):
    loaded = CocoAnnotations.load(path)
    boxes, labels = loaded.training_boxes(2)
    np.testing.assert_allclose(boxes, [[0.1, 0.1, 0.305, 0.3], [0, 0, 0.5, 1]], rtol=1e-6)
    assert labels.tolist() == [2, 1]
    boxes[:] = 0
    assert loaded.training_boxes(2)[0].any()
    assert loaded.trainable.tolist() == [0, 2]


def test_negative_indices_count_from_the_end_and_others_are_index_errors(path):
    loaded = CocoAnnotations.load(path)
    assert loaded.file_name(-1) == "c.jpg"
    assert len(loaded.training_boxes(-1)[1]) == 2
    for index in (3, -4):
        with pytest.raises(IndexError):
            loaded.file_name(index)
        with pytest.raises(IndexError):
            loaded.training_boxes(index)


@pytest.mark.parametrize("source", ["built in", "train2017", "val2017"])
def test_values_equal_pycocotools(source, path):
    if source != "built in":
        original = COCO_CC_MINI / f"instances_{source}.json"
        if not original.exists():
            pytest.skip(f"no {original}: the shared data sets are not here")
        write(path, original.read_text())
    loaded = CocoAnnotations.load(path, cache=False)
    with contextlib.redirect_stdout(io.StringIO()):
        peer = COCO(str(path))
    assert loaded.image_ids.tolist() == sorted(peer.getImgIds())
    assert list(loaded.category_ids) == sorted(peer.getCatIds())
    assert list(loaded.class_names) == [peer.cats[id]["name"] for id in loaded.category_ids]
    for i, image_id in enumerate(loaded.image_ids.tolist()):
        rows, theirs = slice(loaded.first[i], loaded.first[i + 1]), peer.imgToAnns[image_id]
        image = peer.imgs[image_id]
        assert (loaded.file_name(i), loaded.widths[i], loaded.heights[i]) == (
            image["file_name"],
            image["width"],
            image["height"],
        )
        assert loaded.bboxes[rows].tolist() == [a["bbox"] for a in theirs]
        assert [loaded.category_ids[label - 1] for label in loaded.labels[rows]] == [a["category_id"] for a in theirs]
        assert loaded.iscrowd[rows].tolist() == [bool(a.get("iscrowd", 0)) for a in theirs]
        assert loaded.areas[rows].tolist() == [a.get("area", a["bbox"][2] * a["bbox"][3]) for a in theirs]


# Odd boxes


def test_degenerate_boxes_are_dropped_and_protruding_ones_clipped_with_one_warning(path, content):
    boxes = [[0, 0, 0, 5], [5, 5, -3, 4], [250, 0, 10, 10], [0, 0, 1e-7, 1e-7], [-10, -10, 30, 30], [190, 90, 20, 5]]
    content["annotations"] = [{"image_id": 10, "category_id": 3, "bbox": box} for box in boxes]
    with pytest.warns(
        UserWarning, match="4 of 6 boxes were dropped.* and 2 that stick out.*first in sub/a.jpg"
    ) as seen:
        loaded = CocoAnnotations.load(write(path, content))
    assert len(seen) == 1
    assert (loaded.num_dropped, loaded.num_clipped) == (4, 2)
    got, _ = loaded.training_boxes(0)
    np.testing.assert_allclose(got, [[0, 0, 0.1, 0.2], [0.95, 0.9, 1, 0.95]], rtol=1e-6)
    assert loaded.bboxes.tolist() == boxes, "evaluation must see the boxes as written"
    with pytest.warns(UserWarning, match="4 of 6"):
        CocoAnnotations.load(path)  # a start from the cache warns as well


@pytest.mark.parametrize("left", [0, 0.01, 3, 100.003, 199.99])
def test_every_training_box_keeps_an_area_through_crop_and_flip(path, content, left):
    boxes = [[left, 30, width, 40] for width in (1e-12, 1e-7, 1e-5, 2.1e-4, 3e-4, 1e-3)]
    content["annotations"] = [{"image_id": 10, "category_id": 3, "bbox": box} for box in boxes]
    with pytest.warns(UserWarning, match="of 6 boxes were dropped"):
        loaded = CocoAnnotations.load(write(path, content))
    for epoch in range(100):
        kept = draw_sample(generator(0, epoch, 0), 200, 100, *loaded.training_boxes(0)).boxes
        assert len(kept) and (kept[:, 2:] > kept[:, :2]).all()


def test_boxes_that_stick_out_by_at_most_a_pixel_are_clipped_silently(path, content):
    content["annotations"] = [{"image_id": 10, "category_id": 3, "bbox": [-1, 0.5, 202, 100.49]}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = CocoAnnotations.load(write(path, content))
    assert loaded.num_clipped == 0
    assert loaded.training_boxes(0)[0].tolist() == [[0, np.float32(0.005), 1, 1]]


def test_an_image_left_without_boxes_is_not_trainable(path, content):
    content["annotations"] = [{"image_id": 10, "category_id": 3, "bbox": [0, 0, 0, 0]}]
    with pytest.warns(UserWarning, match="1 of 1 boxes"):
        assert CocoAnnotations.load(write(path, content)).trainable.tolist() == []


@pytest.mark.parametrize("huge", [1e308, -1e308])
def test_boxes_of_huge_finite_numbers_neither_warn_nor_overflow(path, content, huge):
    content["annotations"] = [{"image_id": 10, "category_id": 3, "bbox": [huge, huge, 1e308, 1e308]}]
    with pytest.warns(UserWarning, match="1 of 1 boxes") as seen:
        loaded = CocoAnnotations.load(write(path, content))
    assert len(seen) == 1
    assert loaded.num_dropped == 1


# Accepted


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


# Refused: the file


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


# Refused: an entry


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


MUTATIONS = st.lists(
    st.tuples(
        st.integers(0, 10**6),
        st.integers(0, 3),
        st.sampled_from(
            [
                b"",
                b'"',
                b"{",
                b"}",
                b"[",
                b"]",
                b",",
                b":",
                b"-",
                b"0",
                b"1e999",
                b"NaN",
                b"-Infinity",
                b"null",
                b"true",
            ]
            + [
                b"\\",
                b"\\ud800",
                b"\xff",
                b"\0",
                b"..",
                b"/",
                b'"id": 1,',
                b'"bbox"',
                b"9" * 25,
                b"9" * 5000,
                b"[" * 2000,
            ]
        ),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(mutations=MUTATIONS)
def test_any_damage_either_loads_or_is_an_annotation_error(path, mutations):
    data = json.dumps(CONTENT).encode()
    for place, length, replacement in mutations:
        place %= len(data)
        data = data[:place] + replacement + data[place + length :]
    path.write_bytes(data)
    with contextlib.suppress(AnnotationError), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # dropped and clipped boxes
        loaded = CocoAnnotations.load(path, cache=False)
        for i in range(len(loaded)):
            loaded.file_name(i), loaded.training_boxes(i)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(value=ANYTHING, name=st.sampled_from(["images", "annotations", "categories"]), data=st.data())
def test_any_value_anywhere_either_loads_or_is_an_annotation_error(path, value, name, data):
    content = json.loads(json.dumps(CONTENT))
    target = data.draw(st.sampled_from([content, content[name], content[name][0]]))
    if target is content:
        target[name] = value
    else:
        target[data.draw(st.sampled_from([0, 1] if isinstance(target, list) else sorted(target)))] = value
    path.write_text(json.dumps(content))
    with contextlib.suppress(AnnotationError), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        loaded = CocoAnnotations.load(path, cache=False)
        for i in range(len(loaded)):
            boxes, labels = loaded.training_boxes(i)
            assert (boxes >= 0).all()
            assert (boxes <= 1).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()
            assert len(boxes) == len(labels)
            assert loaded.file_name(i)


# The cache


def test_the_second_load_maps_the_cache_without_reading_the_json(path, monkeypatch):
    parsed = builds(monkeypatch)
    first = CocoAnnotations.load(path)
    monkeypatch.setattr(annotation_cache, "hash_file", lambda path: pytest.fail("hashed again"))
    second = CocoAnnotations.load(path)
    assert len(parsed) == 1
    assert_same(first, second)
    assert sorted(file.name for file in path.parent.iterdir()) == ["instances.json", "instances.json.index"]


def test_cache_false_neither_reads_nor_writes_a_cache(path, monkeypatch):
    parsed = builds(monkeypatch)
    assert_same(CocoAnnotations.load(path, cache=False), CocoAnnotations.load(path, cache=False))
    assert len(parsed) == 2
    assert not index_of(path).exists()


def test_a_touched_json_is_hashed_once_and_its_cache_kept(path, monkeypatch):
    parsed, hashed, hash_file = builds(monkeypatch), [], annotation_cache.hash_file
    monkeypatch.setattr(annotation_cache, "hash_file", lambda path: hashed.append(1) or hash_file(path))
    CocoAnnotations.load(path)
    set_age(path, 30)
    for _ in range(3):
        CocoAnnotations.load(path)
    assert (len(parsed), len(hashed)) == (1, 1)


def test_a_changed_json_of_the_same_size_is_parsed_again(path, content):
    CocoAnnotations.load(path)
    content["categories"][0]["name"] = "cow"
    write(path, content, seconds_old=30)
    assert CocoAnnotations.load(path).class_names == ("cat", "cow")


def test_a_json_of_another_size_is_parsed_again_even_with_the_same_mtime(path, content):
    CocoAnnotations.load(path)
    before = os.stat(path).st_mtime_ns
    content["categories"][0]["name"] = "a much longer name"
    write(path, content)
    os.utime(path, ns=(before, before))
    assert CocoAnnotations.load(path).class_names == ("cat", "a much longer name")


def test_a_json_rewritten_within_one_tick_of_the_clock_is_noticed(path, content):
    write(path, content, seconds_old=0)
    before = os.stat(path).st_mtime_ns
    CocoAnnotations.load(path)
    content["categories"][0]["name"] = "cow"
    write(path, content)
    os.utime(path, ns=(before, before))
    assert CocoAnnotations.load(path).class_names == ("cat", "cow")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: data[:50], "has 50 bytes, fewer than its header"),
        (lambda data: data[:-64], "bytes of"),
        (lambda data: data + b"\0", "bytes of"),
        (lambda data: b"X" + data[1:], "is no annotation cache"),
        (lambda data: data[:8] + b"\xff" + data[9:], "has format version"),
        (lambda data: data[:200] + b"\xff" + data[201:], "has a damaged header"),
    ],
)
def test_a_broken_cache_is_rebuilt_with_one_line_saying_so(path, caplog, damage, reason):
    expected = CocoAnnotations.load(path, cache=False)
    CocoAnnotations.load(path)
    data = index_of(path).read_bytes()
    index_of(path).write_bytes(damage(data))
    assert_same(CocoAnnotations.load(path), expected)
    [record] = caplog.records
    assert reason in record.getMessage()
    assert "building it again" in record.getMessage()
    assert len(index_of(path).read_bytes()) == len(data)
    caplog.clear()
    CocoAnnotations.load(path)
    assert not caplog.records


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda header: header["arrays"].pop("labels"), "does not hold what an annotation cache does"),
        (lambda header: header["arrays"]["letters"].__setitem__(1, []), "does not hold what"),
        (lambda header: header["arrays"]["first"].__setitem__(0, "<f8"), "does not hold what"),
        (lambda header: header["arrays"]["first"].__setitem__(2, 2**70), "has a wrong header"),
        (lambda header: header["meta"]["class_names"].__setitem__(0, 7), "does not hold what"),
        (lambda header: header["meta"].pop("num_dropped"), "does not hold what"),
    ],
)
def test_a_cache_whose_header_was_made_up_is_rebuilt(path, caplog, change, reason):
    expected = CocoAnnotations.load(path)
    contents = open_cache(index_of(path))
    data = bytearray(contents.buffer)
    size = annotation_cache.PREFIX.unpack_from(data)[2]
    header = json.loads(data[annotation_cache.PREFIX.size :][:size])
    change(header)
    text = (
        json.dumps(header, separators=(",", ":")).encode().ljust(size)
    )  # as long as it was, so that the arrays stay in their places
    fields = list(annotation_cache.PREFIX.unpack_from(data))
    fields[2], fields[8] = len(text), hashlib.blake2b(text, digest_size=32).digest()
    start = -(-(annotation_cache.PREFIX.size + size) // 64) * 64
    data[:start] = (annotation_cache.PREFIX.pack(*fields) + text).ljust(start, b"\0")
    index_of(path).unlink()
    index_of(path).write_bytes(data)
    assert_same(CocoAnnotations.load(path), expected)
    assert reason in caplog.text


def test_a_cache_with_a_deeply_nested_header_is_rebuilt(path, caplog):
    expected = CocoAnnotations.load(path)
    prefix, header = annotation_cache.PREFIX, b"[" * 100_000
    fields = list(prefix.unpack_from(index_of(path).read_bytes()))
    fields[2], fields[6] = len(header), prefix.size + len(header)
    fields[8] = hashlib.blake2b(header, digest_size=32).digest()
    index_of(path).unlink()
    index_of(path).write_bytes(prefix.pack(*fields) + header)
    assert_same(CocoAnnotations.load(path), expected)
    assert "has a wrong header" in caplog.text


def test_a_pipe_in_place_of_the_cache_is_not_waited_for(path, caplog):
    os.mkfifo(index_of(path))
    assert len(CocoAnnotations.load(path)) == 3
    assert "is no regular file; building it again" in caplog.text
    assert index_of(path).is_file()


def refuse_to_write_in(folders, monkeypatch, code=errno.EROFS):
    """As a read-only file system does (tests may run as root, whom permissions do not stop)."""
    real = os.open

    def refusing(name, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR) and any(Path(name).is_relative_to(folder) for folder in folders):
            raise OSError(code, os.strerror(code), str(name))
        return real(name, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing)


def test_a_read_only_data_directory_moves_the_cache_to_the_users_cache_directory(path, monkeypatch, cache_home):
    parsed = builds(monkeypatch)
    refuse_to_write_in([path.parent], monkeypatch)
    assert_same(CocoAnnotations.load(path), CocoAnnotations.load(path))
    assert len(parsed) == 1
    assert [file.name for file in path.parent.iterdir()] == ["instances.json"]
    [cached] = cache_home.iterdir()
    assert re.fullmatch(r"instances-[0-9a-f]{16}\.index", cached.name)


def test_two_files_of_one_name_do_not_share_a_user_cache(path, monkeypatch, tmp_path, content):
    other = tmp_path / "other" / path.name
    other.parent.mkdir()
    content["categories"][0]["name"] = "cow"
    write(other, content)
    refuse_to_write_in([path.parent, other.parent], monkeypatch)
    for _ in range(2):
        assert CocoAnnotations.load(path).class_names == ("cat", "dog")
        assert CocoAnnotations.load(other).class_names == ("cat", "cow")


def test_where_nothing_can_be_written_the_arrays_stay_in_memory_with_one_line(path, monkeypatch, tmp_path, caplog):
    expected = CocoAnnotations.load(path, cache=False)
    parsed = builds(monkeypatch)
    refuse_to_write_in([tmp_path], monkeypatch)
    loaded = CocoAnnotations.load(path)
    assert_same(loaded, expected)
    assert len(parsed) == 1
    [record] = caplog.records
    assert "no cache could be written" in record.getMessage()
    assert "Read-only file system" in record.getMessage()
    assert_same(pickle.loads(pickle.dumps(loaded)), expected)


def test_a_full_disk_leaves_no_partial_cache_and_parses_once(path, monkeypatch, caplog):
    parsed = builds(monkeypatch)

    def full(file, packed):
        file.write(packed[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(annotation_cache, "_write", full)
    assert len(CocoAnnotations.load(path)) == 3
    assert len(parsed) == 1
    assert [file.name for file in path.parent.iterdir()] == ["instances.json"]
    assert "No space left on device" in caplog.text


def test_a_wrong_json_leaves_nothing_behind(path):
    error_of(path, "[]")
    assert [file.name for file in path.parent.iterdir()] == ["instances.json"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_in_place_of_the_partial_cache_is_not_followed(path, tmp_path, exists):
    target = tmp_path / "target"
    if exists:
        target.write_text("precious")
    path.with_name(path.name + ".index.partial").symlink_to(target)
    assert len(CocoAnnotations.load(path)) == 3
    assert target.read_text() == "precious" if exists else not target.exists()


def test_a_cache_that_came_with_the_data_cannot_name_a_file_outside(path):
    CocoAnnotations.load(path)
    index = index_of(path)
    index.write_bytes(index.read_bytes().replace(b"sub/a.jpg", b"../../a.x"))
    with pytest.raises(AnnotationError, match=r"leaves the image directory\. Delete this cache"):
        CocoAnnotations.load(path).file_name(0)
    index.write_bytes(index.read_bytes().replace(b"../../a.x", b"sub/\xff.jpg"))
    assert CocoAnnotations.load(path).file_name(0) == "sub/\ufffd.jpg", "no file; its absence will be reported"


# Several processes


def _load_and_report(path, queue):
    calls, parse = [], annotations.parse

    def slow(*args):
        calls.append(1)
        time.sleep(0.5)  # long enough for the other to arrive
        return parse(*args)

    annotations.parse = slow
    loaded = CocoAnnotations.load(path)
    queue.put((len(calls), loaded.labels.tolist()))


def test_of_two_processes_that_start_at_once_one_builds_and_the_other_waits(path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_load_and_report, args=(path, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    reports = sorted(queue.get(timeout=20) for _ in processes)
    for process in processes:
        process.join()
    assert reports == [(0, [1, 2, 2, 1]), (1, [1, 2, 2, 1])]
    assert sorted(file.name for file in path.parent.iterdir()) == ["instances.json", "instances.json.index"]


def test_a_lock_won_after_its_file_was_renamed_is_let_go(path, monkeypatch, cache_home):
    locked = annotation_cache._locked

    def renamed_by_another_first(file):
        monkeypatch.setattr(annotation_cache, "_locked", locked)
        os.replace(file.name, index_of(path))
        return locked(file)

    monkeypatch.setattr(annotation_cache, "_locked", renamed_by_another_first)
    assert CocoAnnotations.load(path).labels.tolist() == [1, 2, 2, 1]
    assert open_cache(index_of(path))
    assert not cache_home.exists()


def _build_and_hang(path, ready):
    annotations.parse = lambda *args: ready.set() or time.sleep(60)
    CocoAnnotations.load(path)


def test_a_killed_builder_leaves_the_way_free(path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_build_and_hang, args=(path, ready))
    process.start()
    assert ready.wait(20)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    partial = path.with_name(path.name + ".index.partial")
    assert partial.exists()
    partial.write_bytes(b"half a cache, longer than a whole one" * 1000)
    assert CocoAnnotations.load(path).labels.tolist() == [1, 2, 2, 1]
    assert open_cache(index_of(path))
    assert not partial.exists()


def test_a_builder_that_is_stuck_is_not_waited_for_beyond_the_limit(path, monkeypatch, cache_home):
    monkeypatch.setattr(annotation_cache, "WAIT_SECONDS", 0.1)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_build_and_hang, args=(path, ready))
    process.start()
    assert ready.wait(20)
    try:
        assert CocoAnnotations.load(path).labels.tolist() == [1, 2, 2, 1]
    finally:
        process.kill()
        process.join()
    assert len(list(cache_home.iterdir())) == 1


def test_a_pickle_holds_paths_only_and_opens_the_cache_again(path, content, monkeypatch):
    content["images"] += [{"id": 100 + i, "file_name": f"{i}.jpg", "width": 9, "height": 9} for i in range(5000)]
    loaded = CocoAnnotations.load(write(path, content))
    parsed = builds(monkeypatch)
    pickled = pickle.dumps(loaded)
    assert len(pickled) < 1000
    again = pickle.loads(pickled)
    assert_same(again, loaded)
    assert again.path == loaded.path == path
    assert not parsed


def test_a_pickle_opens_in_a_fresh_interpreter(path, tmp_path):
    (tmp_path / "pickle").write_bytes(pickle.dumps(CocoAnnotations.load(path)))
    program = "import pickle, sys; a = pickle.load(open(sys.argv[1], 'rb')); print(len(a), a.file_name(2), a.path)"
    command = [sys.executable, "-c", program, str(tmp_path / "pickle")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["3", "c.jpg", str(path)]


def test_a_pickle_whose_cache_is_gone_builds_it_again(path):
    loaded = CocoAnnotations.load(path)
    pickled = pickle.dumps(loaded)
    index_of(path).unlink()
    assert_same(pickle.loads(pickled), loaded)
    assert index_of(path).exists()


def test_a_pickle_of_a_json_that_changed_is_an_error_not_other_data(path, content):
    pickled = pickle.dumps(CocoAnnotations.load(path))
    content["images"].pop(2)
    CocoAnnotations.load(write(path, content))
    with pytest.raises(AnnotationError, match="has changed since it was loaded"):
        pickle.loads(pickled)


def test_relative_paths_survive_a_change_of_directory(path, monkeypatch, tmp_path):
    monkeypatch.chdir(path.parent)
    loaded = CocoAnnotations.load(path.name)
    pickled = pickle.dumps(loaded)
    monkeypatch.chdir(tmp_path)
    assert_same(pickle.loads(pickled), loaded)
    assert loaded.path == path


def test_a_normal_start_says_nothing(path, caplog):
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CocoAnnotations.load(path)
        CocoAnnotations.load(path)
    assert not caplog.records
