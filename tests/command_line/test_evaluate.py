"""evaluate.py's choices: other annotations, classes, slices, thresholds, and detections of any detector."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from coco.annotations import AnnotationError
from coco.splits import DataError
from command_line.evaluate import evaluate
from ssd_module import load_module
from tests.conftest import PROJECT
from tests.training.test_resuming import run

NAMES = ("disc", "square", "triangle", "cross")


@pytest.fixture(scope="module")
def common(random_detector, sample):
    flags = ["--ckpt_path", str(random_detector), "--data_root", str(sample), "--accelerator", "cpu"]
    return [*flags, "--num_workers", "0", "--batch_size", "5", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def whole(common, tmp_path_factory):
    """Numbers, and directory of the report."""
    report = tmp_path_factory.mktemp("evaluated") / "report"
    return evaluate([*common, "--report", str(report)]), report


@pytest.fixture
def day(sample, tmp_path):
    images = json.loads((sample / "annotations" / "instances_val2017.json").read_text())["images"]
    (tmp_path / "day.txt").write_text(f"{images[0]['file_name']}\n{images[4]['id']}\n")
    return tmp_path / "day.txt"


def test_a_file_of_detections_gives_the_numbers_and_the_report_of_the_checkpoint(whole, sample, tmp_path, capsys):
    numbers, report = whole
    results = ["--detections", str(report / "detections.json"), "--data_root", str(sample)]
    found = evaluate([*results, "--report", str(tmp_path / "again"), "--json", str(tmp_path / "numbers.json")])
    assert found == pytest.approx(numbers, abs=1e-9)
    assert json.loads((tmp_path / "numbers.json").read_text()) == found
    ours, theirs = (json.loads((path / "report.json").read_text()) for path in (report, tmp_path / "again"))
    for key in ("classes", "confusion", "tide", "sizes", "worst_images", "missed", "invented"):
        assert ours[key] == theirs[key]
    assert "Evaluated all 10 images, at score_threshold 0" in capsys.readouterr().out
    annotations = str(sample / "annotations" / "instances_val2017.json")
    alone = evaluate([*results[:2], "--annotations", annotations, "--report", str(tmp_path / "alone")])
    assert alone == found, "the pictures are not needed"
    assert json.loads((tmp_path / "alone" / "report.json").read_text())["worst_images"] == []
    evaluate(
        [*results[:2], "--annotations", annotations, f"--images={sample / 'val2017'}", "--report", str(tmp_path / "b")]
    )
    assert json.loads((tmp_path / "b" / "report.json").read_text())["worst_images"] == ours["worst_images"]


def test_classes_slices_and_thresholds_are_told_and_reported(common, whole, day, tmp_path, capsys):
    report = tmp_path / "report"
    choice = ["--classes", "cross", "3", "--slices", str(day), "--operating_point", "precision=0.01"]
    numbers = evaluate([*common, *choice, "--report", str(report)])
    printed, facts = capsys.readouterr().out, json.loads((report / "report.json").read_text())
    rows = {row["name"]: row["AP"] for row in json.loads((whole[1] / "report.json").read_text())["classes"]}
    assert numbers["mAP"] == pytest.approx((rows["cross"] + rows["square"]) / 2)
    assert facts["numbers"] == numbers and {row["name"] for row in facts["classes"]} == {"cross", "square"}
    assert facts["slices"][0]["name"] == "day" and facts["slices"][0]["images"] == 2
    assert "\nday " in printed and "Score thresholds by precision=0.01" in printed and "triangle" not in printed
    assert facts["operating_points"][0]["rule"] == "precision=0.01"
    assert evaluate([*common, "--class_agnostic", "true"]) != whole[0]
    assert "object" in capsys.readouterr().out


def test_saved_thresholds_are_the_reports_and_change_no_number_and_no_weight(
    common, whole, random_detector, tmp_path, capsys
):
    path = shutil.copy(random_detector, tmp_path / "own.ckpt")
    numbers, report = whole
    own = ["--ckpt_path", str(path), *common[2:]]
    evaluate([*own, "--save_thresholds", "true", "--fold_batch_norm", "true"])  # which moves scores by rounding
    assert f"saved in {path}: score thresholds by f1" in capsys.readouterr().out, "best F1 by default"
    point, facts = load_module(path).operating_point, json.loads((report / "report.json").read_text())
    best = facts["operating_points"][0]
    expected = {row["name"]: (row["point"] or best["together"])["threshold"] for row in best["classes"]}
    assert dict(zip(NAMES, point.thresholds, strict=True)) == pytest.approx(expected, abs=1e-4)
    before, after = (torch.load(each, weights_only=True)["state_dict"] for each in (random_detector, path))
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    with pytest.raises(MisconfigurationException, match="precision=1: no threshold gives that, so none was saved"):
        evaluate([*own, "--operating_point", "precision=1", "--save_thresholds", "true", "--json", str(tmp_path / "n")])
    assert json.loads((tmp_path / "n").read_text()) == numbers, "evaluation does not use them"
    assert load_module(path).operating_point == point


def test_another_annotation_file_and_its_pictures_are_evaluated(common, sample, tmp_path, monkeypatch):
    shutil.copytree(sample / "val2017", tmp_path / "photos")
    truth = json.loads((sample / "annotations" / "instances_val2017.json").read_text())
    truth["images"] = truth["images"][:4]
    ids = {image["id"] for image in truth["images"]}
    truth["annotations"] = [each for each in truth["annotations"] if each["image_id"] in ids]
    (tmp_path / "night.json").write_text(json.dumps(truth))
    monkeypatch.chdir(tmp_path)
    rest = [flag for flag in common if flag not in ("--data_root", str(sample))]
    other = evaluate([*rest, "--annotations", "night.json", "--images=photos"])
    assert other == evaluate([*common, "--limit", "4"])


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (["--classes", "crosses"], MisconfigurationException, "--classes crosses: .* disc"),
        (["--slices", "gone.txt"], AnnotationError, "gone.txt: cannot be read"),
        (
            ["--operating_point", "best"],
            MisconfigurationException,
            "--operating_point 'best': expected f1",
        ),
        (["--annotations", "gone.json"], DataError, "looked for .*gone.json"),
        (["--report", __file__], MisconfigurationException, "--report .* expected a directory"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_with_and_without_a_checkpoint(
    common, whole, sample, flags, error, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for form in (common, ["--detections", str(whole[1] / "detections.json"), "--data_root", str(sample)]):
        with pytest.raises(error, match=message):
            evaluate([*form, *flags])


def test_what_only_a_checkpoint_can_take_is_refused(common, whole, day, tmp_path):
    with pytest.raises(MisconfigurationException, match=r"first that of id .* which --limit evaluates"):
        evaluate([*common, "--slices", str(day), "--limit", "3"])
    with pytest.raises(MisconfigurationException, match="--save_thresholds: a checkpoint takes thresholds of all"):
        evaluate([*common, "--save_thresholds", "true", "--classes", "disc"])
    results = ["--detections", str(whole[1] / "detections.json")]
    with pytest.raises(SystemExit):
        evaluate([*results, "--save_thresholds", "true"])
    with pytest.raises(DataError, match="--images gone: no such directory"):
        evaluate([*results, *common[2:4], "--images", "gone"])
    (tmp_path / "results.json").write_text('[{"image_id": 1}]')
    with pytest.raises(AnnotationError, match=r"results\.json: no COCO results"):
        evaluate(["--detections", str(tmp_path / "results.json"), *common[2:4]])


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(common, day, tmp_path):
    choice = ["--classes", "cross", "disc", "--slices", str(day), "--report", str(tmp_path / "report")]
    choice += ["--data.tiles", "300"]
    alone = evaluate([*common, *choice])
    before = json.loads((tmp_path / "report" / "report.json").read_text())
    command = [sys.executable, "evaluate.py", *common, *choice, "--devices", "2", "--json", str(tmp_path / "numbers")]
    subprocess.run(command, check=True, cwd=PROJECT, timeout=300)
    assert json.loads((tmp_path / "numbers").read_text()) == pytest.approx(alone, abs=1e-6)
    after = json.loads((tmp_path / "report" / "report.json").read_text())
    assert [each["images"] for each in after["slices"]] == [each["images"] for each in before["slices"]]


def test_a_checkpoint_is_evaluated_on_the_classes_and_images_that_its_run_chose(sample, tmp_path, caplog, capsys):
    """Trained without a validation part in the data set."""
    data = shutil.copytree(sample, tmp_path / "data")
    shutil.rmtree(data / "val2017")
    (data / "annotations" / "instances_val2017.json").unlink()
    choice = ("--data.classes", "disc,angular", "--data.merge_classes", "angular=square+triangle")
    choice += ("--data.tiles", "200", "--trainer.limit_train_batches", "2")
    trainer = run(data, tmp_path / "run", *choice, "--data.val_share", "0.25", "--max_epochs", "1")
    assert (
        "validation: 6 of the 24 training images (--data.val_share 0.25, --data.val_seed 0)" in capsys.readouterr().err
    )
    evaluated = sorted(trainer.lightning_module.metric.evaluated_ids)
    assert trainer.lightning_module.class_names == ("disc", "angular") and len(evaluated) == 6
    checkpoint = tmp_path / "run/checkpoints/last.ckpt"
    flags = ["--ckpt_path", str(checkpoint), "--data_root", str(data), "--accelerator", "cpu", "--num_workers", "0"]
    with caplog.at_level("INFO"):
        numbers = evaluate([*flags, "--report", str(tmp_path / "report")])
    assert "as the checkpoint's run chose: classes ['disc', 'angular'], merge_classes" in caplog.text
    assert "tiles 200, tile_overlap 0.2" in caplog.text
    assert numbers["mAP"] == pytest.approx(float(trainer.callback_metrics["mAP"]), abs=1e-6)
    assert json.loads((tmp_path / "report/report.json").read_text())["images"] == 6
    caplog.clear()
    with caplog.at_level("INFO"):
        evaluate([*flags, "--data.tiles", "0"])
    assert "val_share 0.25" in caplog.text and "tiles" not in caplog.text
    ours = ["--annotations", str(sample / "annotations/instances_val2017.json"), "--images", str(sample / "val2017")]
    evaluate([*flags, *ours, "--report", str(tmp_path / "given")])
    assert json.loads((tmp_path / "given/report.json").read_text())["images"] == 10, "other images: all of them"
    with pytest.raises(DataError, match=r"the checkpoint's classes \(2\) are not those of"):
        evaluate([*flags, "--data.single_class", "true", "--data.val_share", "0.25"])
