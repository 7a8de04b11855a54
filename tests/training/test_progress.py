"""What a run says of its progress: lines where output is no terminal, one that changes on a terminal."""

import io
import re
import sys

import pytest

from tests.training.test_resuming import run
from training import progress

SHOWN = ("--trainer.enable_progress_bar", "true")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_elsewhere_than_on_a_terminal_each_epoch_is_a_line_without_control_characters(small, tmp_path, capsys):
    run(small, tmp_path / "run", *SHOWN, "--trainer.check_val_every_n_epoch", "2", "--max_epochs", "3")
    lines = [line for line in capsys.readouterr().out.splitlines() if re.match("epoch|step|validation", line)]
    number = r"\d+\.\d{3}"
    forms = [
        rf"epoch 1/3: loss {number}, \d+\.\d minutes",
        rf"epoch 2/3: loss {number}, validation loss {number}, mAP {number}(, best {number})?, \d+\.\d minutes",
        rf"epoch 3/3: loss {number}, \d+\.\d minutes",
    ]
    assert len(lines) == 3
    for line, form in zip(lines, forms, strict=True):
        assert re.fullmatch(form, line), "a number of an earlier validation is not this epoch's"


def test_a_long_epoch_is_told_once_a_minute(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "ELSEWHERE", 0.0)
    run(small, tmp_path / "run", *SHOWN, "--max_epochs", "1")
    out = capsys.readouterr().out
    assert re.search(r"^epoch 1/1: 1/3, .*left 0:\d\d, run \d+:\d\d$", out, re.MULTILINE)
    assert re.search(r"^validation: 1/1|^epoch 1/1: loss", out, re.MULTILINE)
    assert not re.search(r"[\r\x1b]", out)


def test_a_validation_within_an_epoch_has_a_line_of_its_own(small, tmp_path, capsys):
    run(small, tmp_path / "run", *SHOWN, "--max_epochs", "1", "--trainer.val_check_interval", "2")
    assert re.search(r"^step 2: validation loss \d+\.\d+, mAP", capsys.readouterr().out, re.MULTILINE)


def test_on_a_terminal_one_line_changes_and_fits(small, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "ON_A_TERMINAL", 0.0)
    monkeypatch.setattr(sys, "stdout", Terminal())
    run(small, tmp_path / "run", *SHOWN, "--max_epochs", "1", "--trainer.log_every_n_steps", "1")
    shown = sys.stdout.getvalue()
    assert re.search(r"\repoch 1/1 \|.*\| 2/3, loss \d+\.\d\d, .* images/s, left 0:\d\d, run 0:\d\d", shown)
    assert re.search(r"\nepoch 1/1: loss|\repoch 1/1: loss", shown)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3725, "1:02:05")])
def test_times_read_as_a_clock(seconds, text):
    assert progress._clock(seconds) == text
