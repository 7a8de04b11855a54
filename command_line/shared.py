"""The command line that the scripts share: Lightning's CLI, short flags for the common options, errors and exit codes.

Both habits work in any mixture, the later winning: `--trainer.accelerator cuda --config F` and `--accelerator cuda`.
"""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from jsonargparse import ArgumentError
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from checkpoints.files import CheckpointError
from coco.annotations import AnnotationError
from coco.decoding import ImageError
from command_line.configs import with_config_paths
from command_line.moved_names import moved
from command_line.start import PREEMPTED
from datamodule import COCODataModule, DataError
from training.last_checkpoint import Preempted
from training.loader_watch import loader_error
from training.losses import NonFiniteLossError
from training.pretrained import PretrainedWeightsError
from training.stop_signals import EarlyStop, Stopped, rank_of_launcher

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
LACKS = {
    errno.EMFILE: "allow this process more (`ulimit -n 4096`), or use a smaller --num_workers",
    errno.ENFILE: "the system allows no more; use a smaller --num_workers",
    errno.ENOMEM: "use a smaller --batch_size or --num_workers",
}
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


class UsageError(MisconfigurationException):
    """Arguments that cannot be parsed; exit code 2."""


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
            parser_kwargs={"exit_on_error": False},
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """As Lightning's, which warns whenever arguments are given by the caller."""
        try:
            self.config = parser.parse_args(with_config_paths(args))
        except ArgumentError as error:
            raise UsageError(f"{error}{moved(str(error))}") from None

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        launcher = self.trainer.strategy.launcher
        if EarlyStop.current and launcher is not None:
            EarlyStop.current.end_first.append(partial(launcher.kill, getattr(signal, "SIGKILL", signal.SIGTERM)))


def run(main: Callable[[], Any]) -> None:
    """Calls `main`, whose result is the exit code.

    What a user can mend ends the process with its message and exit code 1 (2 for arguments that cannot be parsed),
    without a traceback. A run that was told to stop ends with exit code `PREEMPTED`, other commands with 128 + the
    signal.
    """
    threading.excepthook = _report_of_thread
    try:
        status = main()
    except Preempted:
        # Lightning's launcher takes any other code of the processes it started for a crash, and kills the first one.
        sys.exit(0 if rank_of_launcher() else PREEMPTED)
    except (Stopped, KeyboardInterrupt) as stop:
        print(stop if isinstance(stop, Stopped) else "stopped by SIGINT", file=sys.stderr)
        sys.exit(128 + (stop.signum if isinstance(stop, Stopped) else signal.SIGINT))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except USER_ERRORS as error:
        sys.exit(f"error: {error}")
    except Exception as error:
        if (told := _told(error)) is None:
            raise
        sys.exit(f"error: {told}")
    sys.exit(status)


def _told(error: BaseException | None) -> str | None:
    """A dead worker, or what the environment had too little of; also where Lightning, clearing up, failed after it."""
    while error is not None:
        if (told := loader_error(error)) is not None:
            return told
        for number, lack in LACKS.items():
            if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
                return f"{os.strerror(number)}: {lack}. A training run is resumed with --run_dir DIR --ckpt_path last"
        error = error.__cause__ or error.__context__
    return None


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
