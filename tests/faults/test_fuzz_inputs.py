"""The input fuzz: a small part of `python -m tests.faults.fuzz_inputs`, and that it notices what it looks for."""

import json
import mmap
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from tests.conftest import PROJECT
from tests.faults import fuzz_inputs
from tests.faults.fuzz_inputs import FAMILIES, SUITES, Suite, main
from tests.faults.inputs import InputCase

MORE = ("checkpoints", "pictures", "names")


def test_damaged_inputs_are_taken_or_refused_in_our_words(tmp_path):
    # In a process of its own: it forks, which does not mix with the threads of other tests.
    command = [sys.executable, "-m", "tests.faults.fuzz_inputs", "--cases", "400", "--json", str(tmp_path / "out.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    outcomes = json.loads((tmp_path / "out.json").read_text())
    assert [outcome["case"] for outcome in outcomes] == list(range(400))
    for family in FAMILIES:
        verdicts = {outcome["verdict"] for outcome in outcomes if outcome["family"] == family}
        assert "accepted" in verdicts, "damage that does no harm is taken"
        assert "rejected" in verdicts or family == "cache", "a cache is built again, not refused"
    kinds = {outcome["kind"] for outcome in outcomes if outcome["verdict"] == "rejected"}
    assert len(kinds) > 12 and not [kind for kind in kinds if kind.startswith("other")]


def test_odd_checkpoints_pictures_and_names_are_taken_or_refused_in_our_words(tmp_path):
    command = [sys.executable, "-m", "tests.faults.fuzz_inputs", "--of", *MORE, "--cases", "120"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command += ["--seconds", "20", "--json", str(tmp_path / "out.json")]  # on any machine
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    outcomes = json.loads((tmp_path / "out.json").read_text())
    assert [outcome["case"] for outcome in outcomes] == list(range(120))
    for name in MORE:
        families = SUITES[name].families
        verdicts = [outcome["verdict"] for outcome in outcomes if outcome["family"] in families]
        assert len(verdicts) == 40 and {"accepted", "rejected"} == set(verdicts)


def raise_key_error(case):
    return {}["x"]


def read_outside(case):
    (case.directory.parent.parent / "outside.jpg").read_bytes()


def run_a_program(case):
    subprocess.run(["true"], check=True)


def take_memory(case):
    bytearray(4 * 2**30)


def hang(case):
    time.sleep(60)


def crash(case):
    os.kill(os.getpid(), signal.SIGKILL)


def name_no_file(case):
    raise case.own_errors[0]("something is wrong")


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (raise_key_error, "KeyError: 'x'"),
        (read_outside, "opened or started"),
        (run_a_program, "opened or started"),
        (take_memory, "MemoryError"),
        (hang, "no end after 1 s"),
        (crash, "the process died (exit code -9)"),
        (name_no_file, "does not name the file"),
    ],
)
def test_the_fuzz_reports_a_case_that_goes_wrong_and_goes_on_with_the_next(tmp_path, monkeypatch, wrong, kind):
    monkeypatch.setattr(fuzz_inputs, "TIME_LIMIT", 1.0)

    class Wrong(InputCase):
        def __init__(self, *args):
            super().__init__(*args)
            self.use = partial(wrong, self)

    monkeypatch.setattr(fuzz_inputs, "InputCase", Wrong)
    assert main(["--cases", "2", "--json", str(tmp_path / "out.json")]) == 1
    outcomes = json.loads((tmp_path / "out.json").read_text())
    assert [outcome["verdict"] for outcome in outcomes] == ["failed", "failed"]
    assert all(kind in outcome["kind"] for outcome in outcomes)


class Greedy:
    """A case that goes beyond its limits, and says nothing of it."""

    own_errors = (ValueError,)

    def __init__(self, family, rng, root, base):
        self.path = root / "data" / "x"

    def use(self):
        self.wrong()


def burn(case):
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass


def fill(case):
    with mmap.mmap(-1, 2**26) as new:  # the allocator might give what earlier tests have left free
        for place in range(0, len(new), mmap.PAGESIZE):
            new[place] = 1


def hide_that_memory_ran_out(case):
    try:
        bytearray(2**40)
    except MemoryError:
        raise ValueError(f"{case.path}: damaged") from None


def talk(case):
    raise ValueError(f"{case.path}: {'x' * 5000}")


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (burn, "took more than 0.2 s"),
        (fill, "took more than its memory"),
        (hide_that_memory_ran_out, "refused only when memory ran out"),
        (talk, "longer than a screen"),
    ],
)
def test_the_fuzz_notices_time_memory_and_what_refusals_hide(tmp_path, monkeypatch, wrong, kind):
    case = type("Case", (Greedy,), {"wrong": wrong})
    suite = Suite(("greedy",), lambda root, seed: None, case, seconds=0.2, memory=2**25)
    monkeypatch.setitem(fuzz_inputs.SUITES, "names", suite)
    assert main(["--of", "names", "--cases", "2", "--json", str(tmp_path / "out.json")]) == 1
    outcomes = json.loads((tmp_path / "out.json").read_text())
    assert [(outcome["verdict"], kind in outcome["kind"]) for outcome in outcomes] == [("failed", True)] * 2
