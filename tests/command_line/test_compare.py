"""`ssd300 compare`: what may stand for A and B, what comes out, and what is refused."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from checkpoints.files import CheckpointError
from coco.splits import DataError
from command_line.compare import main
from command_line.evaluate import evaluate

QUICK = ("--resamples", "100", "--num_workers", "0", "--accelerator", "cpu")


@pytest.fixture(scope="module")
def report(sample, random_detector, tmp_path_factory):
    directory = tmp_path_factory.mktemp("report") / "report"
    args = ["--ckpt_path", str(random_detector), "--data_root", str(sample), "--report", str(directory), "--limit", "6"]
    evaluate([*args, "--accelerator", "cpu", "--num_workers", "0", "--trainer.enable_progress_bar", "false"])
    return directory


@pytest.fixture
def results(sample, tmp_path):
    """COCO results: the first half of the validation objects, exactly."""
    truth = json.loads((sample / "annotations" / "instances_val2017.json").read_text())
    found = [{**{k: a[k] for k in ("image_id", "category_id", "bbox")}, "score": 0.9} for a in truth["annotations"]]
    (tmp_path / "half.json").write_text(json.dumps(found[: len(found) // 2]))
    (tmp_path / "all.json").write_text(json.dumps(found))
    return tmp_path


def compared(capsys, *args):
    main([*map(str, args), *QUICK])
    return capsys.readouterr().out


def test_a_checkpoint_and_its_report_are_the_same(report, random_detector, sample, capsys):
    out = compared(capsys, random_detector, report, "--data_root", sample)
    assert "\n6 of 10 images" in out, "those of the report, in both"
    numbers = json.loads((report / "report.json").read_text())["numbers"]
    assert f"A and B have the same mAP, {numbers['mAP']:.3f}, over 6 images" in out.splitlines()[-1]


def test_result_files_are_compared_and_the_images_that_changed_drawn_side_by_side(results, sample, capsys):
    output = results / "out"
    out = compared(capsys, results / "half.json", results / "all.json", "--data_root", sample, "--output", output)
    assert out.splitlines()[-1].startswith("B is better by 0.")
    assert out.splitlines()[-2].startswith("This is about these two detectors: trained with another seed")
    whole = json.loads((output / "comparison.json").read_text())
    assert whole["sentence"] == out.splitlines()[-1] and whole["images"] == 10
    mean = whole["numbers"][0]
    assert mean["name"] == "mAP" and mean["b"] == pytest.approx(1) and mean["beyond_noise"]
    assert mean["difference"] == pytest.approx(mean["b"] - mean["a"])
    rows = list(csv.DictReader((output / "classes.csv").read_text().splitlines()))
    assert [row["category_id"] for row in rows] == ["2", "3", "7", "40"]
    changed = whole["changed_images"]
    assert changed[0]["mistakes_a"] > changed[0]["mistakes_b"] == 0
    with Image.open(output / "changed" / changed[0]["picture"]) as picture:
        pixels = np.asarray(picture)
    middle = pixels.shape[1] // 2
    assert (pixels[:, middle] == 255).all(), "a gap between A and B"
    assert (pixels[:, :middle] != pixels[:, -middle:]).any()
    # A comparison without changes leaves no picture of the earlier one.
    compared(capsys, results / "all.json", results / "all.json", "--data_root", sample, "--output", output)
    assert not list((output / "changed").glob("*.png"))


def test_two_result_files_need_no_pictures_and_pictures_may_lie_elsewhere(results, sample, capsys):
    files, annotations = (
        (results / "half.json", results / "all.json"),
        sample / "annotations" / "instances_val2017.json",
    )
    assert "B is better by" in compared(capsys, *files, "--annotations", annotations)
    with pytest.raises(
        MisconfigurationException, match="--data_root DIR is missing, or --annotations FILE and --images"
    ):
        main([*map(str, files), "--annotations", str(annotations), "--output", str(results / "out"), *QUICK])
    (results / "elsewhere").symlink_to(sample / "val2017")
    options = ("--annotations", annotations, "--images", results / "elsewhere", "--output", results / "out")
    assert "images that changed most" in compared(capsys, *files, *options)


@pytest.mark.parametrize(
    ("a", "options", "error", "message"),
    [
        ("none.ckpt", (), MisconfigurationException, "A: .*none.ckpt is not there"),
        (
            "",
            (),
            MisconfigurationException,
            "a directory without report.json and detections.json. Expected a checkpoint",
        ),
        ("words.txt", (), CheckpointError, "words.txt"),
        ("all.json", ("--resamples", "10"), MisconfigurationException, "--resamples 10: expected at least 100"),
        ("all.json", ("--limit", "0"), MisconfigurationException, "--limit 0: expected a number of images"),
        ("all.json", ("--output", "all.json"), MisconfigurationException, "expected a directory, but this is a file"),
        ("all.json", ("--devices", "2"), MisconfigurationException, "compare runs on one device"),
    ],
)
def test_what_cannot_be_compared_is_refused_by_name(
    results, sample, random_detector, monkeypatch, a, options, error, message
):
    monkeypatch.chdir(results)
    (results / "words.txt").write_text("no checkpoint")
    b = random_detector if "--devices" in options else results / "all.json"
    with pytest.raises(error, match=message):
        main([str(results / a), str(b), "--data_root", str(sample), *QUICK, *options])


def test_a_report_of_other_data_is_refused(report, sample, tmp_path):
    content = json.loads((report / "report.json").read_text())
    for change, message in (
        ({"images_in_split": 99}, "is of 99 images and 4 classes, but .* has 10 and 4"),
        ({"classes": content["classes"][:2]}, "is of 10 images and 2 classes"),
    ):
        (tmp_path / "report.json").write_text(json.dumps({**content, **change}))
        (tmp_path / "detections.json").write_text("[]")
        with pytest.raises(DataError, match=message):
            main([str(tmp_path), str(report), "--data_root", str(sample), *QUICK])
