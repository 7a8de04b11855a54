"""One record of a run in its logs: killed, cut off, resumed from an earlier step, started over."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from checkpoints.files import CheckpointError
from tests.training.test_resuming import run
from training.csv_log import CSVLog, table_directory
from training.dllogger import DLLogger
from training.event_files import PATTERN
from training.log_place import LogPlace

CLOCKS = ("time", "train/epoch_seconds", "train/images_per_second", "train/data_wait")
TABLE, EVENTS = "logs/csv/version_0/metrics.csv", "logs/tensorboard"


def rows(path):
    """What was logged, row by row, without what clocks gave."""
    with open(path, newline="") as file:
        table = list(csv.DictReader(file))
    assert all(None not in row and None not in row.values() for row in table), "a half row"
    return [{key: value for key, value in row.items() if value and key not in CLOCKS} for row in table]


def scalars(directory):
    """(tag, step) -> values in TensorBoard, but for `epoch`, which Lightning writes with each; of clocks, how many."""
    events = EventAccumulator(str(directory), purge_orphaned_data=False, size_guidance={"scalars": 0}).Reload()
    found = {}
    for tag in set(events.Tags()["scalars"]) - {"epoch"}:
        for event in events.Scalars(tag):
            found.setdefault((tag, event.step), []).append(tag in CLOCKS or event.value)
    for tag in events.Tags()["images"]:
        for event in events.Images(tag):
            found.setdefault((tag, event.step), []).append(event.encoded_image_string)
    return found


def half_written(run_dir):
    """What a kill in the middle of a line and of a record leaves."""
    with open(run_dir / TABLE, "a") as file:
        file.write("1,,0.2")
    with open(max((run_dir / EVENTS).glob(PATTERN)), "ab") as file:
        file.write(b"\x20\0\0\0\0\0\0\0\1\2\3\4half")


@pytest.fixture
def killed(straight, tmp_path):
    """A run whose logs are beyond the checkpoint that it is resumed from, and end in the middle of a record."""
    shutil.copytree(straight, tmp_path / "run")
    half_written(tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "checkpoint",
    ["kept_2_step", "kept_3_validation", "epoch000"]
    + [pytest.param(kept, marks=pytest.mark.slow) for kept in ("kept_1_step", "kept_3_step", "kept_6_validation")],
)
def test_a_killed_and_resumed_run_has_the_record_of_one_that_was_not(small, straight, killed, checkpoint):
    run(small, killed, "--ckpt_path", str(killed / "checkpoints" / f"{checkpoint}.ckpt"))
    assert [path.relative_to(killed) for path in killed.rglob("metrics*")] == [Path(TABLE)]
    assert rows(killed / TABLE) == rows(straight / TABLE)
    found, expected = scalars(killed / EVENTS), scalars(straight / EVENTS)
    assert {key for key, values in found.items() if len(values) > 1} == set(), "logged twice"
    assert found == expected


def test_a_resume_that_is_refused_changes_no_log_and_leaves_no_configuration(small, killed):
    before = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    more = ["--data.allow_other_samples", "false", "--seed", "5"]
    with pytest.raises(CheckpointError):
        run(small, killed, "--ckpt_path", str(killed / "checkpoints" / "kept_2_step.ckpt"), *more)
    after = {path: path.read_bytes() for path in killed.rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if path in before} == before
    assert {path.name for path in after.keys() - before.keys() if not path.name.startswith("events")} == set()


def test_a_run_that_starts_over_sets_the_earlier_record_aside(small, tmp_path):
    quick = ("--max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "0")
    for _ in range(2):
        run(small, tmp_path / "run", *quick, "--trainer.enable_checkpointing", "false")
    tables = sorted(path.name for path in (tmp_path / "run").rglob("metrics*"))
    assert tables == ["metrics.csv", "metrics_1.csv"]
    directory = (tmp_path / "run" / TABLE).parent
    assert rows(directory / "metrics.csv") == rows(directory / "metrics_1.csv")
    assert set(map(len, scalars(tmp_path / "run" / EVENTS).values())) == {1}
    assert set(map(len, scalars(tmp_path / "run" / EVENTS / "earlier_1").values())) == {1}


def test_a_new_column_that_cannot_be_written_leaves_the_table(tmp_path, monkeypatch):
    log = CSVLog(tmp_path)
    log.log_metrics({"a": 1.0}, 0)
    before = log.path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("coco.whole_files.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        log.log_metrics({"b": 1.0}, 1)
    assert log.path.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_columns_come_as_they_are_logged(tmp_path):
    log = CSVLog(tmp_path)
    log.log_metrics({"a": 1.5}, 0)
    log.log_metrics({"b": 2}, 1)
    CSVLog(tmp_path).log_metrics({"a": 3}, 2)  # of another process
    assert rows(log.path) == [{"a": "1.5", "step": "0"}, {"b": "2", "step": "1"}, {"a": "3", "step": "2"}]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_table_cut_off_anywhere_in_its_last_row_keeps_the_others(tmp_path, cut):
    log = CSVLog(tmp_path)
    for step in range(3):
        log.log_metrics({"loss": 0.5}, step)
    log.path.write_bytes(log.path.read_bytes()[:-cut])
    log = CSVLog(tmp_path)
    log.go_on(LogPlace(9, 0))
    log.log_metrics({"loss": 0.25}, 9)
    assert [row["step"] for row in rows(log.path)] == ["0", "1", "9"]


def test_a_run_from_before_there_was_one_table_goes_on_with_its_last(tmp_path):
    assert table_directory(tmp_path).name == "version_0"
    for number in (0, 9, 10):
        (tmp_path / f"version_{number}").mkdir()
    assert table_directory(tmp_path).name == "version_10"


def lines(path):
    return [json.loads(line.removeprefix("DLLL ")) for line in path.read_text().splitlines()]


def test_the_recipes_log_goes_on_without_what_is_logged_again(tmp_path):
    path = tmp_path / "log.json"
    first = DLLogger(path)
    first.log_hyperparams({"seed": 1})
    for step in range(6):
        first.log_metrics({"train/loss_step": float(step), "epoch": step // 3}, step)
        if step % 3 == 2:
            first.log_metrics({"val/mAP": 0.5, "epoch": step // 3}, step)
            first.log_metrics({"train/epoch_seconds": 2.0, "epoch": step // 3}, step)
    first.finalize("failed")
    with open(path, "a") as file:
        file.write('DLLL {"timestamp": "17')
    again = DLLogger(path)
    again.append = True
    again.log_hyperparams({"seed": 1})
    again.go_on(LogPlace(4, 1))
    for step in (4, 5):
        again.log_metrics({"train/loss_step": float(step), "epoch": 1}, step)
    again.log_metrics({"val/mAP": 0.5, "epoch": 1}, 5)
    again.log_metrics({"train/epoch_seconds": 1.0, "epoch": 1}, 5)
    again.finalize("success")
    records = [record for record in lines(path) if record["type"] == "LOG" and record["step"] != "PARAMETER"]
    assert [record["step"] for record in records] == [
        *([0, 0], [0, 1], [0, 2], [0], [0]),
        *([1, 3], [1, 4], [1, 5], [1], [1]),
        *([], []),
    ]
    assert records[-2]["data"] == {"total time": 3.0}
