"""The stand-in `mlu` device itself: the cases of tests/standin/cases_*.py, run in one process of their own.

Importing torch_mlu renames a device of PyTorch for the whole process, which the project's other tests must not see. So
one child pytest runs all the cases, and each is reported here under its own name. To debug one:

    PYTHONPATH=tests/standin:. python -m pytest --noconftest tests/standin/cases_device.py -k views
"""

import ast
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.standin.run import STANDIN, compile_standin, needs_standin, run_snippet, standin_env, why_not

FILES = sorted(STANDIN.glob("cases_*.py"))


def test_names(file: Path) -> list[str]:
    return [node.name for node in ast.parse(file.read_text()).body if getattr(node, "name", "").startswith("test_")]


test_names.__test__ = False
CASES = [pytest.param(file.stem, name, id=f"{file.stem}-{name}") for file in FILES for name in test_names(file)]


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory) -> dict[tuple[str, str], list[str]]:
    """(file, test) -> what went wrong in each of its parameter sets that failed; an empty list if all passed."""
    compile_standin()
    report = tmp_path_factory.mktemp("standin") / "report.xml"
    child = subprocess.run(
        [
            sys.executable, "-m", "pytest", *FILES, f"--junitxml={report}", "--noconftest", "--rootdir", STANDIN,
            "-o", "addopts=", "-o", "junit_family=xunit2", "-p", "no:cacheprovider", "-q",
        ],
        env=standin_env(PYTHONPATH=os.pathsep.join(map(str, (STANDIN, STANDIN.parent.parent))), OMP_NUM_THREADS=1),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert report.exists(), f"the process that runs the cases died (exit status {child.returncode}):\n{child.stdout}"
    found: dict[tuple[str, str], list[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        wrong = found.setdefault((case.get("classname"), case.get("name").split("[")[0]), [])
        wrong += [f"{case.get('name')}\n{problem.text}" for problem in case if problem.tag in ("failure", "error")]
    return found


@needs_standin
@pytest.mark.parametrize(("file", "name"), CASES)
def test_on_the_standin(outcomes, file, name):
    assert (file, name) in outcomes, "the process that runs the cases ended before this one"
    assert not outcomes[file, name], "\n\n".join(outcomes[file, name])


# ---- what needs no device ------------------------------------------------------------------------


def test_this_process_never_sees_the_standin():
    assert "torch_mlu" not in sys.modules


def test_without_a_compiler_the_message_says_what_is_needed(tmp_path):
    code = "try:\n    import torch_mlu\nexcept ImportError as error:\n    print(error)"
    out = run_snippet(code, PATH=str(tmp_path), CXX=None, STANDIN_MLU_CACHE=tmp_path)
    assert "no C++ compiler was found" in out
    assert "Install g++" in out


@needs_standin
def test_a_stale_lock_does_not_stop_the_build():
    compile_standin()
    out = run_snippet(
        "import torch_mlu.build as b; p = b.library_path(); p.with_suffix('.lock').touch(); print(p.exists())"
    )
    assert out == "True\n"
    assert why_not() is None
