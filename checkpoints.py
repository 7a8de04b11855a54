"""Checkpoint files as plain data: reading them safely, whatever their format, and finding the one to resume from."""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn


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
        _check_sums(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = re.split(r"[.\n]", str(error).replace("Weights only load failed.", "").strip())[0]
        raise CheckpointError(
            f"{path}: refused, since it is damaged or holds more than tensors and plain data ({reason}). "
            "Only plain-tensor checkpoints are opened, because others can run code."
        ) from None
    except Exception as error:  # on damaged bytes torch raises what it trips over: IndexError, struct.error, ...
        raise CheckpointError(
            f"{path}: not a readable torch checkpoint, damaged or cut off ({str(error)[:200]})"
        ) from None
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path}: holds a {type(checkpoint).__name__}, expected a checkpoint dict")
    return checkpoint


def resume_path(ckpt_path: str | None, run_dir: Path | None) -> Path | None:
    """What `--ckpt_path` means: a path; `last`, the newest readable checkpoint of the run directory; `auto`, the same,
    or None for a fresh start where there is none yet. None means None.

    Those of an epoch and the best one are for when no state to resume from (last.ckpt, SLURM's) can be read: at the end
    of an epoch they are newer for a moment, but the run that was killed then had not logged its numbers yet.

    Raises:
        CheckpointError: nothing there to resume from, with what was found instead.
    """
    if ckpt_path is None:
        return None
    if ckpt_path not in ("last", "auto"):
        if not Path(ckpt_path).is_file():
            raise CheckpointError(f"--ckpt_path {ckpt_path}: no such file (or use `last` or `auto` with --run_dir)")
        checkpoint = read_checkpoint(ckpt_path)
        if not _can_go_on(checkpoint):
            raise CheckpointError(
                f"--ckpt_path {ckpt_path}: no run to resume in it, neither of this project nor of the published recipe "
                f"(it has {', '.join(map(str, checkpoint))[:200]})"
            )
        return Path(ckpt_path)
    if run_dir is None:
        raise CheckpointError(f"--ckpt_path {ckpt_path} looks in a run directory: give it with --run_dir DIR")
    found = [*(run_dir / "checkpoints").glob("*.ckpt"), *run_dir.glob("hpc_ckpt_*.ckpt")]  # the latter by SLURM requeue
    for path in sorted(found, key=lambda path: (_is_to_resume(path), path.stat().st_mtime_ns), reverse=True):
        try:
            if _can_go_on(read_checkpoint(path)):
                return path
            reason = "holds no run to resume"
        except CheckpointError as error:
            reason = str(error).removeprefix(f"{path}: ")
        rank_zero_warn(f"--ckpt_path {ckpt_path}: passing over {path} ({reason})")
    if ckpt_path == "auto" and not found:
        rank_zero_info(f"--ckpt_path auto: no checkpoint in {run_dir}, starting fresh")
        return None
    names = ", ".join(sorted(path.name for path in found)[:5])
    raise CheckpointError(
        f"--ckpt_path {ckpt_path}: no readable checkpoint in {run_dir / 'checkpoints'} "
        f"({f'found {names}' if found else 'there are none'}). Give the path of a checkpoint"
        + ("" if found else ", or use --ckpt_path auto to start fresh where there is none")
    )


def is_published(checkpoint: dict[str, Any]) -> bool:
    """Whether a file's content has the layout of the published recipe (see export.py), whatever it is called."""
    return isinstance(checkpoint.get("model"), dict) and "state_dict" not in checkpoint


def _check_sums(path: Path) -> None:
    """torch.load reads a tensor with flipped bits as if nothing were wrong; the file's checksums tell."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
            # A part marked as a directory torch would not read at all, and give what happens to be in the memory.
            directories = [info.filename for info in file.infolist() if info.external_attr & 0x10]
        if damaged or directories:
            raise zipfile.BadZipFile(f"{damaged or directories[0]} was changed since it was written")


def _is_to_resume(path: Path) -> bool:
    return path.name == "last.ckpt" or path.name.startswith("hpc_ckpt_")


def _can_go_on(checkpoint: dict[str, Any]) -> bool:
    ours = "state_dict" in checkpoint and "optimizer_states" in checkpoint
    return ours or is_published(checkpoint)
