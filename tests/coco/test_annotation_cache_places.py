"""Where the cache lies: beside the json, else in the user's cache directory, else in memory; never half written."""

import errno
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from coco.annotations import CocoAnnotations
from tests.coco.conftest import assert_same, builds, error_of, index_of, write


def refuse_to_write_in(folders, monkeypatch, code=errno.EROFS):
    """As a read-only file system does (tests may run as root, whom permissions do not stop)."""
    opening, making = os.open, os.mkdir

    def refuse(name):
        if any(Path(name).is_relative_to(folder) for folder in folders):
            raise OSError(code, os.strerror(code), str(name))

    def refusing_to_open(name, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR):
            refuse(name)
        return opening(name, flags, *args, **kwargs)

    def refusing_to_make(name, *args, **kwargs):
        if not os.path.exists(name):
            refuse(name)
        return making(name, *args, **kwargs)

    monkeypatch.setattr(os, "open", refusing_to_open)
    monkeypatch.setattr(os, "mkdir", refusing_to_make)


def test_a_read_only_data_directory_moves_the_cache_to_the_users_cache_directory(path, monkeypatch, cache_home):
    parsed = builds(monkeypatch)
    refuse_to_write_in([path.parent], monkeypatch)
    assert_same(CocoAnnotations.load(path), CocoAnnotations.load(path))
    assert len(parsed) == 1
    assert [file.name for file in path.parent.iterdir()] == ["instances.json"]
    [cached] = cache_home.iterdir()
    assert re.fullmatch(r"instances-[0-9a-f]{16}\.index", cached.name)


def test_an_outdated_cache_in_a_read_only_data_directory_is_left_and_the_users_is_read(path, content, monkeypatch):
    CocoAnnotations.load(path)
    content["categories"][0]["name"] = "cow"
    write(path, content, seconds_old=30)
    parsed = builds(monkeypatch)
    refuse_to_write_in([path.parent], monkeypatch)
    for _ in range(2):
        assert CocoAnnotations.load(path).class_names == ("cat", "cow")
    assert len(parsed) == 1


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

    def full(file, array, **options):
        file.write(b"the beginning of an array")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "save", full)
    assert len(CocoAnnotations.load(path)) == 3
    assert len(parsed) == 1
    assert [file.name for file in path.parent.iterdir()] == ["instances.json"]
    assert "No space left on device" in caplog.text


def test_a_full_disk_leaves_the_cache_before_and_nothing_of_the_new_one(path, content, monkeypatch):
    CocoAnnotations.load(path)
    before = sorted(index_of(path).rglob("*"))
    monkeypatch.setattr(np, "save", lambda *args, **options: os.mkdir("/dev/null/full"))
    content["categories"][0]["name"] = "cow"
    assert CocoAnnotations.load(write(path, content, seconds_old=30)).class_names == ("cat", "cow")
    assert sorted(index_of(path).rglob("*")) == before


def test_a_wrong_json_leaves_nothing_behind(path):
    error_of(path, "[]")
    assert [file.name for file in path.parent.iterdir()] == ["instances.json"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_in_place_of_the_lock_is_not_followed(path, tmp_path, exists):
    target = tmp_path / "target"
    if exists:
        target.write_text("precious")
    path.with_name(path.name + ".index.lock").symlink_to(target)
    assert len(CocoAnnotations.load(path)) == 3
    assert target.read_text() == "precious" if exists else not target.exists()
