"""Standard streams that never end a run: a reader that is gone, a closed terminal, a full disk lose lines, no more.

And they only show text: of what a terminal obeys, only what progress bars need is let through (colours, moves).
"""

import io
import os
import re
import sys
import warnings
from functools import partial
from typing import Any

from coco.names import plain

_BARS = re.compile(r"(\r|\x1b\[[0-9;?]*[A-GKhlm])")


class LastingFile(io.FileIO):
    """Drops what cannot be written; `lost` says whether that was so the last time, or whether it is /dev/null."""

    lost = False
    nowhere = False  # it was closed before this process began

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
            self.lost = self.nowhere
        except OSError:
            written, self.lost = len(data), True
        return written


class PlainText(io.TextIOWrapper):
    def write(self, text: str) -> int:
        if not text.isprintable():
            parts = _BARS.split(text)  # every second one is a bar's
            parts[::2] = [plain(part, lines=True) for part in parts[::2]]
            super().write("".join(parts))
        else:
            super().write(text)
        return len(text)


def make_lasting() -> None:
    """Replaces stdout and stderr; before the imports of what keeps them (logging).

    A descriptor that was closed becomes /dev/null's. Otherwise the next file opened would get its number, and messages.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
    sys.stdout = _lasting(sys.stdout, 1)
    sys.stderr = _lasting(sys.stderr, 2)
    warnings.formatwarning = partial(_plain_warning, warnings.formatwarning)


def say(text: str) -> None:
    """Prints it on stdout; on stderr where stdout is lost."""
    print(text, flush=True)
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", getattr(sys.stdout, "buffer", None))
    if getattr(raw, "lost", False):
        print(text, file=sys.stderr, flush=True)


def _plain_warning(form: Any, message: Warning | str, *args: Any, **kwargs: Any) -> str:
    return form(plain(str(message), lines=True), *args, **kwargs)


def _lasting(stream: Any, number: int) -> io.TextIOWrapper:
    raw = LastingFile(number, "w", closefd=False)
    raw.nowhere = stream is None  # Python found it closed
    unbuffered = stream is not None and stream.write_through  # python -u
    return PlainText(
        raw if unbuffered else io.BufferedWriter(raw),
        encoding=stream.encoding if stream is not None else "utf-8",
        errors="backslashreplace",  # and no character ends it either
        line_buffering=number == 2 or raw.isatty(),
        write_through=unbuffered,
    )
