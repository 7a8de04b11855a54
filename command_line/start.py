"""How every door starts: first signals and output, then the imports, which take seconds."""

import importlib
import multiprocessing
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial

from command_line.streams import make_lasting, say
from training import stop_signals
from training.stop_signals import EarlyStop, Stopped, is_first_rank, rank_of_launcher

PREEMPTED = 75  # exit code, EX_TEMPFAIL: stopped by a signal with its state saved; start it again to go on
RESUMABLE = ("command_line.fit", "command_line.published")
FIRST_RANK = "SSD_FIRST_RANK"  # environment: the process id of the rank that starts others by Lightning's launcher
GRACE = 5.0  # seconds that a rank has to end by itself once the first one is gone
# Of OpenMP, unless the user set it; read when torch is imported. Threads that wait sleep, and leave their core to
# others: by default they spin, and on a shared machine a run gets next to nothing done (docs/performance.md).
THREADS = {"OMP_WAIT_POLICY": "passive"}
AT_ONCE = ("command_line.evaluate",)  # ranks and all; others leave by an exception, and clean up


def start(module: str, args: Sequence[str] | None = None, command: Sequence[str] = ()) -> None:
    """Calls `main` of a module of command_line/ as a process of its own, and ends with its exit code.

    Args:
        args: of the command; those of the process by default.
        command: what a user types to start it; by default what was typed, with the interpreter that runs it.
    """
    command = list(command) or typed_command()
    resumable = module in RESUMABLE
    prepare(command if resumable else None)
    main = partial(importlib.import_module(module).main, args, **({"command": command} if resumable else {}))
    if not resumable and module not in AT_ONCE:
        stop_signals.hand_over(_raise)
    importlib.import_module("command_line.shared").run(main)


def prepare(command: Sequence[str] | None = None) -> None:
    """Output that lasts, threads that share their cores (`THREADS`); and a stop signal ends the process at once, with
    one message and the command if there is one.

    Its exit code is then `PREEMPTED`; without a command 128 + the signal, as in shells. A rank that Lightning's
    launcher started ends when the first one is gone, however that ended.
    """
    make_lasting()
    for name, value in THREADS.items():
        os.environ.setdefault(name, value)
    EarlyStop(partial(_leave, command))
    if rank_of_launcher() and FIRST_RANK in os.environ and os.name == "posix":
        first = int(os.environ[FIRST_RANK])
        threading.Thread(target=_end_after, args=(first,), name="first-rank", daemon=True).start()


def typed_command() -> list[str]:
    """What started this process, as it can be pasted."""
    python = sys.executable or "python3"
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return [python, *sys.orig_argv[1:]]
    torchrun = [python, "-m", "torch.distributed.run", f"--nproc_per_node={os.environ['LOCAL_WORLD_SIZE']}"]
    if os.environ.get("GROUP_WORLD_SIZE", "1") != "1":
        names = {"nnodes": "GROUP_WORLD_SIZE", "node_rank": "GROUP_RANK"}
        names |= {"master_addr": "MASTER_ADDR", "master_port": "MASTER_PORT"}
        torchrun += [f"--{flag}={os.environ[name]}" for flag, name in names.items()]
    return [*torchrun, *sys.argv]


def _leave(command: Sequence[str] | None, signum: int) -> None:
    parent = str(os.getppid())
    if rank_of_launcher() and os.environ.get(FIRST_RANK, parent) == parent:  # else an orphan's new parent is not ours
        os.kill(os.getppid(), signal.SIGTERM)  # all ranks stop, or none: the first one knows whether anything is saved
        return
    if is_first_rank():
        again = f" before there was anything new to save. To start again:\n{shlex.join(command)}" if command else ""
        say(f"stopped by {signal.Signals(signum).name}{again}")
    for end in EarlyStop.current.end_first if EarlyStop.current else ():
        end()
    _end(128 + signum if command is None else PREEMPTED)


def _end(status: int) -> None:
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(status)


def _end_after(first: int) -> None:
    """Waits for the first rank's end, which another one, awaiting a connection, would notice after 30 minutes."""
    while os.getppid() == first:
        time.sleep(0.5)
    time.sleep(GRACE)
    _end(1)


def _raise(signum: int, frame: object) -> None:
    signal.signal(signum, lambda *_: os._exit(128 + signum))  # once more: without cleaning up
    raise Stopped(signum)
