"""Disks that are full, take no larger files, or are read-only. Where nothing can be mounted, most are skipped."""

import contextlib
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.faults.lab import Lab, Outcome, broken, unfinished
from tests.faults.processes import Process


class CannotMount(Exception):
    """Says why."""


def full(lab: Lab, times: int) -> Outcome:
    """The run's disk (a tmpfs) fills up at a random moment; room is made again; the run goes on."""
    outcome = Outcome("disk full")
    for _ in range(times):
        with _mounted(lab, "-t", "tmpfs", "-o", "size=700m", "tmpfs") as disk:
            run_dir = disk / "run"
            process = _until_a_save(lab, run_dir)
            ballast = disk / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(2**16))
            _check_end(lab, outcome, process, run_dir, "make room")
            ballast.unlink()
            lab.finish(run_dir, outcome)
    outcome.seen.append("one message, exit code 1")
    return outcome


def limited(lab: Lab, times: int) -> Outcome:
    """From a random moment on the process may write no file as large as a checkpoint (`ulimit -f`)."""
    outcome = Outcome("file size limit")
    for _ in range(times):
        run_dir = lab.new_run("limited")
        process = _until_a_save(lab, run_dir)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (2**24, 2**24))
        _check_end(lab, outcome, process, run_dir, "could not be written")
        lab.finish(run_dir, outcome)
    outcome.seen.append("one message, exit code 1")
    return outcome


def read_only_run_directory(lab: Lab) -> Outcome:
    """From the start on."""
    outcome = Outcome("read-only run directory")
    with _mounted(lab, "-t", "tmpfs", "-o", "ro", "tmpfs") as disk:
        process = lab.start(disk / "run")
        process.wait()
        _check_end(lab, outcome, process, disk / "run", "cannot be written (Read-only file system)")
    outcome.seen.append("one message before any training, exit code 1")
    return outcome


def checkpoints_become_read_only(lab: Lab) -> Outcome:
    """In the middle of a run."""
    outcome = Outcome("checkpoint directory becomes read-only")
    run_dir = lab.new_run("read_only")
    process = _until_a_save(lab, run_dir)
    with _read_only(run_dir / "checkpoints"):
        _check_end(lab, outcome, process, run_dir, "Read-only file system")
    lab.finish(run_dir, outcome)
    outcome.seen.append("one message, exit code 1")
    return outcome


def read_only_data(lab: Lab) -> Outcome:
    """Training from it is a run like any other."""
    outcome = Outcome("read-only data directory", injected=1)
    data = lab.directory / "read_only_data"
    shutil.copytree(lab.data, data, ignore=shutil.ignore_patterns("*.index"))
    run_dir = lab.new_run("read_only_data")
    with _read_only(data):
        more = ("--data_root", str(data))
        lab.finish(run_dir, outcome, more=more, environment={"XDG_CACHE_HOME": str(lab.directory / "cache")})
    outcome.survived += not outcome.failures
    outcome.seen.append("trains")
    return outcome


def _until_a_save(lab: Lab, run_dir: Path) -> Process:
    process = lab.start(run_dir)
    lab.wait_after_first_save(process, run_dir)
    return process


def _check_end(lab: Lab, outcome: Outcome, process: Process, run_dir: Path, message: str) -> None:
    outcome.injected += 1
    code, words = process.wait(), process.last_words()
    good = outcome.check(code == 1, f"ended with {code}: {words}")
    good &= outcome.check(not process.traceback, f"a traceback: {words}")
    good &= outcome.check("error: " in words and message in words, f"without {message!r}: {words}")
    wrong = broken(run_dir) + [f"left behind: {path}" for path in unfinished(run_dir)]
    outcome.failures += wrong
    outcome.survived += good and not wrong
    lab.say(f"{outcome.fault}: exit code {code}")


@contextlib.contextmanager
def _mounted(lab: Lab, *options: str) -> Iterator[Path]:
    """A file system of its own, of these options of `mount`."""
    disk = lab.new_run("disk")
    disk.mkdir()
    _mount(*options, str(disk))
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@contextlib.contextmanager
def _read_only(directory: Path) -> Iterator[None]:
    _mount("--bind", str(directory), str(directory))
    try:
        _mount("-o", "remount,bind,ro", str(directory))
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def _mount(*arguments: str) -> None:
    try:
        done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    except OSError as error:
        raise CannotMount(f"mount: {error}") from None
    if done.returncode:
        raise CannotMount(done.stderr.strip())
