"""`--batch_size auto`: the largest batch that fits a device, found by Lightning's tuner in a process of its own.

A run's own process stays as it is without it: no memory in pieces, no state to put back, and several devices, on which
Lightning's tuner does not search, take what one of them can hold.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from accelerators import resolve_trainer_flags
from checkpoints.files import read_checkpoint
from command_line.shared import without_flags

FOUND = "SSD_BATCH_SIZE"  # which processes that Lightning starts for further devices inherit
EVEN = (
    8  # a batch of 32 or more is a multiple of it, which matrix units like; a smaller one would lose too much by that
)
NOT_FOR_IT = (
    *("devices", "trainer.devices", "num_nodes", "trainer.num_nodes", "strategy", "trainer.strategy"),
    *("batch_size", "data.batch_size", "run_dir", "ckpt_path"),
)


def automatic_batch(trainer: Any, args: Sequence[str], ckpt_path: Path | None = None, trains: bool = True) -> int:
    """What `auto` means for a configured trainer: the batch of the run that is resumed, or `largest_batch`."""
    accelerator = resolve_trainer_flags(accelerator=trainer["accelerator"])["accelerator"]
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        raise MisconfigurationException(
            "--batch_size auto: a CPU's memory is the machine's, and a batch that fills it ends other programs. Give a "
            "number"
        )
    saved = read_checkpoint(ckpt_path).get("COCODataModule", {}).get("geometry") if ckpt_path else None
    return saved["batch_size"] if saved else largest_batch(args, trains)


def largest_batch(args: Sequence[str], trains: bool = True) -> int:
    """Images that fit one device in a training step, or in one of inference: even, and from 32 on a multiple of 8.

    Args:
        args: of train.py.

    Raises:
        MisconfigurationException: the search ended with an error, which it has printed.
    """
    if FOUND in os.environ and os.environ.get("LOCAL_RANK", "0") != "0":
        return int(os.environ[FOUND])
    if "TORCHELASTIC_RUN_ID" in os.environ or SLURMEnvironment.detect():
        raise MisconfigurationException(
            "--batch_size auto: every process of this launcher would search by itself. Find it once, with "
            "`ssd300 benchmark --find_batch` on one device, and give the number"
        )
    print("--batch_size auto: looking for the largest batch that fits", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "batch")
        flags = [*without_flags(args, NOT_FOR_IT), "--devices=1", f"--trainer.default_root_dir={folder}"]
        top = str(Path(__file__).parent.parent)
        run = f"import sys; sys.path[0] = {top!r}; from command_line.ssd300 import main; main()"
        own = ["benchmark", "--search_into", str(answer), "--mode", "training" if trains else "inference"]
        status = subprocess.run([sys.executable, "-c", run, *own, *flags], stdout=sys.stderr).returncode
        if status or not answer.exists():
            raise MisconfigurationException(
                f"--batch_size auto: the search ended with exit status {status}, see above. Give a number"
            )
        found = int(answer.read_text())
    found -= found % (EVEN if found >= 4 * EVEN else 2) if found > 1 else 0
    os.environ[FOUND] = str(found)
    return found
