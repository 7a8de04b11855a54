"""Installing where a torch is already there, as in MLU containers."""

import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import PROJECT


def pretend_installed(site_packages: Path, name: str, version: str) -> None:
    """Only the metadata of a package: what pip looks at."""
    metadata = site_packages / f"{name}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (metadata / "RECORD").write_text("")
    (metadata / "INSTALLER").write_text("container\n")


@pytest.mark.slow
@pytest.mark.parametrize("torchvision", ["0.19.0", None], ids=["with torchvision", "without torchvision"])
def test_make_install_keeps_the_torch_that_is_there(tmp_path, torchvision):
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    site_packages = next(environment.glob("lib/python*/site-packages"))
    pretend_installed(site_packages, "torch", "2.4.0")
    if torchvision:
        pretend_installed(site_packages, "torchvision", torchvision)
    done = subprocess.run(
        ["make", "install", f"VENV={environment}"], cwd=PROJECT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (site_packages / "torch-2.4.0.dist-info" / "INSTALLER").read_text() == "container\n"
    assert not list(site_packages.glob("torch-2.[5-9]*")) and not (site_packages / "torch" / "__init__.py").exists()
    shown = subprocess.run([environment / "bin" / "pip", "show", "torchvision"], capture_output=True, text=True).stdout
    assert "Version: 0.19.0" in shown, "the torchvision of that torch"


ROOMS = (
    "accelerators",
    "checkpoints",
    "coco",
    "command_line",
    "deployment",
    "evaluation",
    "prediction",
    "ssd",
    "training",
)


def run_elsewhere(directory: Path, *code: str, **env: str) -> str:
    """What Python prints in a directory that has an empty folder of every room's name."""
    for room in ROOMS:
        (directory / room).mkdir(exist_ok=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | env
    done = subprocess.run(
        [sys.executable, *code], cwd=directory, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def installed():
    if not list(Path(sysconfig.get_path("purelib")).glob("__editable__.ssd300*.pth")):
        pytest.skip("the project is not installed in this environment (make install does)")


def test_folders_named_like_our_rooms_do_not_stand_before_them(installed, tmp_path):
    code = f"import importlib; print(*(importlib.import_module(name).__file__ for name in {ROOMS}), sep='\\n')"
    assert run_elsewhere(tmp_path, "-c", code).split() == [str(PROJECT / room / "__init__.py") for room in ROOMS]


def test_the_installed_command_finds_the_configurations_from_elsewhere(installed, tmp_path):
    command = Path(sys.executable).with_name("ssd300")
    shown = subprocess.run([command, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=120).stdout
    assert len(shown.splitlines()) <= 24 and "demo" in shown
    missing = subprocess.run(
        [command, "train", "--config", "demo", "--data_root", "nowhere"],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert missing.returncode == 1 and "no data set at nowhere" in missing.stderr


def test_an_installed_package_with_a_doors_name_is_not_shadowed(installed, tmp_path):
    places = run_elsewhere(tmp_path, "-c", "import sys; print(*sys.path, sep='\\n')").splitlines()
    assert places.index(sysconfig.get_path("purelib")) < places.index(str(PROJECT)), "site-packages are looked in first"


def test_an_installed_project_has_every_package():
    tomllib = pytest.importorskip("tomllib", reason="in Python from 3.11 on")
    listed = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent for room in ROOMS for path in (PROJECT / room).rglob("*.py")}
    assert set(listed) - {"configs", "configs.hardware"} == {
        ".".join(folder.relative_to(PROJECT).parts) for folder in folders
    }


def locked() -> dict[str, list[str]]:
    """Name -> the blocks of requirements.lock that pin it: one, or one for each range of Pythons or systems."""
    blocks: dict[str, list[str]] = {}
    for block in re.split(r"\n(?=\S)", (PROJECT / "requirements.lock").read_text()):
        if not block.startswith("#"):
            blocks.setdefault(canonicalize_name(block.partition("==")[0]), []).append(block)
    return blocks


def assert_is_pinned(requirement: Requirement) -> None:
    pinned = [re.match(r"[^=]+==([^ ;\\]+)", block)[1] for block in locked()[canonicalize_name(requirement.name)]]
    assert pinned and all(version in requirement.specifier for version in pinned)


def required(lines: Iterable[str]) -> list[Requirement]:
    return [Requirement(line) for line in lines if not line.startswith(("#", "ssd300-lightning"))]


@pytest.mark.parametrize("requirement", required((PROJECT / "requirements.txt").read_text().splitlines()), ids=str)
def test_the_lock_pins_each_requirement_within_its_range(requirement):
    assert_is_pinned(requirement)


def test_the_lock_has_the_tools_too():
    tomllib = pytest.importorskip("tomllib", reason="in Python from 3.11 on")
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for requirement in required([*extras["dev"], *extras["video"]]):  # what `make install` brings
        assert_is_pinned(requirement)


def test_every_line_of_the_lock_has_hashes_and_none_says_where_to_take_it():
    text, blocks = (PROJECT / "requirements.lock").read_text(), [block for many in locked().values() for block in many]
    assert len(blocks) > 50 and "setuptools" in locked(), "which builds the project"
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"\S+==\S+( ; [^/]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line) for line in lines)
    assert "://" not in text and not re.search(r"\b[\w-]+\.(org|com|net|io)\b", text)
