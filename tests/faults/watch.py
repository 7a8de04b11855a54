"""Notes what a piece of code opens and starts that it should not."""

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

LIBRARY = tuple({os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__))})
FONTS = ("/usr/share/fonts", "/usr/local/share/fonts")
PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect"}


class Watch:
    """Notes, through Python's audit events, which files outside the directories given are opened and what is run."""

    def __init__(self) -> None:
        self.inside: tuple[str, ...] | None = None  # None: not watching
        self.seen: list[str] = []
        sys.addaudithook(self._on_event)

    @contextlib.contextmanager
    def within(self, *directories: Path):
        self.inside, self.seen = tuple(os.path.realpath(directory) for directory in directories), []
        try:
            yield
        finally:
            self.inside = None

    def _on_event(self, event: str, arguments: tuple) -> None:
        if self.inside is None:
            return
        if event in PROGRAMS:
            self.seen.append(f"{event} {arguments[:2]}")
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            if os.fsdecode(arguments[0]) == os.path.basename(os.fsdecode(arguments[0])):
                return  # shutil.rmtree, in a directory that it has open; no case gives a bare name
            path = os.path.realpath(os.fsdecode(arguments[0]))
            imported = _is_below(path, LIBRARY) and path.endswith((".py", ".pyc", ".so", ".ttf", ".mplstyle"))
            imported |= _is_below(path, FONTS)
            if not imported and not _is_below(path, self.inside):
                self.seen.append(f"open {path}")


def _is_below(path: str, directories: Sequence[str]) -> bool:
    return any(path == directory or path.startswith(directory + os.sep) for directory in directories)
