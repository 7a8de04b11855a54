"""The command line that the scripts share: Lightning's CLI, short flags for the common options, errors and exit codes.

Both habits work in any mixture, the later winning: `--trainer.accelerator cuda --config F` and `--accelerator cuda`.
"""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from checkpoints.compatibility import selection_of
from checkpoints.files import CheckpointError, read_outline
from coco.annotations import AnnotationError
from coco.data_file import PLACES, settings_of_file
from coco.decoding import ImageError
from coco.names import plain
from coco.selection import WHOLE, Selection
from coco.splits import DataError
from coco.tiles import saved_tiling, settings_of
from command_line.allowed_classes import AllowedClasses, ClassRefused, take_flag
from command_line.config_text import ConfigTextError
from command_line.configs import check_whole, with_config_paths
from command_line.errors import user_message
from command_line.helping import meant, short_help, wants_help, with_whole_help
from command_line.moved_names import moved
from command_line.quiet import quieten
from command_line.start import FIRST_RANK, PREEMPTED
from command_line.trainer_flags import TypedTrainer
from datamodule import COCODataModule
from deployment.engine import is_exported, open_exported
from prediction.devices import fast_precision
from training.last_checkpoint import Preempted
from training.losses import NonFiniteLossError
from training.pretrained import PretrainedWeightsError
from training.ranges import Range
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
# Settings that are paths: `~` is the home directory in them, also where no shell says so (--data_root=~/x, YAML).
PATHS = (
    *("run_dir", "ckpt_path", "json", "report", "pictures", "trainer.default_root_dir"),
    *("model.path", "model.finetune_from", "model.backbone_weights", "data.data_root"),
    *(f"data.{split}_{what}" for split in ("train", "val") for what in ("images", "annotations")),
)
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last: no larger file is allowed (ulimit -f)
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


class SettingsError(MisconfigurationException):
    """Arguments that cannot become what they name; the message is of whoever refused them."""


class ScriptCLI(LightningCLI):
    """Lightning's CLI, which parses and builds, but neither runs nor chooses an optimiser.

    Args:
        args: as typed. short_flags: further short flags, beside `SHORT_FLAGS`.
    """

    def __init__(self, model: Any, args: Sequence[str], short_flags: dict[str, str] | None = None) -> None:
        self.all_short_flags = short_flags = {**SHORT_FLAGS, **(short_flags or {})}
        pairs = ", ".join(f"--{short} (--{long})" for short, long in short_flags.items())
        allowing = "--allow_class PACKAGE: configurations may name its classes too (docs/trainer_flags.md)."
        try:
            args, allowed = take_flag(args)
            self.allowed_classes = AllowedClasses(allowed)
            super().__init__(
                model,
                COCODataModule,
                save_config_callback=None,
                seed_everything_default=0,
                trainer_class=TypedTrainer,
                args=long_flags(args, short_flags),
                run=False,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                parser_kwargs={
                    "exit_on_error": False,
                    "description": f"Short forms: {pairs}. {allowing}",
                    "parser_mode": self.allowed_classes.parser_mode,
                },
            )
        except USER_ERRORS:
            raise
        except Exception as error:
            if (told := user_message(error, building=True)) is None:
                raise
            raise SettingsError(told) from error

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """As Lightning's, which warns whenever arguments are given by the caller."""
        try:
            if wants_help(args):
                flags = self.all_short_flags
                print(short_help(parser.prog, parser._actions, flags, parser.get_defaults(skip_validation=True)))
                parser.exit()
            args = with_config_paths(with_whole_help(args))
            self.allowed_classes.check_arguments(args)
            check_whole(args)
            self.config = parser.parse_args(args)
            _check_seed(self.config.seed_everything)
            self.precision_is_auto = self.config.trainer.precision == "auto"
            if self.precision_is_auto:  # so that a saved configuration has what was used
                self.config.trainer.precision = fast_precision(self.config.trainer.accelerator)
            for name in PATHS:
                if isinstance(path := self.config.get(name), (str, Path)) and str(path).startswith("~"):
                    self.config[name] = type(path)(os.path.expanduser(path))
        except (ArgumentError, ClassRefused, ConfigTextError) as error:
            told = str(self.allowed_classes.refused or error)
            new = moved(told)
            raise UsageError(
                f"{told}{new or meant(told, parser._option_string_actions, self.all_short_flags)}"
            ) from None

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        launcher = self.trainer.strategy.launcher
        if launcher is not None and not rank_of_launcher():
            os.environ[FIRST_RANK] = str(os.getpid())  # which the launcher's processes inherit
        if EarlyStop.current and launcher is not None:
            EarlyStop.current.end_first.append(partial(launcher.kill, getattr(signal, "SIGKILL", signal.SIGTERM)))


def run(main: Callable[[], Any]) -> None:
    """Calls `main`, whose result is the exit code.

    What a user can mend ends the process with its message and exit code 1 (2 for arguments that cannot be parsed),
    without a traceback. A run that was told to stop ends with exit code `PREEMPTED`, other commands with 128 + the
    signal.
    """
    threading.excepthook = _report_of_thread
    quieten()
    try:
        status = main()
    except Preempted:
        # Lightning's launcher takes any other code of the processes it started for a crash, and kills the first one.
        sys.exit(0 if rank_of_launcher() else PREEMPTED)
    except (Stopped, KeyboardInterrupt) as stop:
        print(stop if isinstance(stop, Stopped) else "stopped by SIGINT", file=sys.stderr)
        sys.exit(128 + (stop.signum if isinstance(stop, Stopped) else signal.SIGINT))
    except UsageError as error:
        print(f"error: {plain(str(error), lines=True)}", file=sys.stderr)
        sys.exit(2)
    except USER_ERRORS as error:
        sys.exit(f"error: {plain(str(error), lines=True)}")
    except Exception as error:
        if (told := user_message(error)) is None:
            raise
        sys.exit(f"error: {plain(told, lines=True)}")
    sys.exit(status)


def _check_seed(seed: Any) -> None:
    allowed = Range(0, 2**32 - 1, whole=True)
    if not isinstance(seed, bool) and seed not in allowed:
        raise UsageError(f"--seed {seed}: expected {allowed}")


def _report_of_thread(args: threading.ExceptHookArgs) -> None:
    """Python's, but for a full disk: TensorBoard's writer raises that again in the main thread, which says it."""
    if not (isinstance(args.exc_value, OSError) and args.exc_value.errno in FULL_DISK):
        threading.__excepthook__(args)


def long_flags(args: Sequence[str], names: dict[str, str] = SHORT_FLAGS) -> list[str]:
    """Rewrites short flags to Lightning's: `--devices 8` -> `--trainer.devices 8`."""
    long = []
    for arg in args:
        flag, equals, value = arg.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        long.append(f"--{names[name]}{equals}{value}" if flag.startswith("--") and name in names else arg)
    return long


def with_home(args: Sequence[str]) -> list[str]:
    """The arguments, `--flag=~/x` with the home directory in it, as a shell makes of `--flag ~/x`."""
    split = (arg.partition("=") for arg in args)
    return [
        f"{flag}={os.path.expanduser(value)}" if flag.startswith("--") and equals else f"{flag}{equals}{value}"
        for flag, equals, value in split
    ]


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


def with_selection_of(path: str | Path, data: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a data module, with the classes and the validation part that a checkpoint's run chose, unless
    others are given, and its tiles, unless `tiles` is given (0: none); a line says so.

    Args:
        path: a checkpoint or an exported file. data: settings of `COCODataModule`, or some of them.

    Raises:
        CheckpointError: one that cannot be read. DataError: a data file that cannot.
    """
    if not Path(path).exists():
        return dict(data)  # whoever opens it says so, after what is wrong with the data
    names = {"merge_classes" if key == "merge" else key: key for key in asdict(WHOLE)}
    of_file = settings_of_file(data)
    if of_file.get("val_annotations") or data.get("val_annotations") not in (None, PLACES["val_annotations"]):
        names = {name: key for name, key in names.items() if not name.startswith("val_")}  # no part of the training's
    try:
        saved = open_exported(path).about.selection if is_exported(path) else selection_of(read_outline(path))
        Selection.of(*(saved.get(key, value) for key, value in asdict(WHOLE).items()))
        tiles = settings_of(saved_tiling(saved))
    except CheckpointError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError):
        raise CheckpointError(f"{path}: what it says of its classes and images cannot be read") from None
    chosen = {
        name: saved[key]
        for name, key in names.items()
        if key in saved and saved[key] != getattr(WHOLE, key) and name not in of_file
    }
    if any(data.get(name) not in (None, False, {}, getattr(WHOLE, key)) for name, key in names.items()):
        chosen = {}
    if tiles["tiles"] and data.get("tiles") is None:
        chosen |= tiles
    if not chosen:
        return dict(data)
    told = ", ".join(f"{name} {plain(str(value))}" for name, value in chosen.items())
    rank_zero_info(f"as the checkpoint's run chose: {told}")
    return {**data, **chosen}
