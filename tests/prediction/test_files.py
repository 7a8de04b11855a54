import csv
import json
import os

import numpy as np
import pytest
from pycocotools.coco import COCO

from prediction.detector import Detections
from prediction.files import ResultFiles


def detections(*boxes):
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.full(count, 0.5, np.float32), np.full(count, 2),
        ("a cat, large",) * count, (7,) * count, (40, 30),
    )  # fmt: skip


def test_pycocotools_reads_the_results(tmp_path):
    with ResultFiles(tmp_path, ("dog", "a cat, large"), (3, 7)) as files:
        files.add("a.jpg", detections((1, 2, 11, 22), (3, 4, 5, 6.125)), "a.jpg")
        files.add("empty.jpg", detections())
        files.add("clip.mp4", detections((0, 0, 4, 4)), "clip.mp4", frame=0)
    images = COCO(tmp_path / "images.json")
    results = images.loadRes(str(tmp_path / "detections.json"))
    assert images.loadCats(7)[0]["name"] == "a cat, large"
    assert [images.imgs[i]["file_name"] for i in sorted(images.imgs)] == ["a.jpg", "empty.jpg", "clip.mp4"]
    assert images.imgs[0]["width"] == 40 and images.imgs[2]["frame"] == 0 and "drawn" not in images.imgs[1]
    first = results.loadAnns(results.getAnnIds(imgIds=[0]))[0]
    assert first["bbox"] == [1, 2, 10, 20] and first["category_id"] == 7 and first["score"] == 0.5
    with open(tmp_path / "detections.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["frame"] for row in rows] == ["", "", "0"] and rows[0]["class"] == "a cat, large"
    assert [float(rows[1][key]) for key in ("x0", "y0", "x1", "y1")] == [3, 4, 5, pytest.approx(6.125, abs=0.006)]


def test_the_results_are_whole_files_even_where_the_run_stops_and_where_nothing_was_found(tmp_path):
    with pytest.raises(KeyboardInterrupt), ResultFiles(tmp_path, ("dog",), (3,)) as files:
        files.add("a.jpg", detections((1, 2, 11, 22)))
        raise KeyboardInterrupt
    assert len(json.loads((tmp_path / "detections.json").read_text())) == 1
    with ResultFiles(tmp_path, ("dog",), (3,)):
        pass
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert json.loads((tmp_path / "images.json").read_text())["images"] == []


def test_tables_are_not_written_through_links_and_further_names(tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("linked", "named"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "out" / "images.json").symlink_to(tmp_path / "linked")
    os.link(tmp_path / "named", tmp_path / "out" / "detections.csv")
    with ResultFiles(tmp_path / "out", ("dog",), (3,)):
        pass
    assert {(tmp_path / name).read_text() for name in ("linked", "named")} == {"mine"}
    assert json.loads((tmp_path / "out" / "images.json").read_text())["images"] == []


def test_file_names_of_any_bytes_are_in_every_table(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    with ResultFiles(tmp_path, ("dog",), (3,)) as files:
        files.add(name, detections((1, 2, 11, 22)), name)
    assert json.loads((tmp_path / "images.json").read_text())["images"][0]["file_name"] == name
    with open(tmp_path / "detections.csv", newline="", encoding="utf-8") as file:
        assert next(csv.DictReader(file))["file"] == "caf\\udce9.jpg"
