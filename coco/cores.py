"""How many cores this process may use, on any system, and how many of them others use."""

import os
import time
from pathlib import Path

MOST_WORKERS = 8  # by default; more seldom help one device, and each costs memory


def usable_cores() -> int:
    """The cores that this process may use, where the system says (Linux: `taskset`, SLURM, a container's cpuset); else
    those of the machine."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # not on macOS and Windows
        return os.cpu_count() or 1


def default_workers() -> int:
    """Processes or threads that read pictures, unless the user says how many."""
    return min(usable_cores(), MOST_WORKERS)


def busy_cores(seconds: float = 0.3) -> float | None:
    """How many of the cores that this process may use were at work, meanwhile it waited for so long; None where the
    system does not say (not on Linux)."""
    try:
        before = _ticks()
        time.sleep(seconds)
        shares = [
            (idle - idle_before, ticks - ticks_before)
            for (idle_before, ticks_before), (idle, ticks) in zip(before, _ticks(), strict=True)
        ]
    except (OSError, AttributeError, ValueError):
        return None
    return sum(1 - idle / ticks for idle, ticks in shares if ticks)


def _ticks() -> list[tuple[int, int]]:
    """Of each of the cores since the system's start: idle ticks (waiting for the disk, too), and all. proc(5)"""
    lines = (line.split() for line in Path("/proc/stat").read_text().splitlines() if line.startswith("cpu"))
    of_core = {name: list(map(int, ticks[:8])) for name, *ticks in lines}
    cores = [of_core[f"cpu{core}"] for core in sorted(os.sched_getaffinity(0)) if f"cpu{core}" in of_core]
    return [(ticks[3] + ticks[4], sum(ticks)) for ticks in cores]
