"""The cache beside a json: never stale, replaced as a whole, its arrays mapped rather than read."""

import logging
import os
import warnings

import numpy as np
import pytest

from coco import annotation_cache
from coco.annotations import CocoAnnotations
from tests.coco.conftest import arrays_of, assert_same, builds, index_of, set_age, write


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


def test_an_older_versions_cache_of_one_file_gives_way_to_a_directory(path, monkeypatch):
    index_of(path).write_bytes(b"COCOFLAT" + bytes(1000))
    parsed = builds(monkeypatch)
    assert_same(CocoAnnotations.load(path), CocoAnnotations.load(path))
    assert len(parsed) == 1
    assert index_of(path).is_dir()


def test_the_arrays_are_pages_of_the_files_and_not_copies(path):
    for loaded in (CocoAnnotations.load(path), CocoAnnotations.load(path)):
        for array in (loaded.image_ids, loaded.bboxes, loaded.labels, loaded._training_boxes, loaded._letters):
            assert isinstance(array.base, np.memmap)


def test_a_cache_that_was_replaced_stays_readable_where_it_is_mapped_and_is_gone_from_the_disk(path, content):
    before, folder = CocoAnnotations.load(path), arrays_of(path)
    content["annotations"][0]["bbox"] = [1, 2, 3, 4]
    after = CocoAnnotations.load(write(path, content, seconds_old=30))
    assert (before.bboxes[2].tolist(), after.bboxes[2].tolist()) == ([10, 5, 20.5, 10], [1, 2, 3, 4])
    assert arrays_of(path) != folder


@pytest.mark.parametrize("opened", [0, 5, len(annotation_cache.ARRAYS) - 1])
def test_a_cache_replaced_while_it_is_opened_is_never_mixed_with_the_one_before(path, content, monkeypatch, opened):
    CocoAnnotations.load(path)
    content["images"] += [{"id": 5, "file_name": "d.jpg", "width": 9, "height": 9}]
    mapped, calls = annotation_cache._mapped, []

    def replaced_meanwhile(file):
        calls.append(file)
        if len(calls) == opened + 1:
            CocoAnnotations.load(write(path, content, seconds_old=30))
        return mapped(file)

    monkeypatch.setattr(annotation_cache, "_mapped", replaced_meanwhile)
    loaded = CocoAnnotations.load(path)
    assert len(loaded) == 4
    assert_same(loaded, CocoAnnotations.load(path, cache=False))


def test_a_normal_start_says_nothing(path, caplog):
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CocoAnnotations.load(path)
        CocoAnnotations.load(path)
    # filelock's debugging lines, that it takes and gives back a lock, are shown to nobody who did not ask for them
    assert not [record for record in caplog.records if record.name != "filelock" or record.levelno > logging.DEBUG]
