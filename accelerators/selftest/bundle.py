"""What a selftest tells: the table, and one zip with all of it that a user can send."""

import json
import os
import platform
import re
import shutil
import subprocess
import time
import zipfile
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from .checks import FAILED, NOT_POSSIBLE, PASSED, Result, Setting

# Variables that matter to a device or a collective. No others leave the machine, and none that may be secret.
KEPT = re.compile(r"MLU|CNCL|CNNL|CNRT|NEUWARE|CUDA|NCCL|TORCH|OMP|MKL|ENABLE_|WORLD_SIZE|RANK|SLURM_(N|PROCID)")
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CRED|AUTH|COOKIE|SESSION", re.IGNORECASE)


def line(result: Result) -> str:
    return f"{result.outcome:<18} {result.seconds:6.1f} s  {result.name}: {result.words}"


def summary(results: Sequence[Result]) -> str:
    counts = [f"{sum(each.outcome == name for each in results)} {name}" for name in (PASSED, FAILED, NOT_POSSIBLE)]
    return ", ".join(counts)


def none_failed(results: Sequence[Result]) -> bool:
    """What is not possible here is no failure."""
    return all(each.outcome != FAILED for each in results)


def write_zip(directory: Path, setting: Setting, results: Sequence[Result], facts: dict[str, str]) -> Path:
    """`selftest-<device>-<date>.zip` in the directory: result.json, table.txt, a log for each check, cnmon.txt or
    nvidia-smi.txt."""
    date = time.strftime("%Y%m%d-%H%M%S")
    path = directory / f"selftest-{setting.accelerator}-{date}.zip"
    directory.mkdir(parents=True, exist_ok=True)
    content = {
        "accelerator": setting.accelerator,
        "devices": setting.devices,
        "quick": setting.quick,
        "date": date,
        "machine": {"system": platform.platform(), "processor": platform.processor(), "cores": os.cpu_count()},
        "facts": facts,
        "versions": {each.metadata["Name"]: each.version for each in distributions()},
        "environment": environment(),
        "results": [{key: value for key, value in vars(each).items() if key != "log"} for each in results],
    }
    table = "\n".join([*map(line, results), summary(results)])
    part = path.with_suffix(".zip.part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("result.json", json.dumps(content, indent=1))
        file.writestr("table.txt", table + "\n")
        for number, each in enumerate(results):
            file.writestr(f"logs/{number:02d} {re.sub('[^a-z0-9]+', '_', each.name.lower())}.txt", each.log)
        for command in (["cnmon"], ["nvidia-smi"]):
            if shutil.which(command[0]):
                file.writestr(f"{command[0]}.txt", _output(command))
    os.replace(part, path)
    return path


def environment() -> dict[str, str]:
    """The variables that may matter, without what may be secret."""
    return {name: value for name, value in sorted(os.environ.items()) if KEPT.search(name) and not SECRET.search(name)}


def _output(command: list[str]) -> Any:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=30, check=False)
        return done.stdout + done.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
