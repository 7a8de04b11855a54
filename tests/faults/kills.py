"""kill -9 while a checkpoint is written, while validating, and at any other time; then again where that led."""

from collections import Counter
from pathlib import Path

from tests.faults.lab import Lab, Outcome, broken, last, unfinished
from tests.faults.places import IN_VALIDATION
from tests.faults.processes import Process

ANYWHERE, WRITING, VALIDATING = "at any time", "inside a checkpoint write", "in validation"


def killed(lab: Lab, anywhere: int, writing: int, validating: int) -> Outcome:
    """kill -9, until so many have hit; each run is resumed by the command that started it, until it is complete."""
    return _killed("kill -9", lab, Counter({ANYWHERE: anywhere, WRITING: writing, VALIDATING: validating}))


def killed_with_temporary_directory_elsewhere(lab: Lab, times: int) -> Outcome:
    """The same with TMPDIR on another file system, and nothing of ours may ever be there."""
    temporary = Path("/dev/shm") / f"faults_{lab.directory.name}"
    fault = "kill -9 inside a write, TMPDIR on another file system"
    if not temporary.parent.is_dir() or temporary.parent.stat().st_dev == lab.directory.stat().st_dev:
        return Outcome(fault, skipped=f"{temporary.parent} is no other file system here")
    temporary.mkdir(exist_ok=True)
    try:
        there: set[str] = set()

        def look() -> bool:
            there.update(path.name for path in temporary.rglob("*"))
            return False

        outcome = _killed(fault, lab, Counter({WRITING: times}), {"TMPDIR": str(temporary)}, look)
        outcome.check(not there, f"in TMPDIR: {sorted(there)}")
    finally:
        for path in temporary.iterdir():
            path.unlink()
        temporary.rmdir()
    return outcome


def _killed(fault: str, lab: Lab, wanted: Counter, environment: dict | None = None, look=lambda: False) -> Outcome:
    outcome, hits, attempts = Outcome(fault), Counter(), 0
    limit = 4 * wanted.total() + 10
    run_dir = None
    while hits.total() < wanted.total() and not outcome.failures and attempts < limit:
        attempts += 1
        run_dir = run_dir or lab.new_run("killed")
        moment = lab.random.choice([moment for moment in wanted if hits[moment] < wanted[moment]])
        saved_before, configs = last(run_dir).exists(), _configs(run_dir)
        (run_dir / IN_VALIDATION).unlink(missing_ok=True)  # of the process killed before
        process = lab.start(run_dir, environment=environment)
        _wait_for(moment, lab, process, run_dir, configs, look)
        process.kill()
        if process.code != -9:
            outcome.check(process.code == 0, f"{run_dir.name}: ended with {process.code}: {process.last_words()}")
        elif _hit(moment, run_dir):
            hits[moment] += 1
            lab.say(f"{fault} {moment}: {hits[moment]} of {wanted[moment]}")
        wrong = broken(run_dir)
        if saved_before and not last(run_dir).exists():
            wrong.append(f"{run_dir.name}: last.ckpt has gone")
        outcome.failures += wrong
        outcome.injected += process.code == -9
        outcome.survived += process.code == -9 and not wrong
        if process.code == 0:  # it was complete before the kill came
            lab.compare(run_dir, outcome)
            run_dir = None
    if run_dir is not None:
        lab.finish(run_dir, outcome, environment=environment)
    for moment, times in wanted.items():
        outcome.check(hits[moment] >= times, f"only {hits[moment]} of {times} kills {moment}")
    outcome.seen.append(", ".join(f"{hits[moment]} {moment}" for moment in wanted if wanted[moment]))
    return outcome


def _wait_for(moment: str, lab: Lab, process: Process, run_dir: Path, configs: int, look) -> None:
    """Returns at the moment of the kill; `configs`: how many there were before this process."""
    normal = lab.undisturbed
    if moment == ANYWHERE:
        process.wait_until(look, lab.random.uniform(0, normal.total / 4))
        return
    process.wait_until(lambda: look() or _configs(run_dir) > configs)
    there = (run_dir / IN_VALIDATION).exists if moment == VALIDATING else lambda: bool(unfinished(run_dir))
    for _ in range(lab.random.randint(1, 3) if moment == WRITING else 1):
        process.wait_until(lambda: look() or not there())
        process.wait_until(lambda: look() or there())
    length = normal.validation if moment == VALIDATING else normal.write
    process.wait_until(look, lab.random.uniform(0, length))


def _hit(moment: str, run_dir: Path) -> bool:
    if moment == WRITING:
        return bool(unfinished(run_dir))
    return moment == ANYWHERE or (run_dir / IN_VALIDATION).exists()


def _configs(run_dir: Path) -> int:
    """How many processes have worked on a run, and removed what the one before left unfinished."""
    return len(list(run_dir.glob("config*.yaml")))
