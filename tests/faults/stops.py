"""SIGTERM and SIGINT: the state is saved, exit code 75, and the last line on stdout is the command that goes on."""

import shlex
import signal
from pathlib import Path

from tests.faults.lab import Lab, Outcome, broken
from tests.faults.places import IN_VALIDATION, STUCK
from tests.faults.processes import Process

PREEMPTED = 75
TO_STOP = 120.0  # seconds that a stop may take: to the end of one step


def told_to_stop(lab: Lab, times: int, fork: bool = True) -> Outcome:
    """SIGTERM and SIGINT in turn, each so often, at random times from the first save on."""
    outcome = Outcome("SIGTERM, SIGINT" + ("" if fork else ", `python train.py` started and resumed as printed"))
    run_dir, attempts = None, 0
    while outcome.injected < 2 * times and not outcome.failures and attempts < 4 * times + 4:
        attempts += 1
        signum = (signal.SIGTERM, signal.SIGINT)[outcome.injected % 2]
        run_dir = run_dir or lab.new_run("stopped")
        process = lab.start(run_dir, fork=fork)
        lab.wait_after_first_save(process, run_dir)
        run_dir = _stop(lab, outcome, process, run_dir, signum)
    if run_dir is not None:
        _follow(lab, outcome, process, run_dir, fork)
    outcome.check(outcome.injected == 2 * times, f"only {outcome.injected} of {2 * times} came before the end of a run")
    outcome.seen.append("exit code 75, the command to resume last")
    return outcome


def told_to_stop_in_validation(lab: Lab, times: int) -> Outcome:
    """SIGTERM while validating."""
    outcome = Outcome("SIGTERM in validation")
    for _ in range(times):
        run_dir = lab.new_run("stopped_in_validation")
        process = lab.start(run_dir)
        process.wait_until((run_dir / IN_VALIDATION).exists)
        process.wait_until(lambda: False, lab.random.uniform(0, 0.5 * lab.undisturbed.validation))
        run_dir = _stop(lab, outcome, process, run_dir, signal.SIGTERM)
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
    process.signal(signal.SIGINT)
    process.wait_until(lambda: "once more to stop at once" in process.err.read_text(), 10)
    process.signal(signal.SIGINT)
    seconds = process.seconds_until_alone(60)
    if outcome.check(seconds is not None, f"still running after 60 s: {process.last_words()}"):
        outcome.check(process.code not in (0, PREEMPTED), f"ended with {process.code}")
        outcome.seen.append(f"ends after {seconds:.1f} s with exit code {process.code}")
    outcome.failures += broken(run_dir)
    outcome.survived += not outcome.failures
    lab.finish(run_dir, outcome)
    return outcome


def _stop(lab: Lab, outcome: Outcome, process: Process, run_dir: Path, signum: int) -> Path | None:
    """Stops a run and checks how it ends. Returns its directory, None if it was complete before."""
    process.signal(signum)
    code = process.wait(TO_STOP)
    if code == 0:
        lab.compare(run_dir, outcome)
        return None
    outcome.injected += 1
    name = signal.Signals(signum).name
    good = outcome.check(code == PREEMPTED, f"{run_dir.name}: {name} ended with {code}: {process.last_words()}")
    good &= outcome.check(
        process.last_line().startswith("python train.py "), f"{run_dir.name}: last line {process.last_line()!r}"
    )
    good &= outcome.check(not process.traceback, f"{run_dir.name}: {name} gave a traceback: {process.last_words()}")
    outcome.failures += (wrong := broken(run_dir))
    outcome.survived += good and not wrong
    lab.say(f"{outcome.fault}: {name} {outcome.injected}, exit code {code}")
    return run_dir


def _follow(lab: Lab, outcome: Outcome, process: Process, run_dir: Path, fork: bool = True) -> None:
    """Runs what the last line says, up to the end, and compares."""
    command = shlex.split(process.last_line())
    if not outcome.check(command[:2] == ["python", "train.py"], f"last line {process.last_line()!r}"):
        return
    resumed = Process(command[2:], lab.directory / f"{run_dir.name}_followed", fork=fork)
    code = resumed.wait()
    if outcome.check(code == 0, f"{run_dir.name}: the command ended with {code}: {resumed.last_words()}"):
        lab.compare(run_dir, outcome)
