"""The data loader's workers: what signals do to them, and what is said of them."""

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import PROJECT
from training.loader_watch import SteadyLoader, loader_error


@pytest.mark.parametrize(
    ("torch_says", "we_say"),
    [
        ("DataLoader worker (pid 41) is killed by signal: Killed. ", "died (is killed by signal: Killed. )"),
        ("DataLoader worker (pid(s) 41, 42) exited unexpectedly", "died (exited unexpectedly)"),
    ],
)
def test_a_dead_worker_is_told_in_one_message(torch_says, we_say):
    assert we_say in str(loader_error(RuntimeError(torch_says)))


@pytest.mark.parametrize(
    ("torch_says", "we_add"),
    [
        ("is killed by signal: Killed. ", "when memory is short"),
        ("is killed by signal: Terminated. ", None),
        ("is killed by signal: Bus error. It is possible that they are out of shared memory", "enlarge /dev/shm"),
        ("is killed by signal: Segmentation fault. ", "coco.check"),
    ],
)
def test_memory_is_blamed_only_where_it_was_short(torch_says, we_add):
    told = loader_error(RuntimeError(f"DataLoader worker (pid 41) {torch_says}"))
    assert we_add in told if we_add else "memory" not in told


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_stop_signals_do_not_reach_workers_not_even_those_that_are_still_starting(method):
    before = set(multiprocessing.active_children())
    loader = SteadyLoader(range(40), batch_size=2, num_workers=2, multiprocessing_context=method)
    batches = iter(loader)
    for when in range(2):
        for worker in set(multiprocessing.active_children()) - before:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(worker.pid, number)
        assert next(batches).tolist() == [2 * when, 2 * when + 1]
    assert len(list(batches)) == 18


def test_a_worker_that_hangs_does_not_keep_the_process_from_ending():
    code = """
import time
from training.loader_watch import SteadyLoader

class Hangs:
    def __len__(self):
        return 4
    def __getitem__(self, index):
        time.sleep(600)

if __name__ == "__main__":
    batches = iter(SteadyLoader(Hangs(), num_workers=1, persistent_workers=True))
    time.sleep(0.5)
    raise SystemExit(75)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (75, "")


def test_other_errors_are_left_alone():
    assert loader_error(RuntimeError("Connection closed by peer")) is None
