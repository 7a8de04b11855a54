"""Feeds damaged and odd inputs to whoever reads them: each must be taken, or refused in our words.

    python -m tests.faults.fuzz_inputs --cases 10000 --seed 0     # a table of what happened; exit code 1 on any failure
    python -m tests.faults.fuzz_inputs --only 4711 --seed 0       # one case again, its files kept
    python -m tests.faults.fuzz_inputs --of checkpoints pictures names --cases 10000

A case is an input made from (seed, case number), then what we do with it: of `data` (annotation files, their caches and
pictures; the default) what training does; of the others see their files. It fails if it ends in anything but success
or an error of ours that names the file; if it lets through what training cannot use; if it takes longer or more memory
than its limits; if it opens a file outside the data set or starts a program. Links that the user made below the data
set are followed, as data sets are often linked together.

Cases run in forked processes: what crashes, hangs or exhausts memory there is reported, and the next case goes on.
"""

import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from coco.names import plain
from tests.faults import checkpoint_inputs, name_inputs, picture_inputs
from tests.faults.inputs import FAMILIES, InputCase, prepare
from tests.faults.refusals import kind_of, out_of_memory
from tests.faults.watch import Watch

TIME_LIMIT = 60.0  # s a case, after which it counts as hanging; on a busy machine too
MEMORY_LIMIT = 1536 * 2**20  # bytes a case may take on top of what is there; Pillow's largest picture is 179 Mpixel
MESSAGE = 2000  # characters
ROOM = 512 * 2**20  # bytes of addresses beyond it: a thread reserves 72 MiB, and uses few of them


@dataclass(frozen=True)
class Suite:
    """Cases of one kind of input."""

    families: tuple[str, ...]  # of its cases, one after the other
    prepare: Callable[[Path, int], Any]
    case: Callable[[str, Random, Path, Any], Any]
    seconds: float = 2.0  # of processor time that a case may take
    memory: int = 2**30  # bytes


SUITES = {
    "data": Suite(FAMILIES, prepare, lambda *args: InputCase(*args), TIME_LIMIT, MEMORY_LIMIT),
    "checkpoints": Suite(checkpoint_inputs.FAMILIES, checkpoint_inputs.prepare, checkpoint_inputs.CheckpointCase),
    "pictures": Suite(picture_inputs.FAMILIES, picture_inputs.prepare, picture_inputs.PictureCase),
    "names": Suite(name_inputs.FAMILIES, name_inputs.prepare, name_inputs.NameCase),
}


class Cases:
    """What the cases of some suites are made from: case n has family n of theirs, from the first again at their end."""

    def __init__(self, suites: Sequence[str], seed: int, root: Path, seconds: float | None = None) -> None:
        self.seed, self.root, self.seconds = seed, root, seconds
        self.families = [(name, family) for name in suites for family in SUITES[name].families]
        self.bases = {name: SUITES[name].prepare(root, seed) for name in suites}

    def family(self, number: int) -> str:
        return self.families[number % len(self.families)][1]

    def suite(self, number: int) -> Suite:
        return SUITES[self.families[number % len(self.families)][0]]

    def make(self, number: int) -> Any:
        name, family = self.families[number % len(self.families)]
        return SUITES[name].case(family, Random(f"{self.seed} {number}"), self.root, self.bases[name])


@dataclass
class Outcome:
    case: int
    family: str
    verdict: str  # accepted, rejected or failed
    kind: str  # of the rejection: a key of KINDS; of the failure: what went wrong
    seconds: float
    peak_bytes: int = 0  # resident, above what was there before
    processor: float = 0.0  # s
    detail: str = ""


def run_case(case: Any, root: Path, watch: Watch) -> tuple[str, str, str]:
    """Verdict, kind and detail of one case."""
    try:
        with watch.within(root / "data", root / "cache", root / "out"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.use()
        verdict, kind, detail = "accepted", "", ""
    except case.own_errors as error:
        verdict, kind, detail = "rejected", kind_of(str(error)), str(error)
        if str(case.path) not in detail:
            verdict, kind = "failed", "the message does not name the file"
        if len(detail) > MESSAGE:
            verdict, kind = "failed", "the message is longer than a screen"
        if out_of_memory(error):
            verdict, kind = "failed", "refused only when memory ran out"
    except BaseException as error:
        verdict, kind, detail = "failed", f"{type(error).__name__}: {str(error)[:100]}", traceback.format_exc()
    if watch.seen:
        return "failed", "opened or started what it should not", "; ".join(watch.seen)
    return verdict, kind, detail


def fuzz(numbers: Iterable[int], cases: Cases) -> Iterable[Outcome]:
    """The outcomes of these cases, one after the other."""
    todo, child = collections.deque(numbers), None
    context = multiprocessing.get_context("fork")
    while todo:
        ours, theirs = context.Pipe()
        child = context.Process(target=_run_cases, args=(list(todo), cases, theirs))
        child.start()
        theirs.close()
        while todo and child is not None:
            try:
                if not ours.poll(TIME_LIMIT):
                    raise TimeoutError
                outcome = ours.recv()
            except (EOFError, TimeoutError) as error:
                outcome = _end(child, todo[0], isinstance(error, TimeoutError), cases)
                child = None  # another one goes on with the next case
            todo.popleft()
            yield outcome
    if child:
        child.join()


def _end(child: multiprocessing.Process, number: int, hung: bool, cases: Cases) -> Outcome:
    """The outcome of the case in which the child died or did not come to an end."""
    child.kill()
    child.join()
    kind = f"no end after {TIME_LIMIT:g} s" if hung else f"the process died (exit code {child.exitcode})"
    said = (cases.root / "native_output.txt").read_text(errors="replace")[-2000:]
    return Outcome(number, cases.family(number), "failed", kind, TIME_LIMIT if hung else 0.0, detail=said)


def _run_cases(numbers: Sequence[int], cases: Cases, connection: Connection) -> None:
    """In the child: all cases in turn, each outcome sent as soon as it is there."""
    os.environ["XDG_CACHE_HOME"] = str(cases.root / "cache")
    with open(cases.root / "native_output.txt", "ab") as file:
        os.dup2(file.fileno(), 2)  # libtiff and others write there
    watch = Watch()
    for number in numbers:
        suite, case = cases.suite(number), cases.make(number)
        before = _start_measuring(suite.memory)
        started, used = time.monotonic(), time.process_time()
        verdict, kind, detail = run_case(case, cases.root, watch)
        taken, processor = time.monotonic() - started, time.process_time() - used
        peak = _memory("VmHWM") - before
        seconds = cases.seconds or suite.seconds
        if verdict != "failed" and processor > seconds:
            verdict, kind, detail = "failed", f"took more than {seconds:g} s", f"{processor:.2f} s; {detail}"
        if verdict != "failed" and peak > suite.memory:
            verdict, kind, detail = "failed", "took more than its memory", f"{peak / 2**20:.0f} MiB; {detail}"
        connection.send(Outcome(number, cases.family(number), verdict, kind, taken, peak, processor, detail))


def _start_measuring(limit: int) -> int:
    """Bytes in use now; from here on the most in use (VmHWM) counts anew, and so many more can be had."""
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + limit + ROOM, resource.RLIM_INFINITY))
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    """One of the kernel's figures of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def table(outcomes: Sequence[Outcome], families: Sequence[str]) -> str:
    """What was taken, what refused and by which check, and the limits reached."""
    head = ("cases", "accepted", "rejected", "failed", "slowest", "CPU", "memory")
    lines = [" " * 52 + "".join(f"{name:>10}" for name in head)]
    for family in [*dict.fromkeys(families), "together"]:
        of = [outcome for outcome in outcomes if family in (outcome.family, "together")]
        counts = collections.Counter(outcome.verdict for outcome in of)
        slowest, processor = (max([0, *(getattr(each, name) for each in of)]) for name in ("seconds", "processor"))
        peak = max([0, *(outcome.peak_bytes for outcome in of)]) / 2**20
        shares = "".join(f"{counts[verdict] / max(1, len(of)):10.1%}" for verdict in ("accepted", "rejected"))
        limits = f"{slowest:8.2f} s{processor:8.2f} s{peak:6.0f} MiB"
        lines.append(f"{family:52}{len(of):10}{shares}{counts['failed']:10}{limits}")
    lines += ["", f"{'rejected by':52}{'cases':>10}"]
    kinds = collections.Counter(outcome.kind for outcome in outcomes if outcome.verdict == "rejected")
    lines += [f"{kind:52}{count:10}" for kind, count in kinds.most_common()]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz_inputs", description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--of", nargs="+", choices=SUITES, default=["data"], help="kinds of inputs (default: data)")
    parser.add_argument("--seconds", type=float, help="of processor time a case (default: 2; data: 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="CASE", help="run this case alone, and keep its files")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all outcomes to this file")
    args = parser.parse_args(argv)
    Image.init()  # all of Pillow's formats, before files that are opened are watched
    numbers = range(args.cases) if args.only is None else [args.only]
    with contextlib.ExitStack() as stack:
        if args.only is None:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            root = Path(tempfile.mkdtemp())
            print(f"files of this case: {root}")
        outcomes = []
        cases = Cases(args.of, args.seed, root.resolve(), args.seconds)
        for outcome in fuzz(numbers, cases):
            outcomes.append(outcome)
            if len(outcomes) % 500 == 0:
                print(f"{len(outcomes)} of {len(numbers)} cases", file=sys.stderr, flush=True)
            if outcome.verdict == "failed" or args.only is not None:
                again = f"--of {' '.join(args.of)} --seed {args.seed} --only {outcome.case}"
                print(f"{again}: {outcome.family}: {outcome.verdict}, {plain(outcome.kind)}")
                print("  " + plain(outcome.detail, lines=True).replace("\n", "\n  ")[-3000:], flush=True)
    print(table(outcomes, [family for _, family in cases.families]))
    if args.json:
        args.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes]))
    failed = sum(outcome.verdict == "failed" for outcome in outcomes)
    print(f"{len(outcomes)} cases, seed {args.seed}: {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
