"""The directory of a run: its number is one process's, and so is the work in it."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from checkpoints.files import CheckpointError
from command_line.fit import train
from command_line.shared import SettingsError
from tests.conftest import PROJECT
from training import run_directory
from training.run_directory import claim_run_directory, held

HOLD = """
import os, sys, time
from pathlib import Path
from training.run_directory import held
with held(Path(sys.argv[1])):
    if sys.argv[2] == "fork" and os.fork() == 0:
        time.sleep(3)  # as a worker that has not noticed yet
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Starts a process that holds the run directory `tmp_path / "run"`."""
    children = []

    def start(how: str = "") -> subprocess.Popen:
        command = [sys.executable, "-c", HOLD, str(tmp_path / "run"), how]
        child = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
        children.append(child)
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        return child

    yield start
    for child in children:
        child.kill()
        child.wait()


def test_processes_that_start_at_the_same_moment_get_a_directory_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SSD_RUN_DIR", raising=False)
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: claim_run_directory(None, resumes=False), range(16)))
    assert sorted(path.name for path in claimed) == [f"{number:04d}" for number in range(1, 17)]


def test_a_start_beside_a_living_run_is_refused_and_names_the_process(tmp_path, holder):
    living = holder()
    with (
        pytest.raises(CheckpointError, match=rf"process {living.pid} on .*, since 20.* works in it"),
        held(tmp_path / "run"),
    ):
        pass


def test_any_death_releases_the_directory_also_while_a_worker_lingers(tmp_path, holder):
    living = holder("fork")
    living.kill()
    living.wait()
    with held(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / run_directory.HOLDER).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run" / run_directory.HOLDER).exists()


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "RANK", "SLURM_PROCID", "NODE_RANK"])
def test_further_processes_of_a_run_belong_to_it(tmp_path, holder, monkeypatch, variable):
    holder()
    monkeypatch.setenv(variable, "1")
    with held(tmp_path / "run"):
        pass


def test_a_start_that_is_refused_leaves_no_directory(sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SSD_RUN_DIR", raising=False)
    (tmp_path / "runs").mkdir()
    wrong = ("--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_top_k", "-2")
    with pytest.raises(SettingsError, match="save_top_k"):
        train(["--accelerator", "cpu", "--data_root", str(sample), "--num_workers", "0", *wrong])
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_trial_leaves_nothing(sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(
        [
            *("--accelerator", "cpu", "--data_root", str(sample), "--batch_size", "4", "--num_workers", "0"),
            *("--model.backbone", "thin", "--trainer.fast_dev_run", "1", "--run_dir", str(tmp_path / "run")),
        ]
    )
    assert list(tmp_path.iterdir()) == []
