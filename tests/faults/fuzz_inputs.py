"""Feeds damaged annotation files, caches and pictures to the data pipeline: each must be taken or refused in our words.

    python -m tests.faults.fuzz_inputs --cases 10000 --seed 0     # a table of what happened; exit code 1 on any failure
    python -m tests.faults.fuzz_inputs --only 4711 --seed 0       # one case again, its files kept

A case is damaged input made from (seed, case number), then what training does with it. It fails if it ends in anything
but success, AnnotationError or ImageError with the file's name; if it lets boxes or labels through that training cannot
use; if it takes longer than TIME_LIMIT or more than MEMORY_LIMIT; if it opens a file outside the data set or starts a
program. Links that the user made below the data set are followed, as data sets are often linked together.

Cases run in forked processes: what crashes, hangs or exhausts memory there is reported, and the next case goes on.
"""

import argparse
import collections
import contextlib
import json
import multiprocessing
import os
import re
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

from PIL import Image

from tests.faults.inputs import FAMILIES, InputCase, prepare

TIME_LIMIT = 60.0  # s a case; far beyond what any should take, on a busy machine too
MEMORY_LIMIT = 1536 * 2**20  # bytes a case may take on top of the interpreter; Pillow's largest picture is 179 Mpixel
LIBRARY = tuple({os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__))})
PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect"}

# What the project's messages say, in the order they are looked for.
KINDS = {
    "no such file": "no such (annotation|image) file",
    "no regular file, or not to be opened": "no regular file|is a directory|cannot be opened",
    "JSON: empty file": r"is empty \(",
    "JSON: syntax": "broken JSON",
    "JSON: nested too deeply": "nested too deeply",
    "JSON: no object or list": "is not an object but|is not a list but|an object with the lists",
    "JSON: no images or categories": '"(images|categories)" is empty',
    "entry: no object": "not an object",
    "entry: key missing": 'has no "',
    "entry: not Unicode": "not valid Unicode",
    "entry: bbox": "bbox is ",
    "entry: area or iscrowd": "(area|iscrowd) is ",
    "entry: no integer, or out of range": "expected an integer",
    "entry: integer of thousands of digits": "has an integer of more than",
    "entry: no text": "expected a text",
    "file name: empty, absolute or leaves the directory": "leaves the image",
    "ids repeated": "is given to",
    "id unknown": "is not in ",
    "cache: not usable": "Delete this cache",
    "picture: another size than annotated": r"\d+x\d+ pixels, but",
    "picture: no known format": "not an image file",
    "picture: too large": "decompression bomb|too large|exceeds limit|Too much memory|Decompressed data",
    "picture: cut off": "truncated|Truncated",
    "picture: cannot be decoded": "cannot be decoded|cannot be read|are damaged",
}


@dataclass
class Outcome:
    case: int
    family: str
    verdict: str  # accepted, rejected or failed
    kind: str  # of the rejection: a key of KINDS; of the failure: what went wrong
    seconds: float
    peak_bytes: int = 0  # resident, above the interpreter's
    detail: str = ""


class Watch:
    """Notes, through Python's audit events, which files outside the directories given are opened and what is run."""

    def __init__(self) -> None:
        self.inside: tuple[str, ...] | None = None  # None: not watching
        self.seen: list[str] = []
        sys.addaudithook(self._on_event)

    @contextlib.contextmanager
    def within(self, *directories: Path):
        self.inside, self.seen = tuple(os.path.realpath(directory) for directory in directories), []
        try:
            yield
        finally:
            self.inside = None

    def _on_event(self, event: str, arguments: tuple) -> None:
        if self.inside is None:
            return
        if event in PROGRAMS:
            self.seen.append(f"{event} {arguments[:2]}")
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            if os.fsdecode(arguments[0]) == os.path.basename(os.fsdecode(arguments[0])):
                return  # shutil.rmtree, in a directory that it has open; no case gives a bare name
            path = os.path.realpath(os.fsdecode(arguments[0]))
            imported = _is_below(path, LIBRARY) and path.endswith((".py", ".pyc", ".so"))
            if not imported and not _is_below(path, self.inside):
                self.seen.append(f"open {path}")


def _is_below(path: str, directories: Sequence[str]) -> bool:
    return any(path.startswith(directory + os.sep) for directory in directories)


def kind_of(message: str) -> str:
    """Which check a message of ours is from."""
    found = (kind for kind, pattern in KINDS.items() if re.search(pattern, message))
    return next(found, "other: " + re.sub(r"\d+", "#", message)[-80:])


def run_case(case: InputCase, root: Path, watch: Watch) -> tuple[str, str, str]:
    """Verdict, kind and detail of one case."""
    try:
        with watch.within(root / "data", root / "cache"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.use()
        verdict, kind, detail = "accepted", "", ""
    except case.own_errors as error:
        verdict, kind, detail = "rejected", kind_of(str(error)), str(error)
        if str(case.path) not in detail:
            verdict, kind = "failed", "the message does not name the file"
    except BaseException as error:
        verdict, kind, detail = "failed", f"{type(error).__name__}: {str(error)[:100]}", traceback.format_exc()
    if watch.seen:
        return "failed", "opened or started what it should not", "; ".join(watch.seen)
    return verdict, kind, detail


def fuzz(numbers: Iterable[int], seed: int, root: Path) -> Iterable[Outcome]:
    """The outcomes of these cases, one after the other."""
    base = prepare(root, seed)
    todo, child = collections.deque(numbers), None
    context = multiprocessing.get_context("fork")
    while todo:
        ours, theirs = context.Pipe()
        child = context.Process(target=_run_cases, args=(list(todo), seed, root, base, theirs))
        child.start()
        theirs.close()
        while todo and child is not None:
            try:
                if not ours.poll(TIME_LIMIT):
                    raise TimeoutError
                outcome = ours.recv()
            except (EOFError, TimeoutError) as error:
                outcome = _end(child, todo[0], isinstance(error, TimeoutError), root)
                child = None  # another one goes on with the next case
            todo.popleft()
            yield outcome
    if child:
        child.join()


def _end(child: multiprocessing.Process, number: int, hung: bool, root: Path) -> Outcome:
    """The outcome of the case in which the child died or did not come to an end."""
    child.kill()
    child.join()
    kind = f"no end after {TIME_LIMIT:g} s" if hung else f"the process died (exit code {child.exitcode})"
    said = (root / "native_output.txt").read_text(errors="replace")[-2000:]
    return Outcome(number, FAMILIES[number % len(FAMILIES)], "failed", kind, TIME_LIMIT if hung else 0.0, detail=said)


def _run_cases(numbers: Sequence[int], seed: int, root: Path, base: dict, connection: Connection) -> None:
    """In the child: all cases in turn, each outcome sent as soon as it is there."""
    os.environ["XDG_CACHE_HOME"] = str(root / "cache")
    with open(root / "native_output.txt", "ab") as file:
        os.dup2(file.fileno(), 2)  # libtiff and others write there
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    used = 1024 * int(status["VmSize"].split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_LIMIT, used + MEMORY_LIMIT))
    resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    watch = Watch()
    for number in numbers:
        family = FAMILIES[number % len(FAMILIES)]
        case = InputCase(family, Random(f"{seed} {number}"), root, base)
        started = time.monotonic()
        verdict, kind, detail = run_case(case, root, watch)
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident
        connection.send(Outcome(number, family, verdict, kind, time.monotonic() - started, peak, detail))


def table(outcomes: Sequence[Outcome]) -> str:
    """What was taken, what refused and by which check, and the limits reached."""
    lines = [f"{'':52}{'cases':>8}{'accepted':>10}{'rejected':>10}{'failed':>8}{'slowest':>10}"]
    for family in [*dict.fromkeys(FAMILIES), "together"]:
        of = [outcome for outcome in outcomes if family in (outcome.family, "together")]
        counts = collections.Counter(outcome.verdict for outcome in of)
        slowest = max((outcome.seconds for outcome in of), default=0)
        shares = "".join(f"{counts[verdict] / max(1, len(of)):10.1%}" for verdict in ("accepted", "rejected"))
        lines.append(f"{family:52}{len(of):8}{shares}{counts['failed']:8}{slowest:8.2f} s")
    lines += ["", f"{'rejected by':52}{'cases':>8}"]
    kinds = collections.Counter(outcome.kind for outcome in outcomes if outcome.verdict == "rejected")
    lines += [f"{kind:52}{count:8}" for kind, count in kinds.most_common()]
    peak = max((outcome.peak_bytes for outcome in outcomes), default=0)
    lines += ["", f"most memory on top of the interpreter: {peak / 2**20:.0f} MiB"]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz_inputs", description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
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
        for outcome in fuzz(numbers, args.seed, root.resolve()):
            outcomes.append(outcome)
            if outcome.verdict == "failed" or args.only is not None:
                print(f"case {outcome.case} (seed {args.seed}), {outcome.family}: {outcome.verdict}, {outcome.kind}")
                print("  " + outcome.detail.replace("\n", "\n  ")[-3000:], flush=True)
    print(table(outcomes))
    if args.json:
        args.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes]))
    failed = sum(outcome.verdict == "failed" for outcome in outcomes)
    print(f"{len(outcomes)} cases, seed {args.seed}: {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
