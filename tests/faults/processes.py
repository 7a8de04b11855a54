"""Training processes to watch and to kill.

Most are forked from one process that has imported everything already, which starts one in a second instead of ten; the
others are started by their command line, as a user would.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from command_line.start import start
from tests.conftest import PROJECT

_started: list["Process"] = []
TIMEOUT = 300.0  # seconds; nothing here takes a tenth of it on an idle core


class Hung(AssertionError):
    """A process did not end in time; it was killed."""


class Process:
    """One `train.py`, alone in its session, with its output in the files `out` and `err`.

    Args:
        arguments: of train.py.
        output: beginning of the names of the output files.
        environment: set on top of this process's.
        fork: False starts Python anew.
        tee: stdout and stderr go through `tee`, which gets the signals to the group too.
        shell: what starts it, instead of `"$@"`: redirections, `nohup`. Not with fork.
        launcher: takes the place of the interpreter in the command line. Not with fork.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        output: Path,
        environment: Mapping[str, str] | None = None,
        fork: bool = True,
        tee: bool = False,
        shell: str = '"$@"',
        launcher: Sequence[str] = (sys.executable,),
    ) -> None:
        self.out, self.err = output.with_suffix(".out"), output.with_suffix(".err")
        self._to, self._to_too = self.out, self.err  # where it writes
        environment = {"OMP_NUM_THREADS": "1", **(environment or {})}
        self._tee = self._through_tee() if tee else None
        self.started = time.monotonic()
        if fork:
            self._process = _forkserver().Process(
                target=_train, args=(arguments, self._to, self._to_too, environment, multiprocessing.get_start_method())
            )
            self._process.start()
        else:
            inherited = {name: value for name, value in os.environ.items() if name != "SSD_RUN_DIR"}
            with self._to.open("w") as out, self._to_too.open("w") as err:
                self._process = subprocess.Popen(
                    ["sh", "-c", f"exec {shell}", "sh", *launcher, "train.py", *arguments],
                    **{"cwd": PROJECT, "env": {**inherited, **environment}, "stdout": out, "stderr": err},
                    start_new_session=True,
                )
        self.pid = self._process.pid
        _started.append(self)

    @property
    def code(self) -> int | None:
        """Exit code, -N for death by signal N, None while it runs."""
        if isinstance(self._process, subprocess.Popen):
            return self._process.poll()
        return self._process.exitcode

    def wait(self, timeout: float = TIMEOUT) -> int:
        """The exit code. Raises Hung."""
        if not self.wait_until(lambda: False, timeout) and self.code is None:
            self.kill_all()
            raise Hung(f"still running after {timeout:g} s; {self.last_words()}")
        return self.code

    def wait_until(self, condition: Callable[[], bool], timeout: float = TIMEOUT) -> bool:
        """Whether `condition` became true before the process ended or the time was up."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if condition():
                return True
            if self.code is not None:
                return condition()
            time.sleep(0.002)
        return False

    def signal(self, signum: int) -> None:
        """To this process alone; one that is gone is left alone."""
        if self.code is None:
            os.kill(self.pid, signum)

    def signal_group(self, signum: int) -> None:
        """To all processes of its group and to its `tee`: Ctrl-C in a terminal, `timeout`, systemd."""
        if self._tee is not None:
            self._tee.send_signal(signum)
        if self.code is None:
            os.killpg(self.pid, signum)

    def kill(self) -> None:
        """`kill -9`, and waits for the end."""
        self.signal(signal.SIGKILL)
        self.wait(60)

    def _through_tee(self) -> subprocess.Popen:
        pipe = self.out.with_suffix(".pipe")
        os.mkfifo(pipe)
        self._to = self._to_too = pipe
        self.err.touch()
        return subprocess.Popen(f"exec tee {self.out} < {pipe} > {self.err}", shell=True)

    def family(self) -> list[int]:
        """Living processes of its session: itself, other ranks, data workers."""
        return [pid for pid, (_, session, state) in _processes().items() if session == self.pid and state != "Z"]

    def children(self) -> list[int]:
        return [pid for pid, (parent, _, state) in _processes().items() if parent == self.pid and state != "Z"]

    def seconds_until_alone(self, timeout: float) -> float | None:
        """How long until nothing of its session runs any more; after `timeout` it is killed, and None."""
        start = time.monotonic()
        while time.monotonic() - start < timeout:
            if self.code is not None and not self.family():
                return time.monotonic() - start
            time.sleep(0.05)
        self.kill_all()
        return None

    def kill_all(self) -> None:
        for pid in self.family():
            os.kill(pid, signal.SIGKILL)

    def catches(self, signum: int) -> bool:
        """Whether it has a handler for the signal."""
        status = Path(f"/proc/{self.pid}/status")
        caught = next((line for line in status.read_text().splitlines() if line.startswith("SigCgt:")), "SigCgt: 0")
        return bool(int(caught.split()[1], 16) >> (signum - 1) & 1)

    def last_line(self) -> str:
        """The last line on stdout."""
        return (self.out.read_text().strip().splitlines() or [""])[-1]

    def last_words(self) -> str:
        """The end of what it wrote to stderr."""
        return self.err.read_text().strip()[-600:]

    @property
    def traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.err.read_text()


def end_all() -> None:
    """Kills what still runs of all that was started here."""
    for process in _started:
        process.kill_all()


def warm_up() -> None:
    """Returns when the process that all others are forked from has imported everything."""
    process = _forkserver().Process()
    process.start()
    process.join()


def _forkserver() -> multiprocessing.context.BaseContext:
    os.environ["OMP_NUM_THREADS"] = "1"  # read once, when torch is imported
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.preload"])
    return context


def _train(arguments: Sequence[str], out: Path, err: Path, environment: Mapping[str, str], start_method: str) -> None:
    os.setsid()
    multiprocessing.set_start_method(start_method, force=True)  # of data workers; here it would be forkserver
    for path, descriptor in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    os.environ.update(environment)
    tempfile.tempdir = None  # chosen anew
    os.chdir(PROJECT)
    sys.argv = ["train.py", *arguments]
    start("command_line.fit", command=[sys.executable, "train.py", *arguments])


def _processes() -> dict[int, tuple[int, int, str]]:
    """pid -> parent, session, state."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent, _, session, *_ = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        found[int(stat.parent.name)] = (int(parent), int(session), state)
    return found
