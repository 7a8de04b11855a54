"""Training, resuming and evaluating end to end, at a small size."""

import csv
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from checkpoints.files import CheckpointError
from coco.splits import DataError
from command_line.evaluate import evaluate
from command_line.fit import main, train
from command_line.shared import run
from datamodule import COCODataModule
from evaluation.metric import NUMBERS
from ssd_module import load_module
from tests.conftest import PROJECT
from tests.training.test_older_runs import StopInStepFour
from training.csv_log import CSVLog
from training.last_checkpoint import Preempted
from training.losses import NonFiniteLossError


def arguments(data, run_dir, *more):
    return [
        *("--accelerator", "cpu", "--data_root", str(data), "--run_dir", str(run_dir)),
        *("--batch_size", "4", "--num_workers", "0", "--model.backbone", "thin", "--model.warmup_steps", "3"),
        *("--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "2"),
        *more,
    ]


@pytest.fixture(scope="module")
def trained(sample, tmp_path_factory):
    """A run of two epochs of 5 steps."""
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    trainer = train(arguments(sample, run_dir, "--max_epochs", "2", "--keep_epochs", "true"))
    return run_dir, trainer


def test_a_run_leaves_config_checkpoints_and_logs(trained):
    run_dir, trainer = trained
    names = {path.name for path in (run_dir / "checkpoints").iterdir()}
    assert names == {"best.ckpt", "last.ckpt", "epoch000.ckpt", "epoch001.ckpt"}
    assert (run_dir / "config.yaml").is_file()
    assert list((run_dir / "logs" / "tensorboard").glob("events*"))
    with open(next((run_dir / "logs" / "csv").rglob("metrics.csv"))) as file:
        rows = list(csv.DictReader(file))
    for column in (
        "train/loss_step",
        "train/localisation",
        "train/confidence",
        "train/images_per_second",
        "train/learning_rate",
        "val/mAP_50",
        "val/loss",
    ):
        assert any(row[column] for row in rows), column
    assert set(NUMBERS) <= {key.removeprefix("val/") for key in trainer.callback_metrics}
    card = (run_dir / "model_card.md").read_text()
    assert (
        f"| mAP | {float(trainer.callback_metrics['mAP']):.4f} |" in card and "finished; 2 epochs of 2, 10 opt" in card
    )
    digest = hashlib.sha256((run_dir / "checkpoints" / "best.ckpt").read_bytes()).hexdigest()
    assert f"`checkpoints/best.ckpt`: SHA-256 `{digest}`" in card, "wherever the run is moved"


def test_tensorboard_shows_AP_per_class_and_pictures_of_every_epoch(trained):
    events = EventAccumulator(str(trained[0] / "logs" / "tensorboard")).Reload()
    tags = set(events.Tags()["scalars"])
    assert {"class_AP/disc", "class_AP/cross", "val/mAP"} <= tags
    assert not tags & {"mAP", "hp_metric"} and [tag for tag in tags if "lr" in tag or "rate" in tag] == [
        "train/learning_rate"
    ]
    assert [event.step for event in events.Scalars("class_AP/disc")] == [5, 10], "not in the sanity check"
    pictures = [tag for tag in events.Tags()["images"] if tag != "train/batch"]
    assert len(pictures) == 4 and [event.step for event in events.Images(pictures[0])] == [5, 10]
    assert events.Images(pictures[0])[0].width <= 400
    assert [event.step for event in events.Images("train/batch")] == [0]
    assert (trained[0] / "pictures" / "train_batch.png").is_file()


def test_checkpoints_are_plain_data_with_their_classes(trained):
    checkpoint = torch.load(trained[0] / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["class_names"] == ["disc", "square", "triangle", "cross"]
    assert checkpoint["hyper_parameters"]["category_ids"] == [2, 3, 7, 40]
    assert checkpoint["global_step"] == 10


def test_last_goes_on_where_the_run_stopped(trained, sample, tmp_path):
    run_dir, _ = trained
    first = train(arguments(sample, tmp_path / "run", "--max_epochs", "1"))
    assert first.global_step == 5
    second = train(arguments(sample, tmp_path / "run", "--max_epochs", "2", "--ckpt_path", "last"))
    assert second.global_step == 10 and second.current_epoch == 2
    ours, straight = (
        torch.load(d / "checkpoints" / "last.ckpt", weights_only=True) for d in (tmp_path / "run", run_dir)
    )
    assert ours["lr_schedulers"] == straight["lr_schedulers"]
    for key, value in straight["state_dict"].items():
        torch.testing.assert_close(ours["state_dict"][key], value, rtol=1e-4, atol=1e-5)
    momenta = ([s["momentum_buffer"] for s in c["optimizer_states"][0]["state"].values()] for c in (ours, straight))
    for a, b in zip(*momenta, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    assert (tmp_path / "run" / "config_1.yaml").is_file()


def test_the_card_of_a_stopped_run_says_so_until_it_is_resumed(sample, tmp_path):
    flags = ["--max_epochs", "1", "--trainer.limit_val_batches", "0", "--trainer.logger", "false"]
    with pytest.raises(Preempted):
        train(arguments(sample, tmp_path / "run", *flags), [StopInStepFour()])
    card = tmp_path / "run" / "model_card.md"
    assert "stopped before its end" in card.read_text()
    train(arguments(sample, tmp_path / "run", *flags, "--ckpt_path", "last"))
    assert "Training: finished; 1 epochs of 1, 5 optimiser steps." in card.read_text()


def test_evaluate_prints_the_numbers_of_the_checkpoint(trained, sample, tmp_path, capsys):
    run_dir, trainer = trained
    numbers = evaluate(
        [
            *("--ckpt_path", str(run_dir / "checkpoints" / "last.ckpt"), "--data_root", str(sample)),
            *("--accelerator", "cpu", "--num_workers", "0", "--batch_size", "3", "--json", str(tmp_path / "out.json")),
            *("--pictures", str(tmp_path / "pictures")),
        ]
    )
    assert numbers == pytest.approx(
        {name: float(trainer.callback_metrics[f"val/{name}"]) for name in NUMBERS}, abs=1e-4
    )
    assert json.loads((tmp_path / "out.json").read_text()) == numbers
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 10
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*NUMBERS, "triangle"))


def test_a_report_of_the_first_images_at_another_score_threshold_says_so(trained, sample, tmp_path, capsys):
    checkpoint = str(trained[0] / "checkpoints" / "last.ckpt")
    common = ["--ckpt_path", checkpoint, "--data_root", str(sample), "--accelerator", "cpu", "--num_workers", "0"]
    report = tmp_path / "report"
    numbers = evaluate([*common, "--report", str(report), "--limit", "5", "--score_threshold", "0.02"])
    assert "Evaluated the first 5 of 10 images, by image id, at score_threshold 0.02" in capsys.readouterr().out
    whole = json.loads((report / "report.json").read_text())
    assert (whole["images"], whole["images_in_split"], whole["score_threshold"]) == (5, 10, 0.02)
    assert whole["numbers"] == numbers and whole["ckpt_path"] == checkpoint
    ids = {result["image_id"] for result in json.loads((report / "detections.json").read_text())}
    first = COCODataModule(str(sample)).val_annotations.image_ids[:5]
    assert ids <= set(first.tolist())
    folded = evaluate([*common, "--limit", "99", "--fold_batch_norm", "true"])
    assert folded == pytest.approx(evaluate(common), abs=1e-3)
    assert "Evaluated all 10 images, at score_threshold 0.05" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--limit", "0"], "--limit 0: expected a number of images, at least 1"),
        (["--score_threshold", "1.5"], "--score_threshold 1.5: expected a score"),
        (["--report", __file__], "--report .*test_fit.py: expected a directory"),
        (["--json", "."], "--json .: expected a file"),
    ],
)
def test_a_bad_flag_of_evaluate_is_named_before_anything_is_loaded(sample, flags, message):
    with pytest.raises((MisconfigurationException, DataError), match=message):
        evaluate(["--ckpt_path", "gone.ckpt", "--data_root", str(sample), "--accelerator", "cpu", *flags])


def test_validate_and_predict_work_from_python(trained, sample):
    module = load_module(trained[0] / "checkpoints" / "last.ckpt")
    module.hparams.score_threshold = 0.01
    data = COCODataModule(str(sample), batch_size=4, num_workers=0)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    assert "val/mAP" in trainer.validate(module, data, verbose=False)[0]
    predictions = [image for batch in trainer.predict(module, data) for image in batch]
    assert sorted(p["image_id"] for p in predictions) == sorted(data.val_annotations.image_ids.tolist())


def test_cores_that_other_work_has_are_told_of_with_the_threads_that_are_left(monkeypatch):
    from command_line import fit

    monkeypatch.setattr(fit, "usable_cores", lambda: 4)
    for load, threads, left in ((2.1, 4, "OMP_NUM_THREADS=2"), (9.0, 4, "OMP_NUM_THREADS=1")):
        monkeypatch.setattr(fit, "busy_cores", lambda load=load: load)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert left in fit._shared_cores("cpu")
        assert fit._shared_cores("cuda") is None
    for load, threads in ((0.3, 4), (None, 4), (2.0, 2), (3.0, 1)):
        monkeypatch.setattr(fit, "busy_cores", lambda load=load: load)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert fit._shared_cores("cpu") is None


KNOWN = "--trainer.callbacks+=tests.thin.Known"  # to a process of its own


def run_script(*command, timeout=300):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=timeout
    )


def test_two_processes_train_and_validate_with_the_mAP_of_one(sample, tmp_path):
    run_dir = tmp_path / "run"
    done = run_script("train.py", *arguments(sample, run_dir, "--devices", "2", "--max_epochs", "1", KNOWN))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "best checkpoint" in done.stdout
    common = [
        *("--ckpt_path", str(run_dir / "checkpoints" / "last.ckpt"), "--data_root", str(sample)),
        *("--num_workers", "0", "--accelerator", "cpu", "--batch_size", "4"),
    ]
    one = evaluate([*common, "--json", str(tmp_path / "one.json")])
    to_files = ["--json", str(tmp_path / "two.json"), "--report", str(tmp_path / "report")]
    two = run_script("evaluate.py", *common, "--devices", "2", *to_files, KNOWN)
    assert two.returncode == 0, two.stderr[-3000:]
    assert two.stdout.count("Evaluated all 10 images") == 1, "the first process reports, on the images of both"
    assert json.loads((tmp_path / "report" / "report.json").read_text())["numbers"] == one
    assert json.loads((tmp_path / "two.json").read_text()) == one
    checkpoint = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2, "24 images less the empty ones, in steps of 2 x 4"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--data_root", "/nowhere"], "no data set at /nowhere"),
        (["--ckpt_path", "gone.ckpt"], "--ckpt_path gone.ckpt: no such file"),
        (["--accelerator", "cuda"], "cuda|CUDA|GPU"),
        (["--model.backbone", "vgg16"], "--model.backbone vgg16: expected one of resnet18"),
        (["--batch_size", "999"], "do not fill one step of 1 device(s) x batch 999"),
        (["--batch_size", "0"], "--data.batch_size 0: expected a whole number, at least 1"),
        (["--ckpt_path", "README.md"], "README.md: refused"),
    ],
)
def test_what_a_user_can_mend_is_one_message_without_a_traceback(sample, tmp_path, args, message):
    if "cuda" in args and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    told = refusal(arguments(sample, tmp_path / "run", *args))
    assert told.strip().splitlines()[-1] and any(part in told for part in message.split("|"))


def refusal(args):
    """The message that train.py ends with: Python writes such a text to stderr, and exits with 1."""
    with pytest.raises(SystemExit) as stop:
        run(lambda: main(args))
    assert isinstance(stop.value.code, str)
    return stop.value.code


def test_the_process_of_a_refused_run_ends_with_one_message_and_code_1(sample, tmp_path):
    done = run_script("train.py", *arguments(sample, tmp_path / "run", "--ckpt_path", "gone.ckpt", KNOWN))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: --ckpt_path gone.ckpt: no such file")


def test_a_loss_that_is_not_finite_stops_with_step_parts_and_images(sample, tmp_path):
    with pytest.raises(NonFiniteLossError, match=r"step \d+: loss (nan|inf).*localisation.*confidence.*image ids \d+"):
        train(arguments(sample, tmp_path / "run", "--max_epochs", "3", "--model.learning_rate", "1e30"))
    for path in (tmp_path / "run" / "checkpoints").glob("*.ckpt"):
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in state.values() if value.is_floating_point()), path


def break_pictures(sample, tmp_path, count):
    """A copy of the sample data set whose first trained-on pictures are broken, each in another way; their names."""
    data = shutil.copytree(sample, tmp_path / "data")
    annotations = COCODataModule(str(data)).train_annotations
    names = [annotations.file_name(int(index)) for index in annotations.trainable[:count]]
    for number, name in enumerate(names):
        path = data / "train2017" / name
        path.write_bytes((b"", b"text named .jpg", path.read_bytes()[:2000], b"\xff\xd8\xff")[number % 4])
    return data, names


def test_damaged_pictures_are_named_replaced_and_counted_across_a_resume(sample, tmp_path):
    data, names = break_pictures(sample, tmp_path, 3)
    flags = ["--data.damaged_limit", "0.2", "--trainer.limit_val_batches", "0"]
    with pytest.warns(UserWarning, match="Training uses another image in its place"):
        first = train(arguments(data, tmp_path / "run", "--max_epochs", "1", *flags))
    found = first.datamodule.damaged_images
    assert first.global_step == 5 and set() < set(found) <= set(names)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resumed = train(arguments(data, tmp_path / "run", "--max_epochs", "2", "--ckpt_path", "last", *flags))
    reported = [str(warning.message) for warning in caught if "in its place" in str(warning.message)]
    assert not [message for message in reported if any(name in message for name in found)], "each is reported once"
    assert list(resumed.datamodule.damaged_images)[: len(found)] == list(found)


def test_more_damaged_pictures_than_the_limit_stop_training_with_one_message(sample, tmp_path):
    data, names = break_pictures(sample, tmp_path, 3)
    told = refusal(arguments(data, tmp_path / "run", "--max_epochs", "2", "--num_workers", "1"))
    assert "training images are damaged, more than --data.damaged_limit 0.01 allows" in told
    assert any(name in told.split("allows:")[1] for name in names)


def test_requirements_are_those_of_pyproject():
    tomllib = pytest.importorskip("tomllib", reason="in Python from 3.11 on")

    declared = tomllib.loads(Path(PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    listed = [line for line in (PROJECT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert listed == declared


def test_real_coco_pictures_train_and_evaluate_with_their_80_category_ids(shared_data, tmp_path):
    data = shared_data("coco_cc_mini")  # a grey picture and one without boxes are among them
    trainer = train([*arguments(data, tmp_path / "run", "--max_epochs", "1"), "--batch_size", "5"])
    module = trainer.lightning_module
    assert module.hparams.num_classes == 80 and module.category_ids[-1] == 90
    assert len(trainer.datamodule.train_annotations.trainable) == 13, "one of the 14 has no boxes"
    numbers = evaluate(
        [
            *("--ckpt_path", str(tmp_path / "run" / "checkpoints" / "last.ckpt"), "--data_root", str(data)),
            *("--accelerator", "cpu", "--num_workers", "0"),
        ]
    )
    assert 0 <= numbers["mAP"] < 1
    assert sorted(module.metric.evaluated_ids) == trainer.datamodule.val_annotations.image_ids.tolist()


def test_a_disk_that_is_full_for_the_logs_is_one_message_that_says_what_there_is(sample, tmp_path, monkeypatch):
    def full(self, metrics, step=None):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(CSVLog, "log_metrics", full)
    with pytest.raises(CheckpointError, match=r"No space left on device for the logs\. Make room, and start again"):
        train(arguments(sample, tmp_path / "run"))
    with pytest.raises(CheckpointError, match=r"for the logs\. The last checkpoint is whole: make room, resume"):
        train(arguments(sample, tmp_path / "other", "--save_every_n_steps", "1"))
