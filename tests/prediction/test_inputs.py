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


def test_what_is_left_out_of_a_folder_is_counted_by_kind(folder):
    folder("in/a.jpg", "in/b.jfif", "in/notes.txt", "in/clip.mp4", "in/.thumbs/b.jpg", "in/._b.jpg", "else/d.jpg")
    os.symlink("nowhere", "in/broken.jpg")
    os.symlink("../else", "in/linked")
    os.symlink("..", "in/up")
    os.mkfifo("in/pipe.jpg")
    found_there = find_inputs(["in"], Path("out"))
    assert [each.path.name for each in found_there.inputs] == ["a.jpg", "b.jfif"]
    assert found_there.left_out == {
        "hidden": 2,
        "broken links": 1,
        "linked folders, unless named": 2,
        "no regular files": 1,
        "of other kinds": 1,
        "videos, unless named or by a glob": 1,
    }


def test_a_glob_follows_links_to_folders_and_takes_each_file_once(folder):
    folder("in/a.jpg", "else/d.jpg", "in/notes.txt")
    os.symlink("../else", "in/linked")
    os.symlink(".", "in/loop")
    os.symlink("nowhere", "in/broken.jpg")
    assert found(["in/**/*.jpg"]) == [("in/a.jpg", "a.jpg"), ("in/linked/d.jpg", "linked/d.jpg")]
    assert find_inputs(["in/*"], Path("out")).left_out["of other kinds"] >= 1
    assert find_inputs(["in/*.jpg"], Path("out")).left_out == {"broken links": 1}


def test_a_folder_that_cannot_be_read_is_told_and_the_rest_is_found(folder, monkeypatch):
    folder("in/a.jpg", "in/locked/b.jpg")
    real = os.listdir

    def listdir(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    found_there = find_inputs(["in"], Path("out"))
    assert [each.drawn for each in found_there.inputs] == ["a.jpg"]
    assert found_there.unreadable == {Path("in/locked"): "in/locked: cannot be read (Permission denied)"}
    with pytest.raises(MisconfigurationException, match="in/locked: cannot be read"):
        find_inputs(["in/locked"], Path("out"))


@pytest.mark.parametrize("letter", ["a", "图", "é"])
def test_drawn_names_fit_a_file_system_and_stay_apart(folder, letter):
    long = letter * (251 // len(letter.encode()))
    names = [f"in/{long}.gif", f"in/{long}.bmp", f"in/{long}.ts"]
    folder(*names)
    drawn = [name for _, name in found(names)]
    assert len(set(drawn)) == 3
    for name in drawn:
        assert len(name.encode()) <= 255
        Path(name).touch()


def test_names_of_any_bytes_are_found(folder):
    folder("in/" + os.fsdecode(b"caf\xe9.jpg"), "in/zoo.jpg")
    assert [name for _, name in found(["in"])] == [os.fsdecode(b"caf\xe9.jpg"), "zoo.jpg"]


def test_names_that_a_file_system_may_take_for_one_stay_apart(folder):
    folder("a/e\u0301.jpg", "b/é.jpg", "c/É.JPG")
    names = [name for _, name in found(["a/e\u0301.jpg", "b/é.jpg", "c/É.JPG"])]
    assert names == ["e\u0301.jpg", "é_2.jpg", "É_2.JPG"] or names == ["e\u0301.jpg", "é_2.jpg", "É_3.JPG"]


def test_a_drawn_file_takes_no_name_of_a_folder_or_a_table(folder):
    folder("in/x.jpg/y.jpg", "other/x.jpg", "in/detections.json/z.jpg")
    drawn = dict(found(["in", "other/x.jpg"]))
    assert drawn["other/x.jpg"] == "x_2.jpg" and drawn["in/x.jpg/y.jpg"] == "x.jpg/y.jpg"
    assert drawn["in/detections.json/z.jpg"] == "detections.json_/z.jpg"


def test_drawn_names_stay_below_the_output_directory(folder):
    folder("in/a/b/x.jpg", "in/x.jpg")
    assert found(["in/*/../../in/x.jpg"]) == [("in/a/../../in/x.jpg", "a/in/x.jpg")]


@pytest.mark.parametrize("input_", ["in/a.jpg", "out/images.json"])
def test_an_input_is_not_overwritten_under_another_of_its_names(folder, input_):
    folder("in/a.jpg", "out/images.json")
    os.link("in/a.jpg", "out/a.jpg")
    with pytest.raises(MisconfigurationException, match=f"{input_} is an input and would be overwritten"):
        found([input_])


def test_a_link_out_of_the_output_directory_is_refused_and_one_within_it_is_not(folder):
    folder("in/sub/a.jpg", "out/real/x", "else/x")
    os.symlink("real", "out/sub")
    assert found(["in"]) == [("in/sub/a.jpg", "sub/a.jpg")]
    os.unlink("out/sub")
    os.symlink("../else", "out/sub")
    with pytest.raises(MisconfigurationException, match=r"out/sub is a link to .*else, out of that directory"):
        found(["in"])
