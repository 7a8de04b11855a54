"""DurableCheckpointIO: checkpoints that are whole or not there, written while training goes on.

Lightning's own writes into the temporary directory and moves, without fsync: a power cut, a full disk or a temporary
directory on another file system can leave half a file under the final name.
"""

import contextlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from typing_extensions import override

from checkpoints import CheckpointError, is_published, read_checkpoint

UNFINISHED = ".unfinished"  # suffix of a file that is being written


class DurableCheckpointIO(CheckpointIO):
    """Writes beside the target, fsyncs, and renames: at any moment the last complete file is under its name.

    A copy of the tensors is taken at once; a thread writes it. The next save, `teardown` and `wait` wait for the write
    before, and raise its error. Loading takes our checkpoints and those of the published recipe, as plain data only.

    Args:
        background: False writes before `save_checkpoint` returns.
    """

    def __init__(self, background: bool = True) -> None:
        self.background = background
        self._executor: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises CheckpointError if this or, in the background, the write before failed (disk full, read-only ...)."""
        if storage_options is not None:
            raise TypeError(f"DurableCheckpointIO writes local files and takes no storage_options={storage_options!r}")
        self.wait()
        if not self.background:
            return write_durably(checkpoint, Path(path))
        snapshot = apply_to_collection(checkpoint, torch.Tensor, lambda tensor: tensor.detach().to("cpu", copy=True))
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending = self._executor.submit(write_durably, snapshot, Path(path))

    @override
    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Plain data on the CPU, whatever is asked for: the strategy moves it, and nothing else is ever opened."""
        self.wait()
        checkpoint = read_checkpoint(path)
        if is_published(checkpoint):
            from export import lightning_checkpoint  # export writes with this module

            return lightning_checkpoint(checkpoint, path)
        return checkpoint

    @override
    def remove_checkpoint(self, path: str | Path) -> None:
        self.wait()  # the file that replaces this one comes first
        Path(path).unlink(missing_ok=True)

    @override
    def teardown(self) -> None:
        try:
            self.wait()
        finally:
            if self._executor is not None:
                self._executor.shutdown()
                self._executor = None

    def wait(self) -> None:
        """Returns when the last save is on the disk; raises CheckpointError if it failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free_megabytes(directory: Path) -> str:
    try:
        state = os.statvfs(directory)
    except OSError:
        return "?"
    return str(state.f_bavail * state.f_frsize // 2**20)
