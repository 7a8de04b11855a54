"""A data worker or a rank is killed: the run ends soon, with one message, leaves no process behind, and is resumed."""

import os
import shlex
import signal
import sys

from tests.faults.lab import Lab, Outcome, broken, last
from tests.faults.stops import PREEMPTED, SIGNALS, START

BOUND = 60.0  # seconds from the death of a rank to the end of the last process


def killed_worker(lab: Lab, times: int) -> Outcome:
    """kill -9 of one of a run's data workers."""
    outcome = Outcome("kill -9 of a data worker")
    for _ in range(times):
        run_dir = lab.new_run("worker")
        process = lab.start(run_dir, "--num_workers", "2")
        lab.wait_after_first_save(process, run_dir)
        workers = process.children()
        if not outcome.check(bool(workers), f"no data worker found: {process.last_words()}"):
            break
        os.kill(lab.random.choice(workers), signal.SIGKILL)
        outcome.injected += 1
        seconds = process.seconds_until_alone(BOUND)
        good = outcome.check(seconds is not None, f"still running after {BOUND:g} s: {process.last_words()}")
        message = process.last_words()
        good &= outcome.check(process.code == 1, f"ended with {process.code}: {message}")
        good &= outcome.check(not process.traceback, f"a traceback: {message}")
        good &= outcome.check("error: a worker of the data loader died" in message, f"it says {message}")
        outcome.failures += (wrong := broken(run_dir))
        outcome.survived += good and not wrong
        lab.say(f"{outcome.fault}: exit code {process.code} after {seconds or BOUND:.1f} s")
        lab.finish(run_dir, outcome, more=("--num_workers", "1"))
    outcome.seen.append("one message, exit code 1")
    return outcome


def killed_rank(lab: Lab, rank: int, compare: bool = True) -> Outcome:
    """kill -9 of one of two ranks.

    Args:
        compare: also resume it, and compare with an undisturbed run of two processes.
    """
    outcome = Outcome(f"kill -9 of rank {rank} of 2")
    run_dir = lab.new_run(f"rank{rank}")
    if compare:
        undisturbed = lab.undisturbed_pair
        process = lab.start(run_dir, "--devices", "2", fork=False)
        lab.wait_after_first_save(process, run_dir, undisturbed)
    else:
        process = lab.start(run_dir, "--devices", "2", "--max_epochs", "99", fork=False)
        process.wait_until(last(run_dir).exists)
    victims = process.children() if rank else [process.pid]
    if not outcome.check(bool(victims), f"no second rank found: {process.last_words()}"):
        return outcome
    os.kill(victims[0], signal.SIGKILL)
    outcome.injected = 1
    seconds = process.seconds_until_alone(BOUND)
    if outcome.check(seconds is not None, f"processes left after {BOUND:g} s: {process.last_words()}"):
        outcome.check(process.code != 0, "exit code 0")
        outcome.seen.append(f"all have ended after {seconds:.1f} s, exit code {process.code}")
        lab.say(f"{outcome.fault}: {outcome.seen[0]}")
    outcome.failures += broken(run_dir)
    outcome.survived += not outcome.failures
    if compare:
        lab.finish(run_dir, outcome, undisturbed, more=("--devices", "2"), fork=False)
    return outcome


def stopped_pair(lab: Lab) -> Outcome:
    """A signal to the first of two processes only, then each signal to both."""
    outcome = Outcome("SIGTERM to the first of 2 ranks; SIGTERM, SIGINT, SIGHUP to both")
    run_dir, undisturbed = lab.new_run("pair"), lab.undisturbed_pair
    slowest = 0.0
    for signum, to_all in ((signal.SIGTERM, False), *((signum, True) for signum in SIGNALS)):
        process = lab.start(run_dir, "--devices", "2", "--num_workers", "1", fork=False)
        lab.wait_after_first_save(process, run_dir, undisturbed)
        (process.signal_group if to_all else process.signal)(signum)
        seconds = process.seconds_until_alone(2 * BOUND)
        if process.code == 0:  # it was complete before the signal came
            lab.compare(run_dir, outcome, undisturbed)
            run_dir = lab.new_run("pair")
            continue
        outcome.injected += 1
        if outcome.check(seconds is not None, f"processes left after {2 * BOUND:g} s: {process.last_words()}"):
            good = outcome.check(process.code == PREEMPTED, f"ended with {process.code}: {process.last_words()}")
            good &= outcome.check(process.last_line().startswith(START), f"last line {process.last_line()!r}")
            good &= outcome.check(not process.traceback, f"a traceback: {process.last_words()}")
            outcome.survived += good and not broken(run_dir)
            slowest = max(slowest, seconds)
        lab.say(f"{outcome.fault}: {outcome.injected}, exit code {process.code}")
    outcome.check(outcome.injected > 1, "the run was complete before the signals came")
    outcome.seen.append(f"all stop within {slowest:.1f} s, exit code {PREEMPTED}")
    if run_dir.exists():
        lab.finish(run_dir, outcome, undisturbed, more=("--devices", "2"), fork=False)
    return outcome


def stopped_torchrun(lab: Lab) -> Outcome:
    """Ctrl-C to torchrun and its two processes; its own exit code is another."""
    outcome = Outcome("SIGINT to torchrun with 2 ranks", injected=1)
    run_dir, undisturbed = lab.new_run("torchrun"), lab.undisturbed_pair
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2")
    process = lab.start(run_dir, "--devices", "2", fork=False, launcher=launcher)
    lab.wait_after_first_save(process, run_dir, undisturbed)
    process.signal_group(signal.SIGINT)
    seconds = process.seconds_until_alone(2 * BOUND)
    outcome.check(seconds is not None, f"processes left after {2 * BOUND:g} s: {process.last_words()}")
    outcome.check(process.code not in (0, None), f"ended with {process.code}")
    said = shlex.join(launcher) in process.last_line()
    outcome.check(said, f"last line {process.last_line()!r}")
    outcome.failures += broken(run_dir)
    outcome.survived += not outcome.failures
    outcome.seen.append("the state is saved, the command with torchrun last")
    lab.finish(run_dir, outcome, undisturbed, more=("--devices", "2"), fork=False)
    return outcome
