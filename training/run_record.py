"""What a run depends on beside its configuration: versions, device, revision, data. Written as `run.json` beside it."""

import json
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from coco.whole_files import write_text

PACKAGES = (
    *("torch", "torchvision", "torch_mlu", "pytorch-lightning", "torchmetrics"),
    *("numpy", "Pillow", "simplejpeg", "hotcoco", "pycocotools"),
)


def write_run_record(path: Path, cli: Any) -> None:
    """Writes command, versions, device, git revision and the identity of the data of `cli`
    (a `command_line.fit_cli.FitCLI`)."""
    data = cli.datamodule
    record = {
        "command": ["python", *sys.argv],
        "resumed_from": str(cli.ckpt_path) if cli.ckpt_path else None,
        "revision": git_revision(Path(__file__).parent),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
        "accelerator": type(cli.trainer.accelerator).__name__,
        "devices": cli.trainer.world_size,
        "device_name": device_name(cli.trainer.strategy.root_device),
        "samples_from": data.samples_from(),
        "data": {
            split: {"annotations": str(annotations.path), "blake2b": annotations.digest, "images": len(annotations)}
            for split, annotations in (("train", data.train_annotations), ("val", data.val_annotations))
        },
    }
    write_text(path, json.dumps(record, indent=2) + "\n")


def project_version() -> str:
    """The checkout's revision; of an installed package its version."""
    if revision := git_revision(Path(__file__).parent):
        return revision
    try:
        return version("ssd300-lightning")
    except PackageNotFoundError:
        return "unknown"


def package_versions() -> dict[str, str]:
    """The installed ones of `PACKAGES`."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache  # of what this process runs
def git_revision(directory: Path) -> str | None:
    """Commit of the checkout, with `+changes` where files differ from it; None without git."""
    git = ["git", "-C", str(directory)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, encoding="utf-8", timeout=10)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if commit.returncode:
        return None
    return commit.stdout.strip() + ("+changes" if changed.returncode else "")


def device_name(device: torch.device) -> str:
    if device.type == "cpu":
        return platform.processor() or platform.machine()
    return str(getattr(torch, device.type).get_device_name(device))
