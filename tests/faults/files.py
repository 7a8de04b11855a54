"""Checkpoint files that are damaged, cut off, or from someone who means harm."""

import os
import pickle
import shutil
import subprocess
from pathlib import Path

import torch

from checkpoints.files import CheckpointError, read_checkpoint
from tests.faults.lab import Lab, Outcome, last
from tests.training.test_resuming import assert_equal


def flipped_bits(lab: Lab, times: int) -> Outcome:
    """One bit of a run's checkpoint, and one of every byte of a small one, where most is structure, not tensors."""
    outcome = Outcome("one bit of a checkpoint flipped")
    small = lab.directory / "small.ckpt"
    torch.save({"state_dict": {"weight": torch.arange(8.0)}, "optimizer_states": []}, small)
    for path, positions in (
        (last(lab.undisturbed.run_dir), None),
        (small, range(small.stat().st_size)),
    ):
        expected, content = read_checkpoint(path), path.read_bytes()
        refused, before = 0, outcome.injected
        for position in positions or [lab.random.randrange(len(content)) for _ in range(times)]:
            damaged = bytearray(content)
            damaged[position] ^= 1 << lab.random.randrange(8)
            refused += _refused_or_equal(outcome, lab, bytes(damaged), f"bit of byte {position}", expected)
        outcome.seen.append(
            f"{len(content) / 1e6:.3g} MB: {refused} of {outcome.injected - before} refused, the others equal"
        )
        lab.say(f"{outcome.fault}: {outcome.seen[-1]}")
    return outcome


def cut_off(lab: Lab, times: int) -> Outcome:
    """A checkpoint's beginning, of any length."""
    outcome = Outcome("checkpoint cut off")
    content = last(lab.undisturbed.run_dir).read_bytes()
    lengths = [0, 1, len(content) - 1, *(lab.random.randrange(len(content)) for _ in range(times - 3))]
    for length in lengths:
        refused = _refused_or_equal(outcome, lab, content[:length], f"{length} bytes", None)
        outcome.check(bool(refused), f"{length} of {len(content)} bytes were taken")
    outcome.seen.append("each refused")
    return outcome


def torn_last(lab: Lab) -> Outcome:
    """last.ckpt and the newest others are torn: the newest whole one is taken, said so. All torn: an error."""
    outcome = Outcome("newest checkpoints torn", injected=2)
    run_dir = lab.new_run("torn")
    shutil.copytree(lab.undisturbed.run_dir, run_dir)
    whole = run_dir / "checkpoints" / "epoch001.ckpt"
    torn = [path for path in (run_dir / "checkpoints").glob("*.ckpt") if path != whole]
    for path in torn:
        os.truncate(path, lab.random.randrange(path.stat().st_size))
    process = lab.start(run_dir)
    if outcome.check(process.wait() == 0, f"ended with {process.code}: {process.last_words()}"):
        said = " ".join(process.err.read_text().split())
        unsaid = [path.name for path in torn if f"passing over {path}" not in said]
        outcome.survived += outcome.check(not unsaid, f"nothing said of {unsaid}")
        lab.compare(run_dir, outcome)
    outcome.seen.append("passed over, said so; the newest whole one is taken")

    shutil.copytree(lab.undisturbed.run_dir, run_dir)
    for path in (run_dir / "checkpoints").glob("*.ckpt"):
        os.truncate(path, 1000)
    process = lab.start(run_dir)
    good = outcome.check(process.wait() == 1, f"ended with {process.code}")
    good &= outcome.check("no readable checkpoint" in process.last_words(), process.last_words())
    outcome.survived += outcome.check(not process.traceback, process.last_words()) and good
    outcome.seen.append("all torn: one message, exit code 1")
    return outcome


def malicious(lab: Lab) -> Outcome:
    """Pickles that would run code, in the formats that torch reads: refused, and nothing has run."""
    outcome = Outcome("checkpoint that would run code")
    sign = lab.directory / "ran"
    payloads = {
        "os.system": (os.system, (f"touch {sign}",)),
        "exec": (exec, (f"open({str(sign)!r}, 'w')",)),
        "subprocess": (subprocess.Popen, (["touch", str(sign)],)),
        "open": (open, (str(sign), "w")),
        "nested": (torch.storage._load_from_bytes, (pickle.dumps(_Calls(os.system, (f"touch {sign}",))),)),
    }
    path = lab.directory / "harmful.ckpt"
    for name, payload in payloads.items():
        harmful = {"state_dict": {}, "optimizer_states": [], "more": _Calls(*payload)}
        for format, write in (
            ("zip", torch.save),
            ("old", lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False)),
            ("pickle", lambda value, path: path.write_bytes(pickle.dumps(value))),
        ):
            write(harmful, path)
            outcome.check(bool(_refused_or_equal(outcome, lab, path.read_bytes(), f"{name}, {format}", None)), name)
    run_dir = lab.new_run("harmful")
    (run_dir / "checkpoints").mkdir(parents=True)
    shutil.copy(path, last(run_dir))
    process = lab.start(run_dir)
    outcome.injected += 1
    outcome.survived += outcome.check(process.wait() == 1 and not process.traceback, process.last_words())
    outcome.check(not sign.exists(), "code of the checkpoint was run")
    outcome.seen.append("each refused, nothing has run")
    return outcome


class _Calls:
    """Unpickles to what `function(*arguments)` returns."""

    def __init__(self, function, arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _refused_or_equal(outcome: Outcome, lab: Lab, content: bytes, what: str, expected: dict | None) -> int:
    """1 if reading it was refused by our own error; what is taken must be equal to `expected`."""
    path: Path = lab.directory / "damaged.ckpt"
    path.write_bytes(content)
    outcome.injected += 1
    try:
        found = read_checkpoint(path)
    except CheckpointError:
        outcome.survived += 1
        return 1
    except Exception as error:
        outcome.failures.append(f"{what}: {error!r:.200}")
        return 0
    if expected is not None:
        try:
            assert_equal(found, expected)
            outcome.survived += 1
        except (AssertionError, AttributeError, TypeError) as error:
            outcome.failures.append(f"{what}: taken, but not what was written: {str(error)[:100]}")
    return 0
