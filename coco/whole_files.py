"""Files that are whole or not there: written beside their place, and renamed into it; by one process at a time where
several may want to. Here, since every room may import this one."""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

PART = ".part"  # suffix of a file that is being written


@contextmanager
def replacing(path: Path, durable: bool = True, follow: bool = False, **how: Any) -> Iterator[IO]:
    """A file that appears under its name when it is complete. An error in the block leaves what was there, or nothing.

    Args:
        durable: it is on the disk, not only in the system's memory, before it has its name; and what killed processes
            left of it goes. Without, writing thousands of pictures is quicker.
        follow: `path` is what a user typed: where it is a link, the file behind it is meant, and what is no file
            (/dev/stdout, a pipe) is written to. Otherwise neither links nor further names of the file are written
            through.
        how: encoding and so on for a text file; binary without.

    Raises:
        OSError: it cannot be written.
    """
    if follow:
        path = path.resolve()
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            with open(path, "w" if how else "wb", **how) as file:
                yield file
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Short, since the name itself may have the most bytes that there can be.
    name = f".{hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()}"
    part = path.with_name(f"{name}.{os.getpid()}{PART}")
    part.unlink(missing_ok=True)
    if durable:
        _remove_parts(path.parent, name)
    with renamed_when_whole(path, part, durable), open(part, "x" if how else "xb", **how) as file:
        yield file


@contextmanager
def renamed_when_whole(path: Path, part: Path, durable: bool = True) -> Iterator[Path]:
    """`part`, a name beside `path` for the block to write to. It gets the name `path` after the block, and goes where
    an error comes.

    Raises:
        OSError: it cannot be renamed or, where `durable`, brought to the disk.
    """
    try:
        yield part
        if durable:
            _sync(part)
        os.replace(part, path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    if durable:
        with suppress(OSError):  # some network file systems have no sync of a directory
            _sync(path.parent)  # the rename itself


def write_text(path: Path, text: str, follow: bool = False, **how: Any) -> None:
    """`replacing` with a text, in UTF-8."""
    with replacing(path, follow=follow, **{"encoding": "utf-8", **how}) as file:
        file.write(text)


@contextmanager
def growing(path: Path, **how: Any) -> Iterator[IO]:
    """A text file that grows by lines under its own name, for those who follow it; what was there is replaced, and
    never written through.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with open(path, "x", buffering=1, **how) as file:
        yield file


@contextmanager
def alone(path: Path, timeout: float) -> Iterator[None]:
    """Lets one process of those that would make `path` in at a time; an OSError if nothing can be written beside it, or
    the wait is longer than `timeout` seconds.

    The system drops the lock when its holder dies, however it dies. The file goes while it is still locked: filelock
    notices that the file it got the lock of is gone, and tries again.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=timeout) as lock:
        try:
            yield
        finally:
            with suppress(OSError):  # on Windows filelock removes it, afterwards
                os.unlink(lock.lock_file)


def is_alive(pid: str) -> bool:
    """Whether a process of this machine has the number; False where that cannot be told."""
    if not pid.isdigit() or os.name != "posix":
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _remove_parts(directory: Path, name: str) -> None:
    for left in directory.glob(f"{name}.*{PART}"):
        if not is_alive(left.name.split(".")[2]):
            left.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    # Windows syncs only what may be written, and no directory; elsewhere a directory opens for reading only.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
