"""SSD's checks of `ssd300 selftest` that run whole trainings: killed and resumed, and on several devices."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from accelerators.selftest.checks import Check, Found, NotPossible, Setting, Wrong
from accelerators.selftest.device import same_or_as_unsteady
from checkpoints.files import CheckpointError, read_checkpoint, read_step
from command_line.selftest_checks import data

STEPS, KILLED_FROM = 12, 4
LIMIT = 600.0  # seconds for one run


def killed_and_resumed(setting: Setting) -> Found:
    """A run that is killed and resumed ends as one that never stopped."""
    whole, again, killed = (setting.scratch / name for name in ("whole", "again", "killed"))
    for run_dir in (whole, again):
        _finish(_start(setting, run_dir, 1))
    child = _start(setting, killed, 1)
    began = time.monotonic()
    while child.poll() is None and _step(killed) < KILLED_FROM:
        if time.monotonic() - began > LIMIT:
            child.kill()
            raise Wrong(f"no checkpoint of step {KILLED_FROM} within {LIMIT:.0f} s")
        time.sleep(0.02)
    os.kill(child.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    child.communicate()
    step = _step(killed)
    if step >= STEPS:
        raise NotPossible(f"the {STEPS} steps were over before it could be killed")
    _finish(_start(setting, killed, 1, "--ckpt_path", "last"))
    found = same_or_as_unsteady(_weights(killed), _weights(whole), _weights(again))
    return Found(f"killed after step {step} of {STEPS}: {found.words}", found.figures)


def several(setting: Setting) -> Found:
    """SSD's weights after training on N devices, and on one with the same global batch."""
    if setting.devices < 2:
        raise NotPossible("needs --devices 2 or more")
    many, one = setting.scratch / "many", setting.scratch / "one"
    # Statistics of a batch would be each device's own.
    frozen = ("--model.freeze", "[norm]", "--trainer.max_steps", "4")
    _finish(_start(setting, many, setting.devices, "--batch_size", "2", *frozen))
    _finish(_start(setting, one, 1, "--batch_size", str(2 * setting.devices), *frozen))
    ours, alone = _weights(many), _weights(one)
    apart = float((ours - alone).abs().max() / alone.abs().max())
    if not apart <= 0.02:
        raise Wrong(f"weights differ by {apart:.2g} of the largest")
    return Found(f"weights of {setting.devices} devices and of one differ by {apart:.2g} of the largest")


def _start(setting: Setting, run_dir: Path, devices: int, *more: str) -> subprocess.Popen:
    root = data(setting).data_root
    command = [
        # For further devices Lightning starts a module again, but not a text (-c).
        *(sys.executable, "-m", "command_line.ssd300", "train"),
        *("--accelerator", setting.accelerator, "--devices", str(devices), "--data_root", str(root)),
        *("--run_dir", str(run_dir), "--model.backbone", setting.more["backbone"], "--batch_size", "2"),
        *("--num_workers", "1", "--model.warmup_steps", "2", "--model.learning_rate", "0.002"),
        *("--max_epochs", "-1", "--trainer.max_steps", str(STEPS), "--trainer.limit_val_batches", "0"),
        *("--save_every_n_steps", "1", "--trainer.enable_progress_bar", "false", *more),
    ]
    pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    paths = [str(Path(__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(command, env=env, cwd=setting.directory, **pipe)


def _finish(child: subprocess.Popen) -> None:
    output = child.communicate(timeout=LIMIT)[0]
    print(output[-4000:])
    if child.returncode:
        raise Wrong(f"training ended with exit code {child.returncode}")


def _step(run_dir: Path) -> int:
    """That of last.ckpt; 0 where there is none."""
    try:
        return read_step(run_dir / "checkpoints" / "last.ckpt")
    except (CheckpointError, OSError):
        return 0


def _weights(run_dir: Path) -> Tensor:
    state = read_checkpoint(run_dir / "checkpoints" / "last.ckpt")["state_dict"]
    return torch.cat([value.flatten().float() for value in state.values()])


CHECKS = (
    Check("SSD: killed and resumed", killed_and_resumed, limit=4 * LIMIT, quick=False),
    Check("SSD: several devices", several, limit=2 * LIMIT, quick=False),
)
