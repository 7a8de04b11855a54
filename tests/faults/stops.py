"""SIGTERM, SIGINT and SIGHUP to the whole process group, as `timeout`, systemd, Ctrl-C and a closed terminal send them.

Whatever the moment: exit code 75, the state saved where there is any, and last the command that goes on with it.
"""

import itertools
import shlex
import signal
import sys
import time
from pathlib import Path

from tests.faults.lab import Lab, Outcome, broken, last
from tests.faults.places import IN_VALIDATION, SIGNALLED, STUCK
from tests.faults.processes import Process

PREEMPTED = 75
TO_STOP = 120.0  # seconds that a stop may take: to the end of one step
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
START = f"{shlex.quote(sys.executable)} train.py "  # how the last line begins
# Hooks of callbacks (places.SignalAt), in the order of a run.
WITHOUT_STATE = (
    "setup",
    "on_fit_start",
    "sanity:on_validation_start",
    "sanity:on_validation_batch_end",
    "on_train_start",
)
WITHIN_THE_RUN = (
    *("on_train_batch_start", "on_before_optimizer_step", "on_save_checkpoint", "on_train_batch_end"),
    *("on_validation_start", "on_validation_batch_end", "on_validation_end", "on_train_epoch_end"),
)
AT_THE_END = ("on_train_end", "on_fit_end", "teardown")


def told_to_stop(lab: Lab, times: int) -> Outcome:
    """Each signal so often with 0 and with 2 workers, at random times from the first save on."""
    outcome = Outcome("SIGTERM, SIGINT, SIGHUP to the group, 0 and 2 workers, at any time")
    run_dir, attempts = None, 0
    cases = list(itertools.product(SIGNALS, ("0", "2"))) * times
    while outcome.injected < len(cases) and not outcome.failures and attempts < 2 * len(cases) + 4:
        attempts += 1
        signum, workers = cases[outcome.injected]
        run_dir = run_dir or lab.new_run("stopped")
        process = lab.start(run_dir, "--num_workers", workers)
        lab.wait_after_first_save(process, run_dir)
        process.signal_group(signum)
        run_dir = _check_stop(lab, outcome, process, run_dir, signum)
    if run_dir is not None:
        _follow(lab, outcome, process, run_dir)
    outcome.check(outcome.injected == len(cases), f"only {outcome.injected} came before the end of a run")
    outcome.seen.append("exit code 75, the command that goes on last")
    return outcome


def told_at_moments(lab: Lab) -> Outcome:
    """A signal at each hook of a run, one run stopped at all of them in turn, others at their end."""
    outcome = Outcome("the same at start, sanity check, step, save, validation, end of epoch and of run")
    cases = zip(itertools.cycle(SIGNALS), itertools.cycle(("0", "2", "2", "0")), strict=False)
    run_dir = lab.new_run("moments")
    for hook in (*WITHOUT_STATE, *WITHIN_THE_RUN):
        process = _signalled_at(lab, outcome, run_dir, hook, *next(cases))
        outcome.check(last(run_dir).exists() == (hook in WITHIN_THE_RUN), f"{hook}: last.ckpt is there, or is not")
    _follow(lab, outcome, process, run_dir)
    for hook in AT_THE_END:
        run_dir = lab.new_run("moments")
        _signalled_at(lab, outcome, run_dir, hook, *next(cases))
        lab.compare(run_dir, outcome)
    outcome.seen.append("exit code 75; before the first step there is nothing to save, later nothing is lost")
    return outcome


def told_while_starting(lab: Lab, times: int) -> Outcome:
    """Each signal so often while Python imports, arguments are parsed and data are checked; one to two ranks."""
    outcome = Outcome("the same while a command starts, its imports included")
    expected = None
    for signum, more in [*((signum, ()) for signum in SIGNALS * times), (signal.SIGTERM, ("--devices", "2"))]:
        run_dir = lab.new_run("starting")
        process = lab.start(run_dir, *more, fork=False)
        process.wait_until(lambda process=process: process.catches(signal.SIGTERM))
        if expected is None:  # measured once: from there to the first step
            begun = time.monotonic()
            process.wait_until(lambda process=process: "run directory:" in process.out.read_text())
            expected = time.monotonic() - begun
        else:
            process.wait_until(lambda: False, lab.random.uniform(0, expected))
        process.signal_group(signum)
        _check_stop(lab, outcome, process, run_dir, signum)
        outcome.check(process.seconds_until_alone(30) is not None, f"{run_dir.name}: processes left")
    outcome.seen.append("exit code 75, the command that starts again")
    return outcome


def told_through_tee(lab: Lab) -> Outcome:
    """`python train.py ... 2>&1 | tee log`: what takes the output ends first."""
    outcome = Outcome("the same to `python train.py ... 2>&1 | tee log`")
    run_dir = lab.new_run("tee")
    for signum in SIGNALS:
        process = lab.start(run_dir, "--num_workers", "2", fork=False, tee=True)
        lab.wait_after_first_save(process, run_dir)
        process.signal_group(signum)
        if _check_stop(lab, outcome, process, run_dir, signum, output=None) is None:
            break
    lab.finish(run_dir, outcome)
    outcome.seen.append("exit code 75, though nothing takes the output any more")
    return outcome


def told_without_output(lab: Lab) -> Outcome:
    """stdout or stderr closed from the start."""
    outcome = Outcome("SIGTERM to a run with stdout or stderr closed")
    run_dir = lab.new_run("closed")
    for closed in (1, 2):
        process = lab.start(run_dir, fork=False, shell=f'"$@" {closed}>&-')
        lab.wait_after_first_save(process, run_dir)
        process.signal_group(signal.SIGTERM)
        output = process.err if closed == 1 else process.out
        _check_stop(lab, outcome, process, run_dir, signal.SIGTERM, output)
    lab.finish(run_dir, outcome)
    outcome.seen.append("exit code 75, the command on the other one")
    return outcome


def nohup(lab: Lab) -> Outcome:
    """SIGHUP to the group of a run under nohup."""
    outcome = Outcome("SIGHUP under nohup", injected=1)
    run_dir = lab.new_run("nohup")
    process = lab.start(run_dir, "--num_workers", "2", fork=False, shell='nohup "$@"')
    lab.wait_after_first_save(process, run_dir)
    process.signal_group(signal.SIGHUP)
    code = process.wait()
    outcome.survived += outcome.check(code == 0, f"ended with {code}: {process.last_words()}")
    lab.compare(run_dir, outcome)
    outcome.seen.append("the run goes on")
    return outcome


def told_to_stop_in_validation(lab: Lab, times: int) -> Outcome:
    """SIGTERM while validating."""
    outcome = Outcome("SIGTERM in validation")
    for _ in range(times):
        run_dir = lab.new_run("stopped_in_validation")
        process = lab.start(run_dir, "--num_workers", "2")
        process.wait_until((run_dir / IN_VALIDATION).exists)
        process.wait_until(lambda: False, lab.random.uniform(0, 0.5 * lab.undisturbed.validation))
        process.signal_group(signal.SIGTERM)
        run_dir = _check_stop(lab, outcome, process, run_dir, signal.SIGTERM)
        if run_dir is not None:
            outcome.check((run_dir / IN_VALIDATION).exists(), "the validation was not stopped, but finished")
            _follow(lab, outcome, process, run_dir)
    outcome.seen.append("stops without finishing it, exit code 75")
    return outcome


def told_twice(lab: Lab) -> Outcome:
    """Ctrl-C twice in a step that takes five minutes."""
    outcome = Outcome("SIGINT twice in a hanging step", injected=1)
    run_dir = lab.new_run("interrupted")
    process = lab.start(run_dir, "--trainer.callbacks+=tests.faults.places.Stuck", fork=False)
    process.wait_until((run_dir / STUCK).exists)
    process.signal_group(signal.SIGINT)
    process.wait_until(lambda: "once more to stop at once" in process.err.read_text(), 10)
    process.signal_group(signal.SIGINT)
    seconds = process.seconds_until_alone(60)
    if outcome.check(seconds is not None, f"still running after 60 s: {process.last_words()}"):
        outcome.check(process.code not in (0, PREEMPTED), f"ended with {process.code}")
        outcome.check(not process.traceback, f"a traceback: {process.last_words()}")
        outcome.seen.append(f"ends after {seconds:.1f} s with exit code {process.code}")
    outcome.failures += broken(run_dir)
    outcome.survived += not outcome.failures
    lab.finish(run_dir, outcome)
    return outcome


def _signalled_at(lab: Lab, outcome: Outcome, run_dir: Path, hook: str, signum: int, workers: str) -> Process:
    at = ("--trainer.callbacks+=tests.faults.places.SignalAt", f"--trainer.callbacks.hook={hook}")
    (run_dir / SIGNALLED).unlink(missing_ok=True)
    sanity = ("--trainer.num_sanity_val_steps", "1") if hook in WITHOUT_STATE[:-1] else ()
    process = lab.start(
        run_dir, *at, f"--trainer.callbacks.name={signal.Signals(signum).name}", *sanity, "--num_workers", workers
    )
    process.wait(2 * TO_STOP)
    outcome.check((run_dir / SIGNALLED).exists(), f"{hook}: no signal was sent")
    lab.say(hook)
    _check_stop(lab, outcome, process, run_dir, signum)
    outcome.check(process.seconds_until_alone(30) is not None, f"{hook}: processes left")
    return process


def _check_stop(
    lab: Lab, outcome: Outcome, process: Process, run_dir: Path, signum: int, output: Path | None = Path()
) -> Path | None:
    """Checks how a run that was told to stop ends. Returns its directory, None if it was complete before.

    `output`: where the command is the last line, by default stdout; None: nowhere.
    """
    code = process.wait(TO_STOP)
    if code == 0:
        lab.compare(run_dir, outcome)
        return None
    outcome.injected += 1
    name = signal.Signals(signum).name
    good = outcome.check(code == PREEMPTED, f"{run_dir.name}: {name} ended with {code}: {process.last_words()}")
    if output is not None:
        line = (output.read_text().strip().splitlines() or [""])[-1] if output.name else process.last_line()
        good &= outcome.check(line.startswith(START), f"{run_dir.name}: last line {line!r}")
    good &= outcome.check(not process.traceback, f"{run_dir.name}: {name} gave a traceback: {process.last_words()}")
    outcome.failures += (wrong := broken(run_dir))
    outcome.survived += good and not wrong
    lab.say(f"{outcome.fault}: {name} {outcome.injected}, exit code {code}")
    return run_dir


def _follow(lab: Lab, outcome: Outcome, process: Process, run_dir: Path, fork: bool = True) -> None:
    """Runs what the last line says, up to the end, and compares."""
    command = shlex.split(process.last_line())
    if not outcome.check(command[:2] == [sys.executable, "train.py"], f"last line {process.last_line()!r}"):
        return
    resumed = Process(command[2:], lab.directory / f"{run_dir.name}_followed", fork=fork)
    code = resumed.wait()
    if outcome.check(code == 0, f"{run_dir.name}: the command ended with {code}: {resumed.last_words()}"):
        lab.compare(run_dir, outcome)
