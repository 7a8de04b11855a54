"""The arguments of evaluate.py, with a checkpoint or with a file of detections; both take the same choices."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from checkpoints.fetching import FETCHED, local_file
from command_line.shared import ScriptCLI, UsageError, listed, with_home, with_selection_of
from command_line.trainer_flags import check_trainer_flags
from datamodule import COCODataModule
from deployment.engine import is_exported, open_exported
from evaluation.thresholds import Rule
from prediction.detector import labels_of
from prediction.devices import check_compile, check_device, check_score_threshold, device_flags
from prediction.exported import load_detector, runs_in_bf16
from training.pictures import DetectionPictures
from training.progress import RunProgress

# Flags of both forms: name -> settings of argparse's and jsonargparse's `add_argument`.
CHOICES: dict[str, dict[str, Any]] = {
    "json": {"type": Path, "help": "Also write the numbers to this file."},
    "report": {"type": Path, "help": "Write a page with numbers, thresholds and mistakes to this directory."},
    "classes": {"nargs": "+", "help": "Count these classes alone, by name or category id."},
    "class_agnostic": {"choices": ("true", "false"), "help": "true: all classes count as one."},
    "slices": {"nargs": "+", "help": "Files that list images: numbers of each, too."},
    "operating_point": {"help": "Print score thresholds per class: of best f1, or of at least a precision=0.9."},
}
FILES = {"annotations": "val_annotations", "images": "val_images"}  # flag -> setting of the data module


class EvaluateCLI(ScriptCLI):
    """Trainer and data as in training; the model comes from `--ckpt_path`."""

    def __init__(self, args: Sequence[str]) -> None:
        self._in_bf16 = False  # an exported file
        short_flags = {"ckpt_path": "model.path", "limit": "data.val_limit"}
        super().__init__(load_detector, _with_whole_paths(args), short_flags)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            super().parse_arguments(parser, args)
        except UsageError as error:
            if "model.path" in str(error) and "required" in str(error):
                raise UsageError(
                    "--ckpt_path is missing: the checkpoint to evaluate, such as runs/0001/checkpoints/best.ckpt, or a "
                    f".pt file of the published recipe or an exported file; {FETCHED}; or give --detections, a file of "
                    "COCO results"
                ) from None
            raise

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add = parser.add_argument
        for name, settings in CHOICES.items():
            add(f"--{name}", default=None, **settings)
        add("--save_thresholds", type=bool, default=False, help="Write the operating point into the checkpoint.")
        add("--pictures", type=Path | None, default=None, help="Draw 12 images' detections in this directory.")
        add("--fold_batch_norm", type=bool, default=False, help="Fewer layers, the same result up to rounding.")
        add("--compile", type=bool, default=False, help="Compile the network, with batch normalisation folded.")
        add("--score_threshold", type=float | None, default=None, help="Of detections; by default the checkpoint's.")

    def before_instantiate_classes(self) -> None:
        check_trainer_flags(self.config.trainer, fits=False)
        if self.config.score_threshold is not None:
            check_score_threshold(self.config.score_threshold)
        check_choices(self.config, "pictures")
        if self.config.save_thresholds and (self.config.classes or self.config.class_agnostic == "true"):
            raise MisconfigurationException(
                "--save_thresholds: a checkpoint takes thresholds of all its classes; leave out --classes and "
                "--class_agnostic"
            )
        path = local_file(self.config.model.path)
        if self.config.save_thresholds and path != Path(self.config.model.path):
            raise MisconfigurationException(
                f"--save_thresholds: {path} is the copy of a published file, held against its hash; copy it, and "
                "give that"
            )
        self.config.model.path = str(path)
        self._check_exported(path)
        check_device(self.config.trainer)
        if self.config.compile:
            check_compile(self.config.trainer)
        data = self.config.data.as_dict()
        COCODataModule(**data)  # refuses settings that cannot be
        for name, value in with_selection_of(self.config.model.path, data).items():
            self.config.data[name] = value
        COCODataModule(**self.config.data.as_dict()).check(("val",))

    def _check_exported(self, path: Any) -> None:
        """Of an exported file: it runs on the CPU, as it is."""
        if not is_exported(path):
            return
        trainer = self.config.trainer
        self._in_bf16 = runs_in_bf16(path, trainer.accelerator, trainer.precision, self.precision_is_auto)
        trainer.accelerator, trainer.precision = "cpu", None
        for name in ("save_thresholds", "fold_batch_norm", "compile"):
            if self.config[name]:
                raise MisconfigurationException(f"--{name}: {path} is an exported file; give its checkpoint")

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        if self._in_bf16:
            self.model.engine = open_exported(self.config.model.path, bf16=True)
        if self.config.fold_batch_norm or self.config.compile:
            self.model.optimise_for_inference(self.config.compile)
        if self.config.score_threshold is not None:
            self.model.hparams.score_threshold = self.config.score_threshold

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        trainer = {**self.config_init.trainer, "logger": False, "enable_checkpointing": False}
        callbacks = listed(trainer["callbacks"])
        if self.config.pictures:
            callbacks = [*callbacks, DetectionPictures(self.config.pictures)]
        if trainer["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks = [*callbacks, RunProgress()]
        trainer["callbacks"] = callbacks
        return pl.Trainer(**{**trainer, **device_flags(trainer)})


def parse_results(args: Sequence[str]) -> argparse.Namespace:
    """The arguments with `--detections`: no checkpoint, no device."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py", description="Evaluates a file of COCO results, of whatever detector."
    )
    add = parser.add_argument
    add("--detections", type=Path, required=True, metavar="FILE", help="COCO results: a list of detections")
    add("--data_root", default="data/coco", metavar="DIR", help="the data set, or its yaml (default: data/coco)")
    add("--annotations", metavar="FILE", help="in place of those in --data_root")
    add("--images", metavar="DIR", help="of the pictures in the report, in place of those in --data_root")
    for name, settings in CHOICES.items():
        add(f"--{name}", **settings)
    flags = parser.parse_args(with_home(args))
    check_choices(flags)
    return flags


def has_detections(args: Sequence[str]) -> bool:
    return any(arg.partition("=")[0] == "--detections" for arg in args)


def rule_of(flags: Any) -> Rule | None:
    """The rule of `--operating_point`, or best F1 where thresholds are to be saved by none; None if none is needed."""
    if flags.operating_point is None:
        return Rule() if getattr(flags, "save_thresholds", False) else None
    try:
        return Rule.parse(flags.operating_point)
    except ValueError as error:
        raise MisconfigurationException(f"--operating_point {error}") from None


def chosen_labels(flags: Any, class_names: Sequence[str], category_ids: Sequence[int]) -> list[int] | None:
    """The labels of `--classes`; None means all."""
    return labels_of(flags.classes, class_names, category_ids)


def check_choices(flags: Any, *directories: str) -> None:
    """Raises MisconfigurationException for what can be seen without data. directories: further flags that name one."""
    rule_of(flags)
    for name in ("report", *directories):
        path = getattr(flags, name)
        if path is not None and path.exists() and not path.is_dir():
            raise MisconfigurationException(f"--{name} {path}: expected a directory, but this is a file")
    if flags.json is not None and flags.json.is_dir():
        raise MisconfigurationException(f"--json {flags.json}: expected a file, but this is a directory")


def _with_whole_paths(args: Sequence[str]) -> list[str]:
    """`--annotations F --images D` as the data module's settings, which it would look for below its data_root."""
    whole, flag = [], ""
    for arg in args:
        name, equals, value = arg.partition("=")
        if flag:
            whole.append(f"{flag}={_absolute(arg)}")
            flag = ""
        elif name.removeprefix("--") in FILES and name.startswith("--"):
            flag = f"--data.{FILES[name.removeprefix('--')]}"
            if equals:
                whole.append(f"{flag}={_absolute(value)}")
                flag = ""
        else:
            whole.append(arg)
    return [*whole, *([flag] if flag else [])]


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))
