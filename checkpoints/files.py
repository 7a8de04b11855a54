"""Checkpoint files as plain data: read safely, whatever their format; written durably."""

import contextlib
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info

UNFINISHED = ".unfinished"  # suffix of a file that is being written


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


def is_published(checkpoint: dict[str, Any]) -> bool:
    """Whether a file's content has the layout of the published recipe (see published.py), whatever it is called."""
    return isinstance(checkpoint.get("model"), dict) and "state_dict" not in checkpoint


def write_durably(checkpoint: dict[str, Any], path: Path) -> None:
    """`torch.save` whose result is complete, on the disk, under `path`, or not there at all.

    Raises:
        CheckpointError: it could not be written; what was under `path` before is untouched.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, unfinished)
        _sync(unfinished)
        os.replace(unfinished, path)
        with contextlib.suppress(OSError):  # some network file systems have no sync of a directory
            _sync(path.parent)  # the rename itself
    except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError for a full disk
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        free = _free_megabytes(path.parent)
        raise CheckpointError(
            f"{path}: the checkpoint could not be written ({str(error).splitlines()[0]}; {free} MB free). "
            f"{'The one written before is untouched' if path.is_file() else 'None was there before'}; "
            "make room or give another --run_dir, and resume"
        ) from None


def remove_unfinished(directory: Path) -> None:
    """Deletes what killed processes left half written."""
    for path in directory.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)
        rank_zero_info(f"{path}: removed, an unfinished checkpoint of a process that was killed")


def _check_sums(path: Path) -> None:
    """torch.load reads a tensor with flipped bits as if nothing were wrong; the file's checksums tell."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
            # A part marked as a directory torch would not read at all, and give what happens to be in the memory.
            directories = [info.filename for info in file.infolist() if info.external_attr & 0x10]
        if damaged or directories:
            raise zipfile.BadZipFile(f"{damaged or directories[0]} was changed since it was written")


def _sync(path: Path) -> None:
    # Windows syncs only what may be written, and no directory; elsewhere a directory opens for reading only.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free_megabytes(directory: Path) -> str:
    try:
        return str(shutil.disk_usage(directory).free // 2**20)
    except OSError:
        return "?"
