"""At home on any desktop: the commands work where nothing is that only Linux or POSIX has."""

import os
import subprocess
import sys

import pytest

from coco.cores import default_workers, usable_cores
from tests.conftest import PROJECT
from tests.portable.work import DOORS

SITE = PROJECT / "tests" / "portable"


@pytest.fixture(scope="module")
def output(sample, tmp_path_factory) -> str:
    """What tests/portable/work.py printed, with what only Linux has taken away and loaders' workers spawned."""
    directory = tmp_path_factory.mktemp("portable")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SITE), str(PROJECT)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", str(SITE / "work.py"), str(sample), str(directory)],
        cwd=directory,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]
    return done.stdout


def test_every_door_and_command_shows_its_help(output):
    assert [line for line in output.splitlines() if line.startswith("done: help of")][: len(DOORS)] == [
        f"done: help of {door}" for door in DOORS
    ]
    assert "done: help of ssd300 check" in output and "done: help of ssd300 published" in output


@pytest.mark.parametrize("what", ["training", "evaluation", "prediction"])
def test_it_is_done_with_one_spawned_worker(output, what):
    assert f"done: {what}" in output.splitlines()


def test_cores_are_those_of_this_process_or_of_the_machine(monkeypatch):
    assert 1 <= default_workers() <= usable_cores() <= (os.cpu_count() or 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert usable_cores() == default_workers() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cores() == 64 and default_workers() == 8
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1
