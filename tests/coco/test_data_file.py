"""A data set's own yaml as --data_root: the same data set in every command, and strict."""

import inspect
import json
import shutil

import pytest
import torch
import yaml

from coco import check
from coco.data_file import CHOICES, PLACES, splits_of
from coco.splits import DataError
from command_line.compare import main as compare
from command_line.evaluate import evaluate
from command_line.export import main as export
from command_line.shared import with_selection_of
from datamodule import COCODataModule

CONTENT = {
    "root": "../data",
    "train": {"images": "pictures/t", "annotations": "labels/t.json"},
    "val": {"images": "pictures/v", "annotations": "labels/v.json"},
}


@pytest.fixture
def renamed(sample, tmp_path):
    """The sample with names and folders of its own, its yaml elsewhere; a function that writes the yaml."""
    for split, short in (("train", "t"), ("val", "v")):
        (tmp_path / "data/labels").mkdir(parents=True, exist_ok=True)
        shutil.copytree(sample / f"{split}2017", tmp_path / "data/pictures" / short)
        shutil.copy(sample / f"annotations/instances_{split}2017.json", tmp_path / f"data/labels/{short}.json")
    (tmp_path / "about").mkdir()

    def write(**more):
        path = tmp_path / "about/my.yaml"
        path.write_text(yaml.safe_dump({**CONTENT, **more}, sort_keys=False))
        return path

    return write


def test_it_says_where_the_parts_are_and_what_to_take(renamed, sample, monkeypatch, tmp_path):
    path = renamed(names={2: "round"}, merge_classes={"angular": ["square", "triangle"]}, classes=["round", "angular"])
    monkeypatch.chdir(tmp_path / "about")  # as relative paths are given
    data = COCODataModule("my.yaml", num_workers=0, batch_size=4)
    data.check()
    assert data.class_names == ("round", "angular") and data.category_ids == (2, 3)
    assert len(data.train_annotations) == 24 and len(data.val_annotations) == 10
    assert data.val_directory.samefile("../data/pictures/v")
    monkeypatch.chdir("/")
    assert next(iter(data.train_dataloader()))["images"].shape == (4, 3, 300, 300)
    flags = COCODataModule(str(path), classes="cross", val_images=str(sample / "val2017"))
    assert flags.class_names == ("cross",) and flags.val_directory == sample / "val2017", "flags go before it"
    json.dumps(data.samples_from())  # plain, as a checkpoint keeps it


def test_a_part_of_the_training_data_for_validation_unless_other_data_are_named(renamed, sample, tmp_path):
    whole = CONTENT.pop("val")
    try:
        path = renamed(val_share=0.25)
    finally:
        CONTENT["val"] = whole
    assert len(COCODataModule(str(path)).val_annotations) == 6
    other = {"data_root": str(path), "val_annotations": str(sample / "annotations/instances_val2017.json")}
    assert len(COCODataModule(**other).val_annotations) == 10
    assert with_selection_of(tmp_path / "no.ckpt", other) == other


def test_every_command_takes_it(renamed, thin_detector, sample, tmp_path):
    path = str(renamed())
    assert check.main([path, "--fast", "--output", str(tmp_path / "check.png")]) == 0
    flags = ["--ckpt_path", str(thin_detector), "--accelerator", "cpu", "--num_workers", "0", "--data_root", path]
    numbers = evaluate([*flags, "--report", str(tmp_path / "r")])
    results = str(tmp_path / "r/detections.json")
    for root in (path, str(sample)):
        assert evaluate(["--detections", results, "--data_root", root]) == pytest.approx(numbers, abs=1e-9)
    compare([results, results, "--data_root", path, "--resamples", "100"])
    to_file = ["--format", "torch_export", "--output", str(tmp_path / "m.pt2"), "--limit", "2"]
    with pytest.raises(DataError, match="no key is called 'kind'"):
        export(["--ckpt_path", str(thin_detector), *to_file, "--data_root", str(renamed(kind="x"))])


def test_what_the_file_leaves_open_a_checkpoint_says(renamed, tmp_path):
    saved = {"classes": ["round"], "names": {"2": "round"}, "val_share": 0.25, "merge": {}}
    torch.save({"COCODataModule": {"selection": saved}}, tmp_path / "a.ckpt")
    data = {"data_root": str(renamed(names={2: "circle"})), "classes": None}
    assert with_selection_of(tmp_path / "a.ckpt", data) == {**data, "classes": ["round"]}, "it has a validation part"
    assert with_selection_of(tmp_path / "a.ckpt", {"data_root": "x"})["names"] == {"2": "round"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clases: [disc]", "no key is called 'clases'; did you mean classes?"),
        ("train: {image: x}", "train: no key is called 'image'; did you mean images?"),
        ("train: {images: [x]}", r"train: expected {images: DIR, annotations: FILE}, found {'images': \['x'\]}"),
        ("classes: [yes, disc]", r"classes: expected \[NAME, ...\], names in quotes .*, found \[True, 'disc'\]"),
        ("classes:", "classes: expected .*, found None"),
        ("names: {disc: circle}", "names: expected {CATEGORY_ID: NAME"),
        ("merge_classes: {a: b}", r"merge_classes: expected {NEW: \[OLD, OLD\]"),
        ("val_share: 20", "val_share: expected a share above 0 and below 1, found 20"),
        ("val_share: 0.2\nval: {images: x}", "has val and val_share"),
        ("root: a\nroot: b", "cannot be read: 'root' is there twice"),
        ("root: &a x\ntrain: {images: *a}", "cannot be read: an alias"),
        ("- disc", "expected keys and values"),
        ("root: [", "cannot be read: "),
        (
            "train: images/train\nval: images/val\nnames: [a]",
            r"kind yolo.*\n    python -m coco.convert .*/my.yaml .*_coco",
        ),
        (None, "cannot be read: No such file"),
    ],
)
def test_what_is_wrong_in_it_is_said_with_its_name(text, message, tmp_path):
    path = tmp_path / "my.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=rf"(?s)my\.yaml: .*{message}"):
        splits_of({"data_root": path})


def test_the_settings_and_defaults_are_those_of_training(renamed):
    """In `coco.check` and in the file, which say them again."""
    parameters = inspect.signature(COCODataModule).parameters
    args = vars(check._parser().parse_args(["DIR"]))
    for name, default in {**PLACES, **CHOICES}.items():
        assert default == parameters[name].default == args.get(name, default)
