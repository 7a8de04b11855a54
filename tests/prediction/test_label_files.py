"""Labels of other tools come back as the boxes that were found, by the project's own reader of them."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import ExifTags, Image

from coco.foreign.formats import read
from prediction.detector import Detections
from prediction.files import ResultFiles

NAMES = ("dog", "c: 'd'", "猫 #1")


def found(size, *rows):
    """rows: (label, box)."""
    labels = np.array([label for label, _ in rows], np.int64)
    boxes = np.array([box for _, box in rows], np.float32).reshape(-1, 4)
    names, ids = tuple(NAMES[label - 1] for label in labels), tuple(int(label) * 3 for label in labels)
    return Detections(boxes, np.full(len(rows), 0.5, np.float32), labels, names, ids, size)


@pytest.fixture
def pictures(tmp_path):
    """A plain picture, one that EXIF turns to 30 x 40, one of a rare format, each with what was found in it."""
    places = [tmp_path / "in" / name for name in ("plain.jpg", "turned.jpg", "rare.webp")]
    places[0].parent.mkdir()
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    for place, exif in zip(places, (Image.Exif(), turned, Image.Exif()), strict=True):
        Image.new("RGB", (40, 30), (200, 0, 0)).save(place, exif=exif)
    return [
        (places[0], found((40, 30), (1, (1, 2, 11, 22)), (2, (30, 20, 50, 31)), (3, (41, 5, 60, 9)))),
        (places[1], found((30, 40), (3, (0, 30, 30, 40)))),
        (places[2], found((40, 30))),
    ]


@pytest.mark.parametrize("kind", ["yolo", "voc"])
def test_labels_are_read_back_as_what_was_found(pictures, tmp_path, kind):
    with ResultFiles(tmp_path / "out", NAMES, (3, 6, 9), [kind]) as files:
        for path, each in pictures:
            files.add(path.as_posix(), each, stem=path.stem)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {kind}
    (part,), names = read(tmp_path / "out" / kind, kind)
    assert set(names) <= {*NAMES}
    boxes = {}
    for (path, width, height), own in zip(part.images, part.boxes, strict=True):
        with Image.open(path) as picture:
            assert picture.size == (width, height) and picture.getexif().get(ExifTags.Base.Orientation, 1) == 1
        boxes[path.stem] = [(name, pytest.approx(box, abs=0.01)) for name, *box, _ in own]
    assert boxes["plain"] == [("dog", [1, 2, 10, 20]), ("c: 'd'", [30, 20, 10, 10])], "cut at the border"
    assert boxes["turned"] == [("猫 #1", [0, 30, 30, 10])] and boxes["rare"] == []


def test_class_names_of_any_characters_leave_the_xml_well_formed(tmp_path):
    names = ("a\x00\x1b\ufffe\ud800]]>", "</name>")
    Image.new("RGB", (40, 30)).save(tmp_path / "x.png")
    detections = Detections(
        np.array([[1, 1, 9, 9]] * 2, np.float32), np.ones(2, np.float32), np.array([1, 2]), names, (1, 2), (40, 30)
    )
    with ResultFiles(tmp_path / "out", names, (1, 2), ["voc", "yolo", "jsonl"]) as files:
        files.add(str(tmp_path / "x.png"), detections, stem="x")
    root = ElementTree.parse(tmp_path / "out" / "voc" / "Annotations" / "x.xml").getroot()
    assert [each.findtext("name") for each in root.iter("object")] == ["a\\x00\\x1b\\ufffe\\ud800]]>", "</name>"]
    assert (tmp_path / "out" / "yolo" / "data.yaml").read_text().count("\n") >= 3


def test_a_picture_of_which_nothing_was_found_has_its_files_too(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "x.jpg")
    with ResultFiles(tmp_path / "out", NAMES, (3, 6, 9), ["yolo", "voc", "jsonl"]) as files:
        files.add(str(tmp_path / "x.jpg"), found((40, 30)), stem="x")
    assert (tmp_path / "out" / "yolo" / "labels" / "x.txt").read_text() == ""
    assert ElementTree.parse(tmp_path / "out" / "voc" / "Annotations" / "x.xml").find("object") is None
    line = json.loads((tmp_path / "out" / "detections.jsonl").read_text())
    assert line == {"file": str(tmp_path / "x.jpg"), "width": 40, "height": 30, "detections": []}
