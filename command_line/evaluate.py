"""Evaluation from the command line: a checkpoint or a file of detections in; numbers, tables and a report out."""

import json
import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from checkpoints.operating_point import OperatingPoint, save_operating_point
from coco.annotations import CocoAnnotations
from coco.names import plain
from coco.splits import DataError, check_same_classes
from coco.whole_files import write_text
from command_line.evaluate_cli import EvaluateCLI, chosen_labels, has_detections, parse_results, rule_of
from datamodule import COCODataModule
from evaluation.detections import Detections
from evaluation.errors import match_detections
from evaluation.numbers import Evaluation, evaluate_at_once
from evaluation.report import RULES, Slice, write_report
from evaluation.result_files import read_results
from evaluation.selection import as_one_class, of_classes, of_images, read_slice
from evaluation.tables import class_table, metrics_table, scope, slice_table, threshold_table
from evaluation.thresholds import OperatingPoint as ClassPoint
from evaluation.thresholds import Rule, operating_points


def evaluate(args: Sequence[str] | None = None) -> dict[str, float]:
    """Parses the arguments (those of the process by default) and returns the numbers by name, on every rank."""
    args = list(sys.argv[1:] if args is None else args)
    return _evaluate_results(args) if has_detections(args) else _evaluate_checkpoint(args)


def main(args: Sequence[str] | None = None) -> None:
    """What evaluate.py does; see `evaluate`."""
    evaluate(args)


def _evaluate_checkpoint(args: Sequence[str]) -> dict[str, float]:
    cli = EvaluateCLI(args)
    module, flags, annotations = cli.model, cli.config, cli.datamodule.val_annotations
    check_same_classes(module.class_names, module.category_ids, annotations)
    labels = chosen_labels(flags, module.class_names, module.category_ids)
    slices = _slices(flags, annotations, cli.datamodule.val_limit)
    cli.trainer.validate(module, cli.datamodule, verbose=False)
    numbers = module.numbers
    told = None
    if cli.trainer.is_global_zero:
        detections = module.metric.found_detections
        facts = {
            "ckpt_path": str(flags.model.path),
            **{key: module.hparams[key] for key in ("score_threshold", "iou_threshold", "max_detections")},
        }
        told = _Told(flags, annotations, detections, labels, slices, facts)
        numbers = told.evaluation.numbers
    if labels or flags.class_agnostic == "true":  # else they are on every rank already
        numbers = cli.trainer.strategy.broadcast(numbers)
    if told:
        told.tell(cli.datamodule.val_directory)
        if flags.save_thresholds:
            told.save_thresholds(Path(flags.model.path))
    return numbers


def _evaluate_results(args: Sequence[str]) -> dict[str, float]:
    flags = parse_results(args)
    places = {"val_annotations": flags.annotations, "val_images": flags.images}
    given: dict[str, Any] = {key: os.path.abspath(path) for key, path in places.items() if path}
    data = COCODataModule(flags.data_root, num_workers=0, **given)
    annotations, images = data.val_annotations, data.val_directory
    if flags.images and not images.is_dir():
        raise DataError(f"--images {flags.images}: no such directory")
    labels = chosen_labels(flags, annotations.class_names, annotations.category_ids)
    slices = _slices(flags, annotations, None)
    detections = read_results(flags.detections, annotations)
    facts = {"detections": str(flags.detections), "score_threshold": 0.0}
    told = _Told(flags, annotations, detections, labels, slices, facts)
    told.tell(images if images.is_dir() else None)
    return told.evaluation.numbers


class _Told:
    """What an evaluation says, on the process that has all detections.

    Args:
        flags: `evaluate_cli.CHOICES`. labels: of `--classes`. slices: name -> image ids. facts: for the report.
    """

    def __init__(
        self,
        flags: Any,
        annotations: CocoAnnotations,
        detections: Detections,
        labels: list[int] | None,
        slices: dict[str, np.ndarray],
        facts: dict[str, Any],
    ) -> None:
        self.flags, self.rule = flags, rule_of(flags)
        self.facts = {
            **facts,
            "annotations": str(annotations.path),
            "images": len(detections.image_ids),
            "images_in_split": len(annotations),
        }
        if labels:
            self.facts["classes"] = [annotations.class_names[label - 1] for label in labels]
            annotations, detections = of_classes(annotations, detections, labels)
        if flags.class_agnostic == "true":
            self.facts["class_agnostic"] = True
            annotations, detections = as_one_class(annotations, detections)
        self.annotations, self.detections = annotations, detections
        self.evaluation: Evaluation = evaluate_at_once(annotations, detections)
        self.slices = [self._slice(name, image_ids) for name, image_ids in slices.items()]

    def tell(self, images: Path | None) -> None:
        """Prints the tables and writes what was asked for. images: directory of the pictures."""
        flags, facts = self.flags, self.facts
        print(f"\nEvaluated {scope(facts)}, at score_threshold {facts['score_threshold']:g}")
        print(metrics_table(self.evaluation.numbers))
        print(class_table(self.evaluation.classes))
        if self.slices:
            print(slice_table([(each.name, each.images, each.numbers) for each in self.slices]))
        if self.rule:
            print(threshold_table(self.annotations.class_names, self.rule, self._points(self.rule)))
        if flags.json:
            write_text(flags.json, json.dumps(self.evaluation.numbers, indent=1), follow=True)
        if flags.report:
            rules = list(dict.fromkeys([*([self.rule] if self.rule else []), *RULES]))
            write_report(flags.report, self.annotations, self.detections, facts, images, rules, self.slices)
            print(f"\nreport: {flags.report / 'index.html'}")

    def save_thresholds(self, path: Path) -> None:
        """Writes thresholds into the checkpoint; a class without one of its own gets that of all together.

        Raises:
            MisconfigurationException: no threshold answers to the rule.
        """
        rule = self.rule or Rule()
        *own, together = self._points(rule)
        if together is None:
            raise MisconfigurationException(
                f"--operating_point {rule}: no threshold gives that, so none was saved. Ask for less precision"
            )
        without = [name for name, point in zip(self.annotations.class_names, own, strict=True) if point is None]
        if without:
            print(
                f"no threshold of their own: {', '.join(map(plain, without))}; they get that of all classes together, "
                f"{together.threshold:.3f}"
            )
        thresholds = tuple((point or together).threshold for point in own)
        digest = self.annotations.digest[:16]
        point = OperatingPoint(str(rule), thresholds, self.facts["images"], digest)
        save_operating_point(path, point)
        print(f"saved in {plain(str(path))}: score thresholds by {point}. Prediction uses them by default")

    @cache  # noqa: B019 - there is one, and it lives as long as the process
    def _points(self, rule: Rule) -> list[ClassPoint | None]:
        matches, lowest = match_detections(self.annotations, self.detections), self.facts["score_threshold"]
        return operating_points(self.annotations, self.detections, matches, [rule], lowest)[rule]

    def _slice(self, name: str, image_ids: np.ndarray) -> Slice:
        detections = of_images(self.detections, image_ids)
        return Slice(name, len(image_ids), evaluate_at_once(self.annotations, detections).numbers)


def _slices(flags: Any, annotations: CocoAnnotations, limit: int | None) -> dict[str, np.ndarray]:
    """Slice name -> image ids; a file is called by its stem, or as it was given where stems are equal."""
    paths = [Path(path).expanduser() for path in flags.slices or ()]
    stems = [path.stem for path in paths]
    slices = {path.stem if stems.count(path.stem) == 1 else str(path): read_slice(path, annotations) for path in paths}
    evaluated = annotations.image_ids[:limit]
    for name, image_ids in slices.items():
        left_out = np.setdiff1d(image_ids, evaluated)
        if len(left_out):
            raise MisconfigurationException(
                f"--slices {name}: {len(left_out)} of its {len(image_ids)} images, first that of id {left_out[0]}, are "
                f"not among the first {limit}, which --limit evaluates"
            )
    return slices
