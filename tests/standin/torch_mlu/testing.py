"""What a test asks of the stand-in, and of no real device: which copies were made, which operators ran."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from .library import _C

_NOT_THE_CALLERS = (*(str(Path(file).parent) + os.sep for file in (torch.__file__, __file__)), contextlib.__file__)


@dataclass(frozen=True)
class Transfer:
    """One copy between host and device, or ("d2d") between two devices.

    A read of a value or a count by the host (`.item()`, `nonzero`, a boolean index, `torch.equal`, ...) is a "d2h" too:
    the host waits for it. `frames` are the Python frames from the innermost out, as "file:line function"; copies made
    by autograd's own threads have none.
    """

    direction: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    frames: tuple[str, ...] = field(repr=False)
    where: str  # the innermost frame outside PyTorch and the standard library's contextlib

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * getattr(torch, self.dtype).itemsize


def _frames() -> Iterator[tuple[str, str]]:
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        yield code.co_filename, f"{code.co_filename}:{frame.f_lineno} {code.co_name}"
        frame = frame.f_back


_DTYPES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16", "Bool": "bool",
    "Byte": "uint8", "Char": "int8", "Short": "int16", "Int": "int32", "Long": "int64",
}  # fmt: skip


@contextlib.contextmanager
def record_transfers() -> Iterator[list[Transfer]]:
    """Yields a list that grows by every copy between host and device made in this process, by any thread."""
    transfers: list[Transfer] = []

    def note(direction: str, op: str, shape: list[int], dtype: str) -> None:
        frames = list(_frames())
        callers = (text for file, text in frames if not file.startswith(_NOT_THE_CALLERS))
        where = next(callers, "a thread of autograd")
        transfers.append(
            Transfer(direction, op, tuple(shape), _DTYPES.get(dtype, dtype), tuple(text for _, text in frames), where)
        )

    _C.record_transfers_to(note)
    try:
        yield transfers
    finally:
        _C.record_transfers_to(None)


@contextlib.contextmanager
def record_operators() -> Iterator[set[str]]:
    """Yields a set that holds, after the block, the names of the operators that ran on the device ("aten::add.out")."""
    names: set[str] = set()
    _C.start_recording_operators()
    try:
        yield names
    finally:
        names.update(_C.stop_recording_operators())
