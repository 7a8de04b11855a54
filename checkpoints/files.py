"""Checkpoint files as plain data: read safely, whatever their format; written durably."""

import io
import os
import pickle
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from checkpoints import archive, safe_weights
from checkpoints.dry_run import MAX_BYTES, DryRun
from checkpoints.stand_ins import NotPlain
from coco.whole_files import is_alive, renamed_when_whole

UNFINISHED = ".unfinished"  # suffix of a file that is being written


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: the message names the file, what it holds and what to do."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A local checkpoint file as plain data on the CPU; never runs code from the file.

    Raises:
        CheckpointError: as `read_plain`, or holding no dict.
    """
    checkpoint = read_plain(path)
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path}: holds a {type(checkpoint).__name__}, expected a checkpoint dict")
    return checkpoint


def read_plain(path: str | Path) -> Any:
    """What a file of torch.save's, or of weights as safetensors, holds, on the CPU: the one place where such files are
    opened.

    What torch's holds is counted before it is unpacked (dry_run.py): time and memory are those of a file of its size.

    Raises:
        CheckpointError: no such file, torn, neither kind of file, or holding more than plain data.
    """
    return _read(Path(path), whole=True)


def _read(path: Path, whole: bool) -> Any:
    """What a file holds; if not `whole`, with stand-ins (stand_ins.py) for its tensors, which are not read."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        outline, load = _look_through(path)
        return load() if whole else outline
    except pickle.UnpicklingError as error:
        told = str(error).replace("Weights only load failed.", "").rpartition("WeightsUnpickler error:")[2].strip()
        reason = re.split(r"[.\n] ?(?=[A-Z]|$)", told)[0]
        raise CheckpointError(
            f"{path}: refused, since it is damaged or holds more than tensors and plain data ({reason}). "
            "Only plain-tensor checkpoints are opened, because others can run code."
        ) from None
    except Exception as error:  # on damaged bytes torch raises what it trips over: IndexError, struct.error, ...
        raise CheckpointError(f"{path}: not a readable checkpoint, damaged or cut off ({str(error)[:200]})") from None


def read_outline(path: str | Path) -> dict[str, Any]:
    """What a checkpoint holds but its tensors, in whose place are stand-ins; {} of a file that holds no dict.

    Raises:
        CheckpointError: as `read_plain`.
    """
    outline = _read(Path(path), whole=False)
    return outline if isinstance(outline, dict) else {}


def read_step(path: str | Path) -> int:
    """The optimiser step that a Lightning checkpoint is of, without its tensors; -1 where the file does not say.

    Raises:
        CheckpointError: as `read_plain`.
    """
    step = read_outline(path).get("global_step")
    return step if isinstance(step, int) else -1


def is_published(checkpoint: dict[str, Any]) -> bool:
    """Whether a file's content has the layout of the published recipe (see published.py), whatever it is called."""
    return isinstance(checkpoint.get("model"), dict) and "state_dict" not in checkpoint


def write_durably(checkpoint: dict[str, Any], path: Path, save: Callable[[Any, Path], None] | None = None) -> None:
    """`torch.save`, or another `save`, whose result is complete, on the disk, under `path`, or not there at all.

    Raises:
        CheckpointError: it could not be written; what was under `path` before is untouched.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with renamed_when_whole(path, unfinished):
            (save or torch.save)(checkpoint, unfinished)
    except (OSError, RuntimeError) as error:  # torch's own writer raises RuntimeError for a full disk
        free = _free_megabytes(path.parent)
        raise CheckpointError(
            f"{path}: the checkpoint could not be written ({str(error).splitlines()[0]}; {free} MB free). "
            f"{'The one written before is untouched' if path.is_file() else 'None was there before'}; "
            "make room or give another --run_dir, and resume"
        ) from None


def remove_unfinished(directory: Path) -> None:
    """Deletes what killed processes left half written; what a living one writes stays."""
    for path in directory.glob(f".*{UNFINISHED}"):
        if is_alive(path.name.removesuffix(UNFINISHED).rpartition(".")[2]):
            continue
        path.unlink(missing_ok=True)
        rank_zero_info(f"{path}: removed, an unfinished checkpoint of a process that was killed")


def _look_through(path: Path) -> tuple[Any, Callable[[], Any]]:
    """A file's content with stand-ins for its tensors, or without them, and what reads all of it."""
    if _starts_with(path, archive.START):
        return _look_through_zip(path)
    if safe_weights.is_safetensors(path):
        return safe_weights.read(path, whole=False), partial(safe_weights.read, path)
    return _look_through_legacy(path)


def _look_through_zip(path: Path) -> tuple[Any, Callable[[], Any]]:
    """As torch.save writes since 1.6."""
    data, storages = archive.read_archive(path, MAX_BYTES)

    def check(key: str, length: int) -> None:
        if storages.get(key) != length:
            raise NotPlain(f"storage {key!r} of {length} bytes, which the file does not have")

    outline = DryRun(data, check, path.stat().st_size).next()
    return outline, lambda: torch.load(path, map_location="cpu", weights_only=True)


def _look_through_legacy(path: Path) -> tuple[Any, Callable[[], Any]]:
    """As torch.save wrote before: a magic number, the protocol, the system, the content, storage keys; storages."""
    size, claimed = path.stat().st_size, 0

    def check(key: str, length: int) -> None:
        nonlocal claimed
        claimed += length
        if claimed > size:  # torch makes all of them before it reads one
            raise NotPlain(f"storages of {claimed} bytes in a file of {size}")

    with open(path, "rb") as file:
        run = DryRun(file.read(MAX_BYTES), check, size)
    _, _, _, outline, _ = (run.next() for _ in range(5))

    def load() -> Any:
        with io.BufferedReader(_Unnumbered(path)) as unnumbered:
            return torch.load(unnumbered, map_location="cpu", weights_only=True)

    return outline, load


class _Unnumbered(io.FileIO):
    """A file without a descriptor: in one with a descriptor torch looks for a tar file first, and unpacks it."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")


def _starts_with(path: Path, start: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(start)) == start


def _free_megabytes(directory: Path) -> str:
    try:
        return str(shutil.disk_usage(directory).free // 2**20)
    except OSError:
        return "?"
