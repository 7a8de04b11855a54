"""DurableCheckpointIO: checkpoints that are whole or not there, written while training goes on.

Lightning's own writes into the temporary directory and moves, without fsync: a power cut, a full disk or a temporary
directory on another file system can leave half a file under the final name.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from pytorch_lightning.plugins.io import CheckpointIO
from typing_extensions import override

from checkpoints.files import is_published, read_checkpoint, write_durably
from checkpoints.published import to_ours


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
        return to_ours(checkpoint, path) if is_published(checkpoint) else checkpoint

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
