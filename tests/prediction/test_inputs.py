import os
from pathlib import Path

import pytest
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from prediction.inputs import find_inputs


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
    return [(str(each.path), each.drawn) for each in find_inputs(patterns, Path(output)).inputs]


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
