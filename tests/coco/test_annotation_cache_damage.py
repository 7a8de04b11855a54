"""A damaged cache, or one that somebody made up, is built again; nothing in it is run or waited for."""

import contextlib
import io
import os
import shutil

import msgspec
import numpy as np
import pytest

from coco.annotation_cache import META, BrokenCache, Meta, checksum, open_cache
from coco.annotations import AnnotationError, CocoAnnotations
from tests.coco.conftest import arrays_of, assert_same, index_of


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def headed(text):
    """The beginning of a `.npy` file whose description of type and shape is `text`."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def of_shape(rows):
    return headed(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({rows}, 4)}}") + bytes(128)


def zipped():
    file = io.BytesIO()
    np.savez(file, np.zeros(3))
    return file.getvalue()


def assert_one_cache(path):
    """A whole one, and nothing left of those before."""
    assert open_cache(index_of(path))
    assert {entry.name for entry in index_of(path).iterdir()} == {META, arrays_of(path).name}


def assert_rebuilt(path, caplog, expected, reason):
    """The next load says once why it builds the cache again, the one after it nothing."""
    assert_same(CocoAnnotations.load(path), expected)
    [record] = caplog.records
    assert reason in record.getMessage()
    assert "building it again" in record.getMessage()
    assert_one_cache(path)
    caplog.clear()
    CocoAnnotations.load(path)
    assert not caplog.records


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "cannot be read"),
        (lambda data: data[:50], "cannot be read"),
        (lambda data: data[:-1], "cannot be read"),
        (lambda data: data + b"\0", "cannot be read"),
        (lambda data: b"X" + data[1:], "cannot be read"),
        (lambda data: b"[" * 100_000, "cannot be read"),
        (lambda data: data.replace(b'"version":3', b'"version":2'), "has format version 2"),
        (lambda data: data.replace(b'"dog"', b'"dob"'), "has a damaged meta.json"),
        (lambda data: data.replace(b"[3,7]", b"[3,8]"), "has a damaged meta.json"),
    ],
)
def test_a_cache_with_a_broken_meta_file_is_rebuilt_with_one_line_saying_so(path, caplog, damage, reason):
    expected = CocoAnnotations.load(path)
    file = index_of(path) / META
    assert damage(file.read_bytes()) != file.read_bytes()
    file.write_bytes(damage(file.read_bytes()))
    assert_rebuilt(path, caplog, expected, reason)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "cannot be read"),
        (lambda data: data[:50], "cannot be read"),
        (lambda data: data[:-8], "cannot be read"),
        (lambda data: data + b"\0", "of another size"),
        (lambda data: b"X" + data[1:], "cannot be read"),
        (lambda data: data.replace(b"'<f8'", b"'<i8'"), "has bboxes of type int64"),
        (lambda data: data.replace(b"'<f8'", b"'>f8'"), "has bboxes of type >f8"),
        (lambda data: data.replace(b"False", b"True "), "order"),
        (lambda data: data.replace(b"(4, 4)", b"(2, 4)"), "of another size"),
        (lambda data: data.replace(b"(4, 4)", b"(2, 8)"), "shape (2, 8)"),
        (lambda data: headed("(" * 9000), "cannot be read"),
        (lambda data: of_shape(2**40), "cannot be read"),
        (lambda data: of_shape(2**59), "cannot be read"),
        (lambda data: of_shape(2**62), "cannot be read"),
        (lambda data: of_shape(2**70), "cannot be read"),
        (lambda data: of_shape(-4), "cannot be read"),
        (lambda data: npy(np.array([{}, None]), allow_pickle=True), "cannot be read"),
        (lambda data: npy(np.float64(1)), "cannot be read"),
        (lambda data: zipped(), "cannot be read"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_cache_with_a_broken_array_is_rebuilt_with_one_line_saying_so(path, caplog, damage, reason):
    expected = CocoAnnotations.load(path)
    file = arrays_of(path) / "bboxes.npy"
    damaged = damage(file.read_bytes())
    assert damaged != file.read_bytes()
    file.unlink()
    file.write_bytes(damaged)
    assert_rebuilt(path, caplog, expected, reason)


@pytest.mark.parametrize("name", ["labels", "letters", "image_ids"])
def test_a_cache_without_one_of_its_arrays_is_rebuilt(path, caplog, name):
    expected = CocoAnnotations.load(path)
    (arrays_of(path) / f"{name}.npy").unlink()
    assert_rebuilt(path, caplog, expected, f"has a {name}.npy that is not there")


def test_a_cache_without_its_folder_is_rebuilt(path, caplog):
    expected = CocoAnnotations.load(path)
    shutil.rmtree(arrays_of(path))
    assert_rebuilt(path, caplog, expected, "that is not there")


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("letters", np.zeros((), np.uint8), "cannot be read"),
        ("first", np.zeros(4), "has first of type float64"),
        ("first", np.zeros(3, np.int64), "has first of type int64 and shape (3,)"),
        ("training_boxes", np.zeros((4, 5), np.float32), "has training_boxes of type float32"),
        ("labels", np.zeros(7, np.int64), "and shape"),
    ],
)
def test_a_cache_with_an_array_of_another_kind_is_rebuilt(path, caplog, name, array, reason):
    expected = CocoAnnotations.load(path)
    file = arrays_of(path) / f"{name}.npy"
    file.unlink()
    file.write_bytes(npy(array))
    assert_rebuilt(path, caplog, expected, reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda meta: meta["class_names"].__setitem__(0, 7), "cannot be read"),
        (lambda meta: meta["category_ids"].__setitem__(0, 1.5), "cannot be read"),
        (lambda meta: meta.pop("num_dropped"), "cannot be read"),
        (lambda meta: meta.update(mtime_ns="yesterday"), "cannot be read"),
        (lambda meta: meta["class_names"].append("cow"), "has a damaged meta.json"),
        (lambda meta: meta.update(folder="../../elsewhere"), "cannot be read"),
        (lambda meta: meta.update(folder=""), "cannot be read"),
        (lambda meta: meta.update(folder="0" * 16), "that is not there"),
    ],
)
def test_a_cache_whose_meta_file_was_made_up_is_rebuilt(path, caplog, change, reason):
    expected = CocoAnnotations.load(path)
    write_meta(path, change)
    assert_rebuilt(path, caplog, expected, reason)


def write_meta(path, change):
    """Lets `change` alter what meta.json holds, and puts the right checksum in."""
    file = index_of(path) / META
    meta = msgspec.json.decode(file.read_bytes())
    change(meta)
    with contextlib.suppress(msgspec.ValidationError):
        meta["check"] = checksum(msgspec.convert(meta, Meta))
    file.unlink()
    file.write_bytes(msgspec.json.encode(meta))


@pytest.mark.parametrize("place", ["index", "meta", "folder", "array"])
@pytest.mark.parametrize("kind", ["pipe", "endless", "itself"])
def test_what_is_no_file_in_place_of_one_is_not_waited_for(path, caplog, place, kind):
    expected = CocoAnnotations.load(path)
    index, folder = index_of(path), arrays_of(path)
    place = {"index": index, "meta": index / META, "folder": folder, "array": folder / "letters.npy"}[place]
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    if kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/zero" if kind == "endless" else place.name)
    assert_same(CocoAnnotations.load(path), expected)
    assert "building it again" in caplog.text
    assert open_cache(index)


@pytest.mark.parametrize("place", ["index", "meta"])
def test_a_directory_in_place_of_the_cache_or_its_meta_file_does_not_stop_a_start(path, place):
    (index_of(path) if place == "index" else index_of(path) / META).mkdir(parents=True)
    for _ in range(2):
        assert CocoAnnotations.load(path).labels.tolist() == [1, 2, 2, 1]


def test_a_link_in_place_of_the_cache_gives_way_and_its_target_is_left_alone(path, tmp_path):
    CocoAnnotations.load(path)
    elsewhere = index_of(path).rename(tmp_path / "elsewhere")
    before = {file: file.read_bytes() for file in elsewhere.rglob("*") if file.is_file()}
    index_of(path).symlink_to(elsewhere)
    os.utime(path)  # so that its new mtime wants to be written
    assert len(CocoAnnotations.load(path)) == 3
    assert not index_of(path).is_symlink()
    assert {file: file.read_bytes() for file in elsewhere.rglob("*") if file.is_file()} == before


def test_a_link_in_place_of_the_folder_of_arrays_is_not_followed(path, tmp_path):
    CocoAnnotations.load(path)
    elsewhere = tmp_path / "elsewhere"
    folder = arrays_of(path)
    shutil.copytree(folder, elsewhere)
    shutil.rmtree(folder)
    folder.symlink_to(elsewhere)
    with pytest.raises(BrokenCache, match="link"):
        open_cache(index_of(path))
    assert len(CocoAnnotations.load(path)) == 3
    assert len(list(elsewhere.iterdir())) == 14


def test_a_link_in_place_of_the_meta_file_is_not_written_through(path, tmp_path):
    CocoAnnotations.load(path)
    target = (index_of(path) / META).rename(tmp_path / "target")
    before = target.read_bytes()
    (index_of(path) / META).symlink_to(target)
    os.utime(path)
    CocoAnnotations.load(path)
    assert target.read_bytes() == before


def test_other_files_in_the_directory_of_the_cache_are_left_alone(path, content):
    index_of(path).mkdir()
    (index_of(path) / "thesis").mkdir()
    (index_of(path) / "thesis" / "chapter1.tex").write_text("important")
    (index_of(path) / "notes.txt").write_text("important")
    assert len(CocoAnnotations.load(path)) == 3
    (index_of(path) / META).write_bytes(b"")
    assert len(CocoAnnotations.load(path)) == 3
    assert (index_of(path) / "thesis" / "chapter1.tex").read_text() == "important"
    assert (index_of(path) / "notes.txt").read_text() == "important"


def test_a_cache_that_came_with_the_data_cannot_name_a_file_outside(path):
    CocoAnnotations.load(path)
    letters = arrays_of(path) / "letters.npy"
    letters.write_bytes(letters.read_bytes().replace(b"sub/a.jpg", b"../../a.x"))
    with pytest.raises(AnnotationError, match=r"leaves the image directory\. Delete this cache"):
        CocoAnnotations.load(path).file_name(0)
    with pytest.raises(AnnotationError, match=r"leaves the image directory\. Delete this cache"):
        CocoAnnotations.load(path).file_names()
    letters.write_bytes(letters.read_bytes().replace(b"../../a.x", b"sub/\xff.jpg"))
    assert CocoAnnotations.load(path).file_name(0) == "sub/\ufffd.jpg", "no file; its absence will be reported"
