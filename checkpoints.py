"""Checkpoint files as plain data: reading them safely, whatever their format, and finding the one to resume from."""

import pickle
import re
from pathlib import Path
from typing import Any

import torch


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: the message names the file, what it holds and what to do."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A local checkpoint file as plain data on the CPU; never runs code from the file.

    Raises:
        CheckpointError: no such file, torn, no torch file, or holding more than plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = re.split(r"[.\n]", str(error).replace("Weights only load failed.", "").strip())[0]
        raise CheckpointError(
            f"{path}: refused, since it is damaged or holds more than tensors and plain data ({reason}). "
            "Only plain-tensor checkpoints are opened, because others can run code."
        ) from None
    except Exception as error:  # on damaged bytes torch raises what it trips over: IndexError, struct.error, ...
        raise CheckpointError(
            f"{path}: not a readable torch checkpoint, perhaps cut off ({str(error)[:200]})"
        ) from None
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path}: holds a {type(checkpoint).__name__}, expected a checkpoint dict")
    return checkpoint


def resume_path(ckpt_path: str | None, run_dir: Path | None) -> Path | None:
    """What `--ckpt_path` means: `last` (of the run directory), `auto` (the same, or None for a fresh start), or a path.

    Raises:
        CheckpointError: nothing there, with what was found instead.
    """
    if ckpt_path is None:
        return None
    if ckpt_path not in ("last", "auto"):
        if not Path(ckpt_path).is_file():
            raise CheckpointError(f"--ckpt_path {ckpt_path}: no such file (or use `last` or `auto` with --run_dir)")
        return Path(ckpt_path)
    if run_dir is None:
        raise CheckpointError(f"--ckpt_path {ckpt_path} looks in a run directory: give it with --run_dir DIR")
    last = run_dir / "checkpoints" / "last.ckpt"
    if last.is_file():
        return last
    if ckpt_path == "auto":
        print(f"--ckpt_path auto: no {last}, starting fresh")
        return None
    found = sorted(path.name for path in last.parent.glob("*")) if last.parent.is_dir() else []
    raise CheckpointError(
        f"--ckpt_path last: no {last} ({'found ' + ', '.join(found[:5]) if found else 'no checkpoints there'}). "
        "Give the path of a checkpoint, or use --ckpt_path auto to start fresh where there is none"
    )
