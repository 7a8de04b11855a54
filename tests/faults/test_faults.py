"""The fault suite at a small size: `make test-faults` runs all of it."""

from collections.abc import Iterator

import pytest

from tests.faults import deaths, kills, stops
from tests.faults.lab import Lab
from tests.faults.processes import end_all


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    """Runs of five steps and a validation, one of them undisturbed."""
    yield Lab(tmp_path_factory.mktemp("faults"), epochs=1)
    end_all()


def assert_survived(outcome):
    assert outcome.ok, "\n".join(outcome.failures)
    assert outcome.injected


def test_kill_9_inside_a_checkpoint_write_leaves_the_last_one_and_the_run_goes_on_to_the_bit(lab):
    assert_survived(kills.killed(lab, anywhere=0, writing=1, validating=0))


def test_sigterm_in_validation_ends_with_code_75_and_its_last_line_goes_on_to_the_bit(lab):
    assert_survived(stops.told_to_stop_in_validation(lab, times=1))


def test_a_killed_data_worker_is_one_message_and_the_run_goes_on_to_the_bit(lab):
    assert_survived(deaths.killed_worker(lab, times=1))


def test_a_killed_rank_ends_the_others_soon(lab):
    assert_survived(deaths.killed_rank(lab, rank=1, compare=False))
