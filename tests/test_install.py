"""Installing where a torch is already there, as in MLU containers."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

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


def test_no_module_of_ours_is_installed_into_site_packages():
    site_packages = Path(next(path for path in sys.path if path.endswith("site-packages")))
    assert not (site_packages / "ssd").exists() and not (site_packages / "train.py").exists()
