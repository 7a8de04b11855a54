"""The fault suite: `python -m tests.faults.run [--kills 50] [--seed 0] [--only NAME ...] [--json FILE]`.

Injects faults into small training runs, counts what survives, resumes every run up to its end, and compares it with one
that nothing happened to. Prints a Markdown table, and ends with exit code 1 if anything was lost.
"""

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tests.faults import deaths, disks, files, kills, stops
from tests.faults.lab import Lab, Outcome


def faults(number_of_kills: int) -> dict[str, Callable[[Lab], Outcome]]:
    """Name -> what injects it. Of the kills two fifths are inside a checkpoint write, one fifth in validation."""
    writing, validating = -(-2 * number_of_kills // 5), -(-number_of_kills // 5)
    anywhere = number_of_kills - writing - validating
    return {
        "kill": partial(kills.killed, anywhere=anywhere, writing=writing, validating=validating),
        "tmpdir": partial(kills.killed_with_temporary_directory_elsewhere, times=3),
        "stop": partial(stops.told_to_stop, times=2),
        "stop-moments": stops.told_at_moments,
        "stop-start": partial(stops.told_while_starting, times=2),
        "stop-tee": stops.told_through_tee,
        "stop-closed": stops.told_without_output,
        "stop-validation": partial(stops.told_to_stop_in_validation, times=2),
        "nohup": stops.nohup,
        "interrupt": stops.told_twice,
        "worker": partial(deaths.killed_worker, times=2),
        "rank1": partial(deaths.killed_rank, rank=1),
        "rank0": partial(deaths.killed_rank, rank=0),
        "stop-pair": deaths.stopped_pair,
        "stop-torchrun": deaths.stopped_torchrun,
        "full": partial(disks.full, times=2),
        "limit": partial(disks.limited, times=1),
        "read-only-run": disks.read_only_run_directory,
        "read-only-checkpoints": disks.checkpoints_become_read_only,
        "read-only-data": disks.read_only_data,
        "flipped": partial(files.flipped_bits, times=40),
        "cut": partial(files.cut_off, times=40),
        "torn": files.torn_last,
        "malicious": files.malicious,
    }


def main(args: Sequence[str] | None = None) -> int:
    names = list(faults(0))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="How often kill -9 is to hit (default 50).")
    parser.add_argument("--seed", type=int, default=0, help="Of the random times and places.")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="These faults only.")
    parser.add_argument("--json", type=Path, help="Also write the outcomes to this file.")
    options = parser.parse_args(args)
    # For `finally` and `with` (mounts, processes) to be done with.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # A shell that starts this in the background has SIGINT ignored, and every run would take that over, as it should.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults_", ignore_cleanup_errors=True) as directory:
        lab = Lab(Path(directory), seed=options.seed, say=partial(say, begun))
        outcomes = [
            _outcome(name, inject, lab) for name, inject in faults(options.kills).items() if name in options.only
        ]
    print(table(outcomes))
    minutes = (time.monotonic() - begun) / 60
    print(f"\n{sum(outcome.injected for outcome in outcomes)} faults, seed {options.seed}, {minutes:.1f} minutes")
    for outcome in outcomes:
        for failure in outcome.failures:
            print(f"FAILED {outcome.fault}: {failure}")
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=2) + "\n")
    return 0 if all(outcome.ok for outcome in outcomes) else 1


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown."""
    rows = [
        ("fault", "injected", "survived", "final state equal to the undisturbed run's", "what is seen"),
        ("---", "---:", "---:", "---:", "---"),
    ]
    for outcome in outcomes:
        if outcome.skipped:
            rows.append((outcome.fault, "0", "", "", f"skipped: {outcome.skipped}"))
            continue
        equal = f"{outcome.equal} of {outcome.finished} runs" if outcome.finished else ""
        seen = "; ".join([*outcome.seen, *(["**failed**"] if not outcome.ok else [])])
        rows.append((outcome.fault, str(outcome.injected), str(outcome.survived), equal, seen))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def say(begun: float, line: str) -> None:
    print(f"{time.monotonic() - begun:6.0f} s  {line}", file=sys.stderr, flush=True)


def _outcome(name: str, inject: Callable[[Lab], Outcome], lab: Lab) -> Outcome:
    lab.say(name)
    try:
        outcome = inject(lab)
    except disks.CannotMount as error:
        return Outcome(name, skipped=f"cannot mount here ({error})")
    except Exception as error:  # the other faults still have their turn
        outcome = Outcome(name, failures=[f"{type(error).__name__}: {error}"])
    for failure in outcome.failures:
        lab.say(f"FAILED {failure}")
    return outcome


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
