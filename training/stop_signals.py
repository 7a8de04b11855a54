"""Signals that ask a process to stop: SIGINT (Ctrl-C), SIGTERM, and SIGHUP (its terminal is gone).

From a command's first line on `EarlyStop` has them, during training `LastCheckpoint`; workers of loaders ignore them.
Only the standard library is imported here: a door takes the signals before torch is imported, which takes seconds.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOP_SIGNALS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_END = b"\0"  # in the pipe: no signal has this number


class Stopped(BaseException):
    """A command with nothing to save was told to stop by the signal `signum`."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


def heeded() -> tuple[signal.Signals, ...]:
    """Those that this process was not started to ignore: `nohup` has SIGHUP ignored, a script's `&` SIGINT."""
    return tuple(number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN)


def ignore() -> None:
    """What a loader's worker does: a signal to the whole process group is the main process's to act on."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def held_back() -> Iterator[None]:
    """Processes that are started in here are never reached by a stop signal, also before they ignore it themselves.

    This process acts on one that comes meanwhile afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def first_calls(end: Callable[[], Any]) -> Iterator[None]:
    """A stop signal calls `end`, for work that ends by one; another ends the process at once."""

    def act(signum: int, frame: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_DFL)
        end()

    before = {number: signal.signal(number, act) for number in heeded()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def rank_of_launcher() -> bool:
    """Whether Lightning's launcher in another process, that of the first rank, started this one."""
    return os.environ.get("LOCAL_RANK", "0") != "0" and "TORCHELASTIC_RUN_ID" not in os.environ


def is_first_rank() -> bool:
    """As far as can be told before there is a Trainer."""
    ranks = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((os.environ[name] for name in ranks if name in os.environ), "0") == "0"


class EarlyStop:
    """Calls `leave(signum)` at once when a stop signal comes, until another has been handed the signals.

    A thread calls it, so that nothing holds it up that blocks the main thread (a library being loaded, a rank awaited).
    """

    current: "EarlyStop | None" = None  # this process's

    def __init__(self, leave: Callable[[int], Any]) -> None:
        self.end_first: list[Callable[[], Any]] = []  # what `leave` has to end before this process ends
        self._leave = leave
        self._asked: int | None = None
        self._successor: Callable[[int, FrameType | None], Any] | None = None
        reading, self._pipe = os.pipe()
        os.set_blocking(self._pipe, False)
        threading.Thread(target=self._watch, args=(reading,), name="early-stop", daemon=True).start()
        signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
        for number in heeded():
            signal.signal(number, self._note)
        EarlyStop.current = self

    def hand_over(self, successor: Callable[[int, FrameType | None], Any]) -> int | None:
        """From now on `successor` gets what comes. Returns the signal that has come and that `leave` let pass."""
        if self._successor is None:
            signal.set_wakeup_fd(-1)
            os.write(self._pipe, _END)
            os.close(self._pipe)
        self._successor = successor
        return self._asked

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if self._successor is not None:
            self._successor(signum, frame)
        else:
            self._asked = signum

    def _watch(self, reading: int) -> None:
        with open(reading, "rb", buffering=0) as pipe:
            while (came := pipe.read(1)) not in (b"", _END):
                if came[0] in STOP_SIGNALS:
                    self._leave(came[0])


def hand_over(successor: Callable[[int, FrameType | None], Any]) -> int | None:
    """`EarlyStop.hand_over` of this process's, where a door made one."""
    return EarlyStop.current.hand_over(successor) if EarlyStop.current else None
