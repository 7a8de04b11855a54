"""`--help` on one screen, and what a mistyped flag may have meant."""

import pytest

from command_line.evaluate_cli import EvaluateCLI
from command_line.fit_cli import FitCLI
from command_line.shared import UsageError


@pytest.mark.parametrize("cli", [FitCLI, EvaluateCLI])
def test_help_is_one_screen_and_says_where_the_rest_is(cli, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as ended:
        cli(["--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 32 and max(map(len, lines)) <= 80
    for flag in ("--data_root", "--accelerator", "--devices", "--batch_size", "--ckpt_path", "--precision"):
        assert any(line.startswith(f"  {flag} ") and len(line.split()) > 1 for line in lines), flag
    assert "--help_all" in lines[-1]


def test_all_of_the_help_is_the_parsers_own(capsys):
    with pytest.raises(SystemExit):
        FitCLI(["--help_all"])
    told = capsys.readouterr().out
    assert "--trainer.gradient_clip_val" in told and "--data.augmentation.zoom_out" in told


MEANT = {
    "--max_epoch": "--max_epochs",
    "--batchsize": "--batch_size",
    "--model.lerning_rate": "--model.learning_rate",
    "--gradient_clip_val": "--trainer.gradient_clip_val",
}


@pytest.mark.parametrize("typed", MEANT)
def test_a_mistyped_flag_is_one_line_with_the_one_that_was_meant(typed):
    with pytest.raises(UsageError) as error:
        FitCLI([typed, "3"])
    told = str(error.value)
    assert told[0].lower() + told[1:] == f"unrecognized arguments: {typed} 3. Did you mean {MEANT[typed]}?"


def test_a_flag_like_none_is_told_where_all_are():
    with pytest.raises(UsageError, match=r"--xyzzy 3\. --help_all lists every flag"):
        FitCLI(["--xyzzy", "3"])
