"""`python -m coco.check`: what it finds in whole and in damaged data sets."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from coco import check
from datamodule import COCODataModule
from tests.conftest import edit


def run(data, tmp_path, *flags):
    """Exit code and report."""
    code = check.main([str(data), "--output", str(tmp_path / "sheet.png"), "--json", str(tmp_path / "r.json"), *flags])
    return code, json.loads((tmp_path / "r.json").read_text())


def test_a_whole_data_set_is_fit_for_training_and_its_figures_are_right(sample, tmp_path, capsys):
    code, report = run(sample, tmp_path)
    assert code == 0 and report["usable"] and not report["problems"]
    assert capsys.readouterr().out.splitlines()[-1] == f"{sample}: fit for training, every picture opened"
    content = json.loads((sample / "annotations" / "instances_train2017.json").read_text())
    figures = report["figures"]["train"]
    assert (figures["images"], figures["boxes"]) == (24, len(content["annotations"]))
    assert figures["crowd_boxes"] == sum(a["iscrowd"] for a in content["annotations"])
    assert figures["images_without_boxes"] == 24 - len({a["image_id"] for a in content["annotations"]})
    for entry in figures["classes"]:
        of_class = [a for a in content["annotations"] if a["category_id"] == entry["id"]]
        assert (entry["boxes"], entry["images"]) == (len(of_class), len({a["image_id"] for a in of_class}))
    small = sum(a["area"] < 32**2 for a in content["annotations"])
    assert figures["areas"]["small"] == small and sum(figures["areas"].values()) == figures["boxes"]
    assert sum(entry["boxes"] for entry in figures["sides"]) == figures["boxes"]
    assert figures["unmatched"] == sum(entry["unmatched"] for entry in figures["sides"])
    assert figures["unmatched"] == sum(entry["unmatched"] for entry in figures["classes"])


def test_boxes_too_thin_for_any_default_box_are_counted_and_noted(data, tmp_path, capsys):
    def thin(content):
        for annotation in content["annotations"]:
            annotation["bbox"][3] = 2

    for split in ("train", "val"):
        edit(data / "annotations" / f"instances_{split}2017.json", thin)
    code, report = run(data, tmp_path, "--fast")
    figures = report["figures"]["train"]
    assert code == 0 and figures["unmatched"] == figures["boxes"] - figures["dropped_boxes"] > 0
    assert any("have no default box above IoU 0.5" in note for note in report["notes"])
    told = capsys.readouterr().out
    assert "nothing would stop a run, but" in told.splitlines()[-2] and "fit for training" not in told


def test_pictures_that_would_stop_training_are_named(data, tmp_path, capsys):
    train = data / "train2017"
    first, second, third, fourth, *_ = sorted(train.iterdir())
    first.unlink()
    second.write_bytes(second.read_bytes()[:900])
    third.write_text("hello")
    Image.new("RGB", (9, 8)).save(fourth)
    code, report = run(data, tmp_path)
    assert code == 1 and not report["usable"] and len(report["problems"]) == 1
    (problem,) = report["problems"]
    assert problem.startswith("train: 4 of 24 pictures cannot be used")
    reasons = ("no such image", "cannot be decoded", "not an image", "9x8 pixels, but")
    for path, reason in zip((first, second, third, fourth), reasons, strict=True):
        assert f"{path}: {reason}" in problem
    assert capsys.readouterr().out.splitlines()[-1] == f"{data}: training or evaluation would stop, 1 problem(s) above"
    code, report = run(data, tmp_path, "--fast")
    assert code == 1 and "1 of 24" in report["problems"][0], "only the missing one without opening them"


def test_equal_pictures_are_noted_within_a_split_and_across_both(data, tmp_path):
    shutil.copy(data / "train2017" / "000000000001.jpg", data / "val2017" / "000000000001.jpg")

    def same_size(content):
        train = json.loads((data / "annotations" / "instances_train2017.json").read_text())["images"][0]
        content["images"][0] |= {"width": train["width"], "height": train["height"]}
        content["images"][1] |= content["images"][2] | {"id": content["images"][1]["id"]}

    edit(data / "annotations" / "instances_val2017.json", same_size)
    code, report = run(data, tmp_path)
    assert code == 0
    notes = "\n".join(report["notes"])
    assert "1 pictures are in both splits" in notes and "val: 1 pictures are there more than once" in notes


def test_classes_that_differ_between_the_splits_are_a_problem_and_unused_ones_a_note(data, tmp_path):
    edit(data / "annotations" / "instances_val2017.json", lambda c: c["categories"][0].update(name="disk"))
    edit(
        data / "annotations" / "instances_train2017.json", lambda c: c["categories"].append({"id": 50, "name": "star"})
    )
    code, report = run(data, tmp_path, "--fast")
    assert code == 1
    assert "only in the first: 2 disc, 50 star; only in the second: 2 disk" in report["problems"][0]
    assert "train: 1 of 5 classes have no box: star" in report["notes"]


def test_every_problem_of_both_splits_is_reported_at_once(data, tmp_path):
    edit(data / "annotations" / "instances_train2017.json", lambda c: c.update(annotations=[]))
    (data / "annotations" / "instances_val2017.json").write_text("{")
    shutil.rmtree(data / "val2017")
    code, report = run(data, tmp_path, "--fast")
    problems = "\n".join(report["problems"])
    assert code == 1 and len(report["problems"]) == 3
    assert all(text in problems for text in ("broken JSON", "no such image directory", "nothing to train on"))


def test_both_splits_may_share_one_image_directory(sample, tmp_path):
    flags = ["--val_images", "train2017", "--val_annotations", "annotations/instances_train2017.json"]
    code, report = run(sample, tmp_path, *flags)
    assert code == 0 and set(report["figures"]) == {"train", "val"}
    assert "24 pictures are in both splits" in "\n".join(report["notes"])


def test_the_contact_sheet_shows_boxes_of_both_splits(sample, tmp_path):
    run(sample, tmp_path, "--fast")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[1] == 6 * 384 and sheet.shape[0] > 2 * 200
    from evaluation.drawing import class_colour

    for label in range(1, 5):
        assert (sheet == class_colour(label, 4)).all(axis=2).sum() > 1000, "boxes and names of each class"


@pytest.mark.parametrize(
    ("flag", "path", "reason"),
    [
        ("--output", "sheet.xyz", "expected a file name that ends in .png"),
        ("--output", "file/sheet.png", "cannot be written"),
        ("--json", "file/r.json", "cannot be written"),
        ("--json", "folder", "cannot be written (Is a directory)"),
        pytest.param(
            *("--json", "locked/r.json", "cannot be written (Permission denied)"),
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere"),
        ),
    ],
)
def test_what_cannot_be_written_at_the_end_is_refused_before_the_check(
    flag, path, reason, sample, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(check, "check", lambda *args: pytest.fail("checked before it was refused"))
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(SystemExit) as stop:
        check.main([str(sample), flag, path])
    assert stop.value.code == 2
    assert f"error: {flag} {path}: {reason}" in capsys.readouterr().err


def test_directories_of_the_sheet_and_the_report_are_made(sample, tmp_path):
    sheet, report = tmp_path / "a" / "b" / "sheet.jpg", tmp_path / "c" / "d" / "r.json"
    assert check.main([str(sample), "--fast", "--output", str(sheet), "--json", str(report)]) == 0
    assert Image.open(sheet).format == "JPEG" and json.loads(report.read_text())["usable"]


def test_data_that_cannot_train_or_be_evaluated_as_meant_is_never_called_fit(data, tmp_path, capsys):
    for split in ("train", "val"):
        path = data / "annotations" / f"instances_{split}2017.json"
        edit(path, lambda content: [a.update(iscrowd=1) for a in content["annotations"]])
    code, report = run(data, tmp_path, "--fast")
    assert code == 1 and not report["usable"] and len(report["problems"]) == 2
    assert all("is a crowd" in problem for problem in report["problems"])
    assert "fit for training" not in capsys.readouterr().out


def test_a_picture_whose_width_and_height_are_swapped_in_the_annotations_says_so(data, tmp_path):
    def swap(content):
        image = next(image for image in content["images"] if image["width"] != image["height"])
        image.update(width=image["height"], height=image["width"])

    edit(data / "annotations" / "instances_train2017.json", swap)
    code, report = run(data, tmp_path)
    assert code == 1 and "in the annotations (width and height swapped)" in report["problems"][0]


def test_shared_pictures_are_noted_without_opening_them_too(sample, tmp_path):
    flags = ["--val_images", "train2017", "--val_annotations", "annotations/instances_train2017.json", "--fast"]
    assert "24 pictures are in both splits" in "\n".join(run(sample, tmp_path, *flags)[1]["notes"])


def test_a_file_of_the_same_letters_and_other_bytes_is_told_apart(data, tmp_path):
    (data / "train2017" / "000000000001.jpg").rename(data / "train2017" / "cafe\u0301.jpg")
    path = data / "annotations" / "instances_train2017.json"
    edit(path, lambda content: content["images"][0].update(file_name="caf\u00e9.jpg"))
    for flags in ([], ["--fast"]):
        (problem,) = run(data, tmp_path, *flags)[1]["problems"]
        assert r"'caf\xe9.jpg' is not 'cafe\u0301.jpg' (Unicode form NFC against NFD)" in problem


def test_it_looks_at_what_a_run_would_take(sample, tmp_path, capsys):
    data = shutil.copytree(sample, tmp_path / "data")
    shutil.rmtree(data / "val2017")
    (data / "annotations/instances_val2017.json").unlink()
    output = ["--output", str(tmp_path / "check.png"), "--json", str(tmp_path / "check.json"), "--fast"]
    choice = ["--classes", "disc,angular", "--merge_classes", "angular=square+triangle", "--val_share", "0.25"]
    assert check.main([str(data), *output, *choice]) == 0
    figures = json.loads((tmp_path / "check.json").read_text())["figures"]
    assert (figures["train"]["images"], figures["val"]["images"]) == (18, 6)
    assert [row["name"] for row in figures["val"]["classes"]] == ["disc", "angular"]
    assert check.main([str(data), *output, "--val_share", "0.25", "--classes", "circle"]) == 1
    assert "--data.classes: circle: no class of" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        check.main([str(data), *output, "--val_share", "2"])


def test_pictures_stored_turned_are_noted_and_ones_annotated_upright_are_taken_so(sample, tmp_path, capsys):
    data = shutil.copytree(sample, tmp_path / "data")
    for path in (data / "train2017").iterdir():
        upright, exif = Image.open(path), Image.Exif()
        exif[0x0112] = 6
        upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=95)
    code, report = check.main([str(data), "--output", str(tmp_path / "a.png")]), capsys.readouterr().out
    assert code == 1 and "it has an EXIF orientation: --data.upright true takes it so" in report
    assert check.main([str(data), "--upright", "true", "--output", str(tmp_path / "a.png")]) == 0
    batch = next(iter(COCODataModule(str(data), upright=True, batch_size=4, num_workers=0).train_dataloader()))
    original = next(iter(COCODataModule(str(sample), batch_size=4, num_workers=0).train_dataloader()))
    assert (batch["images"].float() - original["images"].float()).abs().mean() < 8, "but for JPEG's loss"
    (data / "annotations").rename(data / "as_annotated")
    swapped = shutil.copytree(data / "as_annotated", data / "annotations") / "instances_train2017.json"
    content = json.loads(swapped.read_text())
    for image in content["images"]:
        image["width"], image["height"] = image["height"], image["width"]
    content["annotations"] = [{**content["annotations"][0], "bbox": [1, 1, 20, 20]}]
    swapped.write_text(json.dumps(content))
    assert check.main([str(data), "--output", str(tmp_path / "a.png")]) == 0
    assert "24 pictures are stored turned (EXIF orientation); their boxes are taken" in capsys.readouterr().out
