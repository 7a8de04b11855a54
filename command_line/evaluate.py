"""Evaluation from the command line: a checkpoint in; numbers, tables and a report out."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from coco.whole_files import write_text
from command_line.shared import ScriptCLI, UsageError, listed
from command_line.trainer_flags import check_trainer_flags
from datamodule import COCODataModule, check_same_classes
from evaluation.report import write_report
from evaluation.tables import class_table, metrics_table, scope
from prediction.devices import check_compile, check_device, check_score_threshold, device_flags
from ssd_module import load_module
from training.pictures import DetectionPictures


def evaluate(args: Sequence[str] | None = None) -> dict[str, Any]:
    """Parses the arguments (those of the process by default) and returns the numbers by name, on every rank."""
    cli = EvaluateCLI(args)
    module = cli.model
    check_same_classes(module.class_names, module.category_ids, cli.datamodule.val_annotations)
    cli.trainer.validate(module, cli.datamodule, verbose=False)
    numbers = module.numbers
    if cli.trainer.is_global_zero:
        facts = _facts(cli)
        print(f"\nEvaluated {scope(facts)}, at score_threshold {facts['score_threshold']:g}")
        print(metrics_table(numbers))
        print(class_table(module.metric.per_class()))
        if cli.config.json:
            write_text(cli.config.json, json.dumps(numbers, indent=1), follow=True)
        if cli.config.report:
            metric = module.metric
            write_report(
                cli.config.report, metric.annotations, metric.found_detections, facts, cli.datamodule.val_directory
            )
            print(f"\nreport: {cli.config.report / 'index.html'}")
    return numbers


def main(args: Sequence[str] | None = None) -> None:
    """What evaluate.py does; see `evaluate`."""
    evaluate(args)


def _facts(cli: "EvaluateCLI") -> dict[str, Any]:
    """What was evaluated and how."""
    module = cli.model
    return {
        "ckpt_path": str(cli.config.model.path),
        "annotations": str(module.metric.annotations.path),
        "images": len(module.metric.evaluated_ids),
        "images_in_split": len(module.metric.annotations),
        **{key: module.hparams[key] for key in ("score_threshold", "iou_threshold", "max_detections")},
    }


class EvaluateCLI(ScriptCLI):
    """Arguments of evaluate.py: trainer and data; the model comes from `--ckpt_path`."""

    def __init__(self, args: Sequence[str] | None = None) -> None:
        short_flags = {"ckpt_path": "model.path", "limit": "data.val_limit"}
        super().__init__(load_module, sys.argv[1:] if args is None else args, short_flags)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            super().parse_arguments(parser, args)
        except UsageError as error:
            if "model.path" in str(error) and "required" in str(error):
                raise UsageError(
                    "--ckpt_path is missing: the checkpoint to evaluate, such as runs/0001/checkpoints/best.ckpt, or a "
                    ".pt file of the published recipe"
                ) from None
            raise

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add = parser.add_argument
        add("--json", type=Path | None, default=None, help="Also write the numbers to this file.")
        add(
            "--report",
            type=Path | None,
            default=None,
            help="Write tables, plots and the worst images to this directory.",
        )
        add("--pictures", type=Path | None, default=None, help="Draw 12 images' detections in this directory.")
        add("--fold_batch_norm", type=bool, default=False, help="Fewer layers, the same result up to rounding.")
        add("--compile", type=bool, default=False, help="Compile the network, with batch normalisation folded.")
        add("--score_threshold", type=float | None, default=None, help="Of detections; by default the checkpoint's.")

    def before_instantiate_classes(self) -> None:
        self._check_flags()
        check_device(self.config.trainer)
        if self.config.compile:
            check_compile(self.config.trainer)
        COCODataModule(**self.config.data.as_dict()).check(("val",))

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        if self.config.fold_batch_norm or self.config.compile:
            self.model.optimise_for_inference(self.config.compile)
        if self.config.score_threshold is not None:
            self.model.hparams.score_threshold = self.config.score_threshold

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        trainer = {**self.config_init.trainer, "logger": False, "enable_checkpointing": False}
        if self.config.pictures:
            trainer["callbacks"] = [*listed(trainer["callbacks"]), DetectionPictures(self.config.pictures)]
        return pl.Trainer(**{**trainer, **device_flags(trainer)})

    def _check_flags(self) -> None:
        check_trainer_flags(self.config.trainer, fits=False)
        if self.config.score_threshold is not None:
            check_score_threshold(self.config.score_threshold)
        for flag in ("report", "pictures"):
            path = self.config[flag]
            if path is not None and path.exists() and not path.is_dir():
                raise MisconfigurationException(f"--{flag} {path}: expected a directory, but this is a file")
        if self.config.json is not None and self.config.json.is_dir():
            raise MisconfigurationException(f"--json {self.config.json}: expected a file, but this is a directory")
