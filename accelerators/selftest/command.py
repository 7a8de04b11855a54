"""The selftest as a command: flags, the table as it grows, the zip, the exit code."""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import backend
from ..facts import facts
from . import bundle, running
from .checks import Setting

GENERIC = ("accelerators.selftest.device", "accelerators.selftest.several")  # modules with CHECKS
DEVICES = ("mlu", "cuda", "cpu")


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--accelerator", choices=DEVICES, help="by default the first of them that is here")
    parser.add_argument("--devices", type=_count, default=1, metavar="N", help="how many are tested together (1)")
    parser.add_argument("--quick", action="store_true", help="a minute in place of up to twenty")
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="of the zip (here)")


def selftest(flags: argparse.Namespace, modules: Sequence[str], more: Mapping[str, Any] | None = None) -> int:
    """Runs the `CHECKS` of the modules, prints a line for each, and writes the zip. Returns the exit code: 0 if none
    failed.

    Raises:
        OSError: the zip cannot be written.
    """
    here = (backend.is_available(), torch.cuda.is_available(), True)
    accelerator = flags.accelerator or DEVICES[here.index(True)]
    if (missing := _missing(accelerator, flags.devices)) is not None:
        print(f"error: {missing}")
        return 1
    print(f"selftest of {flags.devices} x {accelerator}{', quick' if flags.quick else ''}", flush=True)
    with tempfile.TemporaryDirectory(prefix="selftest-") as directory:
        setting = Setting(accelerator, flags.devices, flags.quick, directory, dict(more or {}))
        results = running.run(setting, modules, lambda result: print(bundle.line(result), flush=True))
        print(bundle.summary(results))
        print(f"results: {bundle.write_zip(flags.output, setting, results, facts())}")
    return 0 if bundle.none_failed(results) else 1


def _missing(accelerator: str, devices: int) -> str | None:
    """Why so many devices cannot be tested, with what to do."""
    if accelerator == "mlu" and (reason := backend.unavailable_reason()) is not None:
        return reason
    if accelerator == "cuda" and not torch.cuda.is_available():
        return f"--accelerator cuda: no CUDA device is visible to torch {torch.__version__}"
    if accelerator != "cpu":
        seen = backend.device_count() if accelerator == "mlu" else torch.cuda.device_count()
        if devices > seen:
            return f"--devices {devices}: {seen} are visible"
    return None


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of devices, at least 1")
    return int(text)
