"""Lab: the undisturbed run, disturbed ones beside it, and what makes two runs equal."""

import random
import shutil
import statistics
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch

from checkpoints.files import UNFINISHED
from coco.sample import write_sample
from tests.faults.places import IN_VALIDATION
from tests.faults.processes import TIMEOUT, Process, warm_up
from tests.training.test_resuming import assert_equal, logged, whole_state


@dataclass
class Outcome:
    """A row of the table."""

    fault: str
    injected: int = 0
    survived: int = 0
    equal: int = 0  # runs that ended in the undisturbed run's state
    finished: int = 0  # runs that were resumed up to their end, and compared
    seen: list[str] = field(default_factory=list)  # what a user sees
    failures: list[str] = field(default_factory=list)
    skipped: str = ""  # why nothing was injected

    def check(self, good: bool, failure: str) -> bool:
        if not good:
            self.failures.append(failure)
        return good

    @property
    def ok(self) -> bool:
        return not self.failures and self.survived == self.injected and self.equal == self.finished


@dataclass
class Undisturbed:
    """A run that nothing happened to, and how long its parts took (seconds)."""

    run_dir: Path
    until_first_save: float
    total: float
    write: float
    validation: float

    @cached_property
    def state(self) -> dict:
        return whole_state(self.run_dir)

    @cached_property
    def log(self) -> dict:
        return logged(self.run_dir)


@dataclass
class Lab:
    """Everything that a fault needs: small data, an undisturbed run to compare with, random numbers, a voice.

    Args:
        directory: of all runs.
        epochs: of a run; each has 5 steps.
        say: takes lines of progress.
    """

    directory: Path
    epochs: int = 4
    seed: int = 0
    say: Callable[[str], None] = print

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.data = self.directory / "data"
        write_sample(self.data, train_images=12, val_images=4)
        self._runs = 0
        warm_up()
        self.undisturbed = self._undisturbed("undisturbed")

    def new_run(self, name: str) -> Path:
        """A run directory that is not there yet."""
        self._runs += 1
        return self.directory / f"{name}_{self._runs}"

    def start(self, run_dir: Path, *more: str, **options) -> Process:
        """The run of `run_dir`, from where it stands; `options` are those of Process."""
        self._runs += 1
        arguments = self.arguments(run_dir, *more)
        return Process(arguments, self.directory / f"{run_dir.name}_{self._runs}", **options)

    def arguments(self, run_dir: Path, *more: str) -> list[str]:
        return [
            *("--accelerator", "cpu", "--data_root", str(self.data), "--deterministic", "true", "--batch_size", "2"),
            *("--num_workers", "0", "--model.backbone", "resnet18", "--model.warmup_steps", "2"),
            *("--keep_epochs", "true"),
            *("--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", "1"),
            *("--trainer.num_sanity_val_steps", "0", "--max_epochs", str(self.epochs), "--save_every_n_steps", "1"),
            *("--trainer.callbacks+=tests.faults.places.InValidation", *more),
            *("--run_dir", str(run_dir), "--ckpt_path", "auto"),
        ]

    @cached_property
    def undisturbed_pair(self) -> Undisturbed:
        """Of two processes."""
        return self._undisturbed("undisturbed_pair", "--devices", "2", fork=False)

    def wait_after_first_save(self, process: Process, run_dir: Path, undisturbed: Undisturbed | None = None) -> None:
        """Until a random moment of the first half of what follows the first save of this process."""
        undisturbed = undisturbed or self.undisturbed
        before = _changed(last(run_dir))
        process.wait_until(lambda: _changed(last(run_dir)) != before)
        rest = undisturbed.total - undisturbed.until_first_save
        process.wait_until(lambda: False, self.random.uniform(0, rest / 2))

    def finish(self, run_dir: Path, outcome: Outcome, undisturbed: Undisturbed | None = None, **start) -> None:
        """Lets a run go on up to its end, and compares; what is wrong goes to `outcome`."""
        process = self.start(run_dir, *start.pop("more", ()), **start)
        code = process.wait()
        if outcome.check(code == 0, f"{run_dir.name}: resuming ended with {code}: {process.last_words()}"):
            self.compare(run_dir, outcome, undisturbed)

    def compare(self, run_dir: Path, outcome: Outcome, undisturbed: Undisturbed | None = None) -> None:
        """Weights, optimiser, schedule, loops and place to the bit; logged numbers as far as they were logged."""
        undisturbed = undisturbed or self.undisturbed
        outcome.finished += 1
        try:
            assert_equal(whole_state(run_dir), undisturbed.state)
        except AssertionError as error:
            outcome.failures.append(f"{run_dir.name}: not equal to the undisturbed run: {str(error)[:200]}")
            return
        outcome.equal += 1
        log = logged(run_dir)
        others = {key for key, value in log.items() if undisturbed.log.get(key) != value}
        outcome.check(not others, f"{run_dir.name}: logged other numbers: {sorted(others)[:5]}")
        missing = undisturbed.log.keys() - log.keys()
        outcome.check(not missing, f"{run_dir.name}: {len(missing)} numbers not logged: {sorted(missing)[:5]}")
        shutil.rmtree(run_dir)

    def _undisturbed(self, name: str, *more: str, fork: bool = True) -> Undisturbed:
        run_dir = self.directory / name
        process = self.start(run_dir, *more, fork=fork)
        with (
            _Stopwatch(lambda: bool(unfinished(run_dir))) as writes,
            _Stopwatch(lambda: (run_dir / IN_VALIDATION).exists()) as validations,
        ):
            process.wait_until(lambda: last(run_dir).exists())
            until_first_save = time.monotonic() - process.started
            code = process.wait(2 * TIMEOUT)
        if code != 0:
            raise RuntimeError(f"the undisturbed run ended with {code}: {process.last_words()}")
        total = time.monotonic() - process.started
        write, validation = statistics.median(writes.seconds), statistics.median(validations.seconds)
        self.say(
            f"{name}: {total:.1f} s, first save after {until_first_save:.1f} s, a write {write:.2f} s, "
            f"a validation {validation:.2f} s"
        )
        return Undisturbed(run_dir, until_first_save, total, write, validation)


def last(run_dir: Path) -> Path:
    return run_dir / "checkpoints" / "last.ckpt"


def unfinished(run_dir: Path) -> list[Path]:
    """Checkpoints that are being written, or that a killed process left so."""
    return list((run_dir / "checkpoints").glob(f".*{UNFINISHED}"))


def broken(run_dir: Path) -> list[str]:
    """What lies under the name of a checkpoint and is none: always nothing, at any moment."""
    wrong = []
    for path in (run_dir / "checkpoints").glob("*.ckpt"):
        try:
            with zipfile.ZipFile(path) as file:
                assert file.testzip() is None
            torch.load(path, weights_only=True)
        except Exception as error:
            wrong.append(f"{path}: {error!r:.200}")
    return wrong


class _Stopwatch:
    """Measures how long a condition stays true, each time that it becomes so."""

    def __init__(self, condition: Callable[[], bool]) -> None:
        self.seconds: list[float] = []
        self._condition, self._finished = condition, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Stopwatch":
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._finished.set()
        self._thread.join()

    def _watch(self) -> None:
        since = None
        while not self._finished.wait(0.005):
            if self._condition():
                since = since or time.monotonic()
            elif since is not None:
                self.seconds.append(time.monotonic() - since)
                since = None


def _changed(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None
