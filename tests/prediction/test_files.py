import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from prediction.detector import Detections
from prediction.files import ResultFiles, find_inputs


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Makes empty files below a directory that is then the current one."""
    monkeypatch.chdir(tmp_path)

    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def found(patterns, output="out"):
    return [(str(each.path), each.drawn) for each in find_inputs(patterns, Path(output))]


def test_a_folder_gives_its_pictures_at_any_depth_and_keeps_its_structure(folder):
    folder("in/b.JPG", "in/a/c.png", "in/notes.txt", "in/clip.mp4", "in/.thumbs/b.jpg", "in/._b.jpg")
    assert found(["in"]) == [("in/a/c.png", "a/c.png"), ("in/b.JPG", "b.JPG")]


def test_globs_reach_pictures_videos_and_folders_and_keep_the_structure_below_their_fixed_part(folder):
    folder("in/a/1.jpg", "in/b/1.jpg", "in/b/clip.avi", "in/b/notes.txt")
    below = [("in/a/1.jpg", "a/1.jpg"), ("in/b/1.jpg", "b/1.jpg")]
    assert found(["in/*/1.jpg"]) == below == found(["in/*"])
    assert found(["in/**/*"])[-1] == ("in/b/clip.avi", "b/clip.mp4")
    assert found(["in/b/1*.jpg"]) == [("in/b/1.jpg", "1.jpg")]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(folder):
    folder("a[1].jpg", "a1.jpg")
    assert found(["a[1].jpg"]) == [("a[1].jpg", "a[1].jpg")]


def test_drawn_files_that_would_meet_are_numbered(folder):
    folder("a/x.jpg", "b/x.jpg", "c/X.JPG", "a/x_2.jpg", "a/y.bmp", "a/y.png")
    names = dict(found(["a/x.jpg", "b/x.jpg", "c/X.JPG", "a/x_2.jpg", "a/y.bmp", "a/y.png"]))
    assert len({name.lower() for name in names.values()}) == 6
    assert names["a/x.jpg"] == "x.jpg" and names["a/y.bmp"] == "y.png" and names["a/y.png"] == "y_2.png"


def test_a_file_named_twice_is_predicted_once(folder):
    folder("in/a.jpg")
    assert found(["in/a.jpg", "in", "in/*.jpg", "./in/a.jpg"]) == [("in/a.jpg", "a.jpg")]


def test_earlier_results_below_the_folder_are_no_inputs(folder):
    folder("in/a.jpg", "in/out/a.jpg")
    assert found(["in"], "in/out") == found(["in/**/*.jpg"], "in/out") == [("in/a.jpg", "a.jpg")]


@pytest.mark.parametrize("inputs", [["in"], ["in/a.jpg"], ["link.jpg"]])
def test_inputs_are_never_overwritten(folder, inputs):
    folder("in/a.jpg")
    os.symlink("in/a.jpg", "link.jpg")
    os.symlink("in", "alias")
    with pytest.raises(MisconfigurationException, match="would be overwritten"):
        found([*inputs, "in/a.jpg"], "alias")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("none.jpg", "no such file"), ("*.jpg", "no picture or video file matches"), ("in", "no picture in this folder")],
)
def test_what_matches_nothing_is_an_error_that_names_it(folder, pattern, message):
    folder("in/notes.txt", "good.png")
    with pytest.raises(MisconfigurationException, match=message) as error:
        found(["good.png", pattern])
    assert str(error.value).startswith(pattern)


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
