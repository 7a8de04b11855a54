"""The command line that the scripts share: Lightning's CLI, short flags for the common options, errors and exit codes.

Both habits work in any mixture, the later winning: `--trainer.accelerator cuda --config F` and `--accelerator cuda`.
"""

import errno
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.distributed import is_torchelastic_launched

from accelerators import resolve_trainer_flags
from callbacks import NonFiniteLossError
from checkpoints import CheckpointError
from coco.annotations import AnnotationError
from coco.decoding import ImageError
from datamodule import COCODataModule, DataError
from last_checkpoint import Preempted
from loader_watch import loader_error
from pretrained import PretrainedWeightsError

SHORT_FLAGS = {
    **{
        name: f"trainer.{name}"
        for name in ("accelerator", "devices", "num_nodes", "precision", "strategy", "max_epochs", "deterministic")
    },
    **{name: f"data.{name}" for name in ("data_root", "batch_size", "num_workers")},
    "seed": "seed_everything",
    "finetune_from": "model.finetune_from",
}
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
PREEMPTED = 75  # exit code, EX_TEMPFAIL: stopped by a signal with its state saved; start it again to go on
# What a user can mend; shown as one message without a traceback.
USER_ERRORS = (
    AnnotationError,
    CheckpointError,
    DataError,
    ImageError,
    MisconfigurationException,
    NonFiniteLossError,
    PretrainedWeightsError,
)


class ScriptCLI(LightningCLI):
    """Lightning's CLI, which parses and builds, but neither runs nor chooses an optimiser."""

    def __init__(self, model: Any, args: Sequence[str]) -> None:
        super().__init__(
            model,
            COCODataModule,
            save_config_callback=None,
            seed_everything_default=0,
            args=list(args),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """As Lightning's, which warns whenever arguments are given by the caller."""
        self.config = parser.parse_args(args)


def run(main: Callable[[], Any]) -> None:
    """Calls `main`; what a user can mend ends the process with its message and exit code 1, without a traceback.

    A run that was told to stop ends with exit code `PREEMPTED`.
    """
    threading.excepthook = _report_of_thread
    try:
        main()
    except Preempted:
        # Lightning's launcher takes any other code of the processes it started for a crash, and kills the first one.
        sys.exit(PREEMPTED if os.environ.get("LOCAL_RANK", "0") == "0" or is_torchelastic_launched() else 0)
    except USER_ERRORS as error:
        sys.exit(f"error: {error}")
    except RuntimeError as error:
        if (told := loader_error(error)) is None:
            raise
        sys.exit(f"error: {told}")


def _report_of_thread(args: threading.ExceptHookArgs) -> None:
    """Python's, but for a full disk: TensorBoard's writer raises that again in the main thread, which says it."""
    if not (isinstance(args.exc_value, OSError) and args.exc_value.errno in FULL_DISK):
        threading.__excepthook__(args)


def long_flags(args: Sequence[str], more: dict[str, str] | None = None) -> list[str]:
    """Rewrites the short flags of `SHORT_FLAGS` to Lightning's: `--devices 8` -> `--trainer.devices 8`."""
    names = {**SHORT_FLAGS, **(more or {})}
    long = []
    for arg in args:
        flag, equals, value = arg.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        long.append(f"--{names[name]}{equals}{value}" if flag.startswith("--") and name in names else arg)
    return long


def check_score_threshold(threshold: float) -> None:
    """Raises MisconfigurationException for what is no score threshold."""
    if not 0 <= threshold < 1:
        raise MisconfigurationException(f"--score_threshold {threshold:g}: expected a score from 0 up to, but not, 1")


def without_flags(args: Sequence[str], names: Sequence[str]) -> list[str]:
    """The arguments without `--name value` and `--name=value` of these names."""
    kept, skip_value = [], False
    for arg in args:
        flag, equals, _ = arg.partition("=")
        if flag.startswith("--") and flag.removeprefix("--").replace("-", "_") in names:
            skip_value = not equals
        elif skip_value:
            skip_value = False
        else:
            kept.append(arg)
    return kept


def listed(value: Any) -> list[Any]:
    """Callbacks or plugins as a list; Lightning takes one object, several, or None."""
    return [] if value is None else [*value] if isinstance(value, (list, tuple)) else [value]


def check_device(trainer: Any) -> None:
    """`device_flags` for a configuration whose objects (strategies, plugins) are not built yet."""
    unbuilt = {"plugins": None} if isinstance(trainer["strategy"], str) else {"plugins": None, "strategy": "auto"}
    device_flags({**trainer.as_dict(), **unbuilt})


def device_flags(trainer: Any) -> dict[str, Any]:
    """The Trainer's flags that concern the device, with what an MLU needs filled in.

    Raises MisconfigurationException, before anything is loaded, if the accelerator asked for is not there.
    """
    names = ("accelerator", "devices", "num_nodes", "strategy", "precision", "plugins")
    flags = resolve_trainer_flags(**{name: trainer[name] for name in names})
    if flags["accelerator"] in ("cuda", "gpu") and not torch.cuda.is_available():
        raise MisconfigurationException(
            f"--accelerator {flags['accelerator']}: no CUDA device is visible to torch {torch.__version__}. "
            "Use --accelerator cpu, or install a torch build with CUDA and check nvidia-smi"
        )
    return flags
