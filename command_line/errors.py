"""Errors that a user can mend, whoever raises them: which they are, and what to tell.

Three kinds: what the machine lacks (files, memory, packages, ports), whenever it shows; what Lightning refuses on
purpose; and while arguments become objects, what anybody refuses on purpose. All else is a fault of the program and
keeps its traceback.
"""

import errno
import linecache
import os
import re
import traceback
from pathlib import Path

import torch

from training.loader_watch import loader_error

PROJECT = Path(__file__).resolve().parent.parent
REFUSALS = (ValueError, TypeError, RuntimeError, NotImplementedError, LookupError)
LIGHTNING = ("pytorch_lightning", "lightning_fabric", "lightning_utilities", "jsonargparse")
NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)
# jsonargparse's list of what a value is not, when the class that it names refused to be made.
REFUSED_CLASS = re.compile(r"Problem with given class_path '([^']+)':\s*\n\s*(.+)")
NO_KERNEL = re.compile(r"not implemented for '(Half|BFloat16|Double)'")
# What the machine has too little of -> what to do.
LACKS = {
    errno.EMFILE: "allow this process more (`ulimit -n 4096`), or use a smaller --num_workers",
    errno.ENFILE: "the system allows no more; use a smaller --num_workers",
    errno.ENOMEM: "use a smaller --batch_size or --num_workers",
}


def user_message(error: Exception, building: bool = False) -> str | None:
    """What to tell the user of an error that a user can mend; None for any other.

    Args:
        building: it came while arguments were made into the objects that they name.
    """
    text = str(error).strip() or type(error).__name__
    if (told := _lacking(error)) is not None:
        return told
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY.search(text)):
        return (
            f"out of memory ({text.splitlines()[0][:300]}). Use a smaller --batch_size (training: and "
            "--trainer.accumulate_grad_batches for steps of as many images), a smaller --num_workers where it is the "
            "host's memory, or on an accelerator --precision bf16-mixed or 16-mixed"
        )
    if isinstance(error, RuntimeError) and NO_KERNEL.search(text):
        return f"this device cannot compute in this --precision ({text.splitlines()[0][:200]}). Use 32-true"
    if isinstance(error, (torch.distributed.DistNetworkError, torch.distributed.DistStoreError)):
        return (
            f"the processes of the run cannot reach one another: {text.splitlines()[0]}. If the port is in use, set "
            "another in MASTER_PORT; else check MASTER_ADDR, and that every machine was started"
        )
    if isinstance(error, REFUSALS) and building and (found := REFUSED_CLASS.search(text)):
        return f"{found[1]}: {found[2]}"
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else text
    if isinstance(error, ImportError):
        return None if _is_ours(error.name) else text
    if isinstance(error, REFUSALS) and _on_purpose(error, building):
        return text
    return None


def _lacking(error: BaseException | None) -> str | None:
    """A dead worker, or what the machine had too little of; also where Lightning, clearing up, failed after it."""
    while error is not None:
        if (told := loader_error(error)) is not None:
            return told
        for number, advice in LACKS.items():
            if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
                return f"{os.strerror(number)}: {advice}. A training run is resumed with --run_dir DIR --ckpt_path last"
        error = error.__cause__ or error.__context__
    return None


def _is_ours(module: str | None) -> bool:
    room = (module or "").partition(".")[0]
    return bool(room) and ((PROJECT / room).is_dir() or (PROJECT / f"{room}.py").is_file())


def _on_purpose(error: Exception, building: bool) -> bool:
    """Whether a `raise` of code that may refuse (see above) raised it, and not an accident."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    place = frames[-1]
    raised = linecache.getline(place.filename, place.lineno or 0).strip().startswith("raise")
    return raised and (building or any(f"/{package}/" in Path(place.filename).as_posix() for package in LIGHTNING))
