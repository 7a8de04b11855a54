"""accelerators/ copied into an empty project, with torch, Lightning and the stand-in torch_mlu alone."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT
from tests.standin.run import STANDIN, compile_standin, needs_standin, standin_env

README = PROJECT / "accelerators" / "README.md"


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("project")
    shutil.copytree(PROJECT / "accelerators", directory / "accelerators", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).parent / "elsewhere" / "examples.py", directory)
    (directory / "project.txt").write_text(str(PROJECT))
    return directory


def run(project: Path, *command: str, **env: object) -> str:
    wanted = {"PYTHONPATH": STANDIN, "OMP_NUM_THREADS": 1, **env}
    if wanted["PYTHONPATH"]:
        compile_standin()
    done = subprocess.run(
        [sys.executable, *command],
        **{"cwd": project, "env": standin_env(**wanted), "timeout": 300, "text": True},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


@needs_standin
def test_other_projects_examples_run_on_an_mlu(project):
    run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", "examples.py")


@needs_standin
def test_the_readmes_script_trains_on_two_mlus_in_mixed_precision(project):
    script = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]
    (project / "my_training.py").write_text(script)
    output = run(project, "my_training.py")
    assert "2 processes joined over cncl" in output and "MLU available: True, used: 2" in output


def test_without_torch_mlu_it_says_what_is_missing_and_its_version(project):
    output = run(project, "-m", "accelerators", PYTHONPATH=None)
    version = re.search(r'__version__ = "(.+)"', (PROJECT / "accelerators" / "__init__.py").read_text())[1]
    assert re.search(rf"^accelerators: +{re.escape(version)}$", output, re.MULTILINE), output
    assert "torch_mlu (Cambricon's PyTorch backend) is not installed" in output
