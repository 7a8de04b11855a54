"""How many cores this process may use, on any system."""

import os

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
