"""The selftest of any device: what it finds on a sound one, and that it finds what is planted in one."""

import argparse
import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from accelerators.selftest import bundle, command, several
from accelerators.selftest.checks import Check, Found, NotPossible, Setting, Wrong
from accelerators.selftest.running import run
from accelerators.selftest.shadow import ShadowedOperators, difference
from tests.conftest import PROJECT
from tests.standin.run import compile_standin, needs_standin, standin_env


def selftest(tmp_path: Path, *flags: str, **env: object) -> tuple[int, str]:
    """The exit code and output of `python -m accelerators --selftest --quick`, run beside the project."""
    compile_standin()
    wanted = standin_env(devices=2, OMP_NUM_THREADS=1, **env)
    wanted["PYTHONPATH"] = f"{wanted['PYTHONPATH']}:{PROJECT}"
    done = subprocess.run(
        [sys.executable, "-m", "accelerators", "--selftest", "--quick", "--output", str(tmp_path), *flags],
        **{"env": wanted, "cwd": tmp_path, "timeout": 600, "text": True},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, done.stdout


def contents(tmp_path: Path) -> dict:
    (path,) = tmp_path.glob("selftest-*.zip")
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name).decode() for name in file.namelist()}


@needs_standin
def test_a_sound_device_passes_alone_and_with_others(tmp_path):
    code, output = selftest(tmp_path, "--devices", "2", SOME_TOKEN_MLU="hidden", MLU_OTHER="shown")
    assert code == 0, output
    assert re.search(r"^10 passed, 0 failed, 0 not possible here$", output, re.MULTILINE), output
    files = contents(tmp_path)
    result = json.loads(files["result.json"])
    assert [each["outcome"] for each in result["results"]] == ["passed"] * 10
    assert result["facts"]["torch_mlu"] == "0.0+standin" and result["versions"]["numpy"] == np.__version__
    assert result["environment"]["MLU_OTHER"] == "shown" and "hidden" not in "".join(files.values())
    assert "10 passed" in files["table.txt"] and sum(name.startswith("logs/") for name in files) == 10


@needs_standin
def test_a_wrong_operator_is_named_and_a_deadly_one_takes_its_check_alone(tmp_path):
    faults = {"STANDIN_MLU_WRONG": "log1p", "STANDIN_MLU_DEADLY": "embedding", "STANDIN_MLU_NO_KERNEL": "cumsum"}
    code, output = selftest(tmp_path, **faults)
    assert code == 1, output
    lines = {match[2]: match[0] for match in re.finditer(r"^(failed|passed|not).* s  (.+?):.*$", output, re.MULTILINE)}
    assert lines["operators"].startswith("failed") and "aten::log1p in float32 is off by 0.01" in lines["operators"]
    assert lines["operators"].endswith("computed on the CPU: aten::cumsum")
    assert "SIGABRT" in lines["operators of a network"]
    assert lines["memory"].startswith("passed") and "needs --devices 2" in lines["several devices, one lost"]


def test_a_device_that_is_not_there_is_told_of(tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    for accelerator, told in (("cuda", "no CUDA device is visible"), ("mlu", "torch_mlu")):
        flags = argparse.Namespace(accelerator=accelerator, devices=1, quick=True, output=tmp_path)
        assert command.selftest(flags, command.GENERIC) == 1
        assert told in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def passes(setting):
    return Found("fine", {"number": 1})


def is_wrong(setting):
    raise Wrong("2 in place of 1", {"number": 2})


def breaks(setting):
    raise RuntimeError("no kernel")


def cannot(setting):
    raise NotPossible("needs two")


def hangs(setting):
    import time

    time.sleep(60)


CHECKS = (
    Check("passes", passes),
    Check("is wrong", is_wrong),
    Check("hangs", hangs, limit=1),
    Check("breaks", breaks),
    Check("cannot", cannot),
)


def test_checks_go_on_after_one_that_is_wrong_breaks_or_hangs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    setting = Setting("cpu", 1, True, str(tmp_path))
    told = []
    results = run(setting, [__name__], told.append)
    assert told == results and not bundle.none_failed(results)
    assert [(each.outcome, each.words) for each in results] == [
        ("passed", "fine"),
        ("failed", "2 in place of 1"),
        ("failed", "it hung: nothing for 1 s"),
        ("failed", "RuntimeError: no kernel"),
        ("not possible here", "needs two"),
    ]
    assert [each.figures for each in results[:2]] == [{"number": 1}, {"number": 2}]
    assert "Traceback" in results[3].log and "Traceback" not in results[0].log


def test_the_shadow_compares_in_place_results_and_passes_over_random_ones():
    device = torch.device("cpu")
    with ShadowedOperators(device) as shadow:
        values = torch.arange(6.0).view(2, 3)
        values.add_(1).t().mul_(torch.rand(3, 2))
        values.sort()
    assert {name for name, _ in shadow.largest} >= {"aten::add_.Tensor", "aten::mul_.Tensor", "aten::sort"}
    assert not shadow.wrong and not any("rand" in name for name, _ in shadow.largest)


@pytest.mark.parametrize(
    ("own", "relative"),
    [([1.0, 2.0], 0), ([1.0, 2.2], 0.1), ([float("nan"), 2.0], float("inf")), ([1.0], float("inf"))],
)
def test_a_difference_is_relative_to_the_largest_value_and_has_its_place(own, relative):
    found = difference("x", torch.tensor(own), torch.tensor([1.0, 2.0]), 0.01)
    assert found.relative == pytest.approx(relative, abs=1e-6)
    if relative == pytest.approx(0.1):
        assert found.place == (1,) and "[1], the CPU 2" in str(found)


def test_what_two_ranks_tell_on_one_line_is_told_apart():
    output = 'a log line \x1f{"rank": 1}\x1f{"rank": 0}\nanother\n'
    assert several._told(output, 2) == [{"rank": 0}, {"rank": 1}]
    with pytest.raises(Wrong, match="2 of 3 ranks"):
        several._told(output, 3)
