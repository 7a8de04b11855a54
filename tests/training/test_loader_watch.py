"""What is said of the data loader's workers."""

import pytest

from training.loader_watch import loader_error


@pytest.mark.parametrize(
    ("torch_says", "we_say"),
    [
        ("DataLoader worker (pid 41) is killed by signal: Killed. ", "died (is killed by signal: Killed. )"),
        ("DataLoader worker (pid(s) 41, 42) exited unexpectedly", "died (exited unexpectedly)"),
    ],
)
def test_a_dead_worker_is_told_in_one_message(torch_says, we_say):
    assert we_say in str(loader_error(RuntimeError(torch_says)))


def test_other_errors_are_left_alone():
    assert loader_error(RuntimeError("Connection closed by peer")) is None
