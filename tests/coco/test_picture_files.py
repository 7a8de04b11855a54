"""Telling other pictures under the same names."""

import shutil

import pytest
from PIL import Image

from coco import picture_files
from coco.annotations import CocoAnnotations
from coco.picture_files import pictures_digest


@pytest.fixture
def pictures(data):
    """Annotations and directory of pictures that a test may change."""
    return CocoAnnotations.load(data / "annotations" / "instances_train2017.json"), data / "train2017"


def test_the_digest_tells_a_changed_a_cut_off_and_a_missing_picture(pictures):
    annotations, directory = pictures
    found = {pictures_digest(annotations, directory)}
    path = directory / annotations.file_name(3)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # as many bytes as before
    found.add(pictures_digest(annotations, directory))
    path.write_bytes(content[:-1])
    found.add(pictures_digest(annotations, directory))
    path.unlink()
    found.add(pictures_digest(annotations, directory))
    assert len(found) == 4


def test_the_digest_is_that_of_any_copy(pictures, tmp_path):
    annotations, directory = pictures
    copied = shutil.copytree(directory, tmp_path / "copy", copy_function=shutil.copyfile)  # with times of its own
    assert pictures_digest(annotations, copied) == pictures_digest(annotations, directory)


def test_of_many_pictures_a_part_is_read_and_of_more_the_size(pictures, monkeypatch):
    annotations, directory = pictures
    monkeypatch.setattr(picture_files, "READ", 1)
    monkeypatch.setattr(picture_files, "MEASURED", 24)
    before = pictures_digest(annotations, directory)
    for path in directory.iterdir():
        Image.new("RGB", (8, 8)).save(path)
    changed = pictures_digest(annotations, directory)
    assert changed != before
    contents = {path: path.read_bytes() for path in directory.iterdir()}
    seen = 0
    for path, content in contents.items():
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        seen += pictures_digest(annotations, directory) != changed
        path.write_bytes(content)
    assert seen == 1, "of one picture the bytes"
