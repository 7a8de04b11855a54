"""`ssd300 selftest --quick`: its table on a sound device, and faults that are planted in one."""

import os
import re
import subprocess
import sys

import pytest

import command_line.selftest as door
from tests.conftest import PROJECT
from tests.standin.run import compile_standin, needs_standin, standin_env

# `thin` in place of resnet18: float16 on the stand-in is a CPU's.
QUICK = """
import os, sys
import tests.thin
import command_line.selftest as door
door.MODULES = (*(name for name in door.MODULES if os.environ.get("ONLY", "") in name), "tests.thin")
sys.exit(door.main(["--quick", "--backbone", "thin", "--output", *sys.argv[1:]]))
"""


def selftest(tmp_path, *flags: str, **env: object) -> tuple[int, list[str]]:
    """The exit code, and the line of each check."""
    compile_standin()
    wanted = standin_env(devices=1, OMP_NUM_THREADS=1, **env)
    wanted["PYTHONPATH"] = f"{wanted['PYTHONPATH']}{os.pathsep}{PROJECT}"
    done = subprocess.run(
        [sys.executable, "-c", QUICK, str(tmp_path), *flags],
        **{"env": wanted, "cwd": tmp_path, "timeout": 600, "text": True},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    lines = re.findall(r"^(?:passed|failed|not possible here) .* s  .*$", done.stdout, re.MULTILINE)
    assert lines, done.stdout
    return done.returncode, lines


@needs_standin
@pytest.mark.parametrize("accelerator", ["cpu", "mlu"])
def test_a_sound_device_passes(tmp_path, accelerator):
    code, lines = selftest(tmp_path, "--accelerator", accelerator)
    outcomes = [line.split("  ")[0] for line in lines]
    assert code == 0 and set(outcomes) == {"passed", "not possible here"}, "\n".join(lines)
    assert outcomes.count("passed") == {"mlu": 17, "cpu": 16}[accelerator]
    assert list(tmp_path.glob(f"selftest-{accelerator}-*.zip"))


@needs_standin
def test_a_wrong_operator_is_named_where_ssd_uses_it(tmp_path):
    code, lines = selftest(tmp_path, "--accelerator", "mlu", STANDIN_MLU_WRONG="_log_softmax", ONLY="command_line")
    told = "\n".join(lines)
    assert code == 1
    assert re.search(
        r"failed .*SSD: operators of a step in float32: aten::_log_softmax in float32 is off by 0.01", told
    )
    assert re.search(r"failed .*SSD: a training step layer by layer: .*loss confidence", told), told
    assert re.search(r"passed .*SSD: detect", told), told


@pytest.mark.slow
def test_the_whole_selftest_passes_on_the_cpu(tmp_path, capsys):
    assert (
        door.main(["--accelerator", "cpu", "--devices", "2", "--backbone", "resnet18", "--output", str(tmp_path)]) == 0
    )
    output = capsys.readouterr().out
    assert "SSD: killed and resumed: killed after step" in output and "SSD: several devices: weights of 2" in output
