"""Takes away what only Linux or only POSIX has, and the start method `fork`.

Run as Python's sitecustomize: before any library is imported, and in spawned processes too.
"""

import importlib.abc
import multiprocessing
import os
import shutil
import signal
import sys
from typing import Any

MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "pty")
ATTRIBUTES = {
    os: ("sched_getaffinity", "sched_setaffinity", "statvfs", "fstatvfs", "fork", "forkpty", "getuid", "getloadavg")
    + ("O_DIRECTORY", "pread", "posix_fadvise", "mkfifo"),
    signal: ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGALRM", "SIGQUIT", "alarm", "setitimer", "pthread_sigmask"),
}


class _Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


usage = shutil.disk_usage(os.curdir)
shutil.disk_usage = lambda path: usage  # Windows' own needs no statvfs
for module_name in MODULES:
    sys.modules.pop(module_name, None)
sys.meta_path.insert(0, _Missing())
for module, names in ATTRIBUTES.items():
    for attribute in names:
        if hasattr(module, attribute):
            delattr(module, attribute)
# Those of Windows.
WINDOWS_SIGNALS = {signal.SIGINT, signal.SIGILL, signal.SIGFPE, signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT}
signal.valid_signals = lambda: WINDOWS_SIGNALS
multiprocessing.set_start_method("spawn", force=True)
