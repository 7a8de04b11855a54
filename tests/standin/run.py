"""How a test runs code on the stand-in device: always in another process.

Importing torch_mlu renames PyTorch's PrivateUse1 device for the whole process, and the project's other tests must also
run in a process that never saw it. From tests/test_*.py:

    from tests.standin.run import needs_standin, run_snippet, standin_env

    @needs_standin
    def test_something():
        out = run_snippet("import torch, torch_mlu; print(torch.ones(2, device='mlu').sum().item())", devices=1)
        subprocess.run([sys.executable, "train.py", ...], env=standin_env(devices=2, STANDIN_MLU_CAPABILITY="3.0"))
"""

import importlib.util
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch

STANDIN = Path(__file__).resolve().parent
# The sources need c10::DeviceAllocator::getMemoryInfo of torch 2.10. From there on, not to compile is to fail.
OLDEST_TORCH = (2, 10)
SEEDS = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")  # left behind by seed_everything in an earlier test
VISIBILITY = ("CN_VISIBLE_DEVICES", "MLU_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")


def standin_env(devices: int = 2, **env: object) -> dict[str, str]:
    """The environment for a process in which `import torch_mlu` gives that many stand-in devices.

    What hides devices and what configures the stand-in is not inherited; `env` is added last, None removes a variable.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in (*VISIBILITY, *SEEDS) and (not name.startswith("STANDIN_MLU_") or name == "STANDIN_MLU_CACHE")
    }
    path = os.pathsep.join([str(STANDIN), *filter(None, [os.environ.get("PYTHONPATH")])])
    wanted = kept | {"PYTHONPATH": path, "STANDIN_MLU_DEVICES": devices} | env
    return {name: str(value) for name, value in wanted.items() if value is not None}


def run_snippet(code: str, devices: int = 2, timeout: float = 300, **env: object) -> str:
    """Runs Python code in such a process; returns what it printed, or fails with all its output."""
    done = subprocess.run(
        [sys.executable, "-c", code], env=standin_env(devices, **env), timeout=timeout,
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _build_module() -> ModuleType:
    """torch_mlu/build.py by its path: importing it from its package would import torch_mlu here."""
    spec = importlib.util.spec_from_file_location("standin_build", STANDIN / "torch_mlu" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def why_not() -> str | None:
    """Why the stand-in cannot run here, or None if it can."""
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        wanted = ".".join(map(str, OLDEST_TORCH))
        return f"the stand-in MLU device does not compile with torch {torch.__version__}; it needs {wanted} or later"
    build = _build_module()
    if build.library_path().exists() or build.compiler() is not None:
        return None
    return "the stand-in MLU device needs a C++ compiler (g++, clang++ or CXX) and none was found"


def compile_standin() -> None:
    """Compiles it now, if it is not yet compiled, so that no test's time limit has to cover it."""
    _build_module().build()


needs_standin = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
