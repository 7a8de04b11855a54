"""Evaluates a checkpoint on the validation split: COCO's twelve numbers and a table per class.

    python evaluate.py --ckpt_path runs/0001/checkpoints/best.ckpt --data_root data/sample
    python evaluate.py --ckpt_path epoch_64.pt --data_root data/coco --pictures pictures --json numbers.json
    python evaluate.py --ckpt_path runs/0001/checkpoints/best.ckpt --data_root data/coco --report report --limit 500

Backbone and classes come from the checkpoint: one of ours, or a `.pt` file of the published recipe. `--report` writes
tables, precision-recall curves, score histograms, detections in COCO results JSON, and the worst images with what is
wrong in them.
"""

import json
from collections.abc import Sequence
from typing import Any

from cli import EvaluateCLI, run
from datamodule import check_same_classes
from report import class_table, metrics_table, scope, write_report


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
            cli.config.json.parent.mkdir(parents=True, exist_ok=True)
            cli.config.json.write_text(json.dumps(numbers, indent=1))
        if cli.config.report:
            write_report(cli.config.report, module.metric, numbers, facts, cli.datamodule.val_directory)
            print(f"\nreport: {cli.config.report}")
    return numbers


def _facts(cli: EvaluateCLI) -> dict[str, Any]:
    """What was evaluated and how."""
    module = cli.model
    return {
        "ckpt_path": str(cli.config.model.path),
        "annotations": str(module.metric.annotations.path),
        "images": len(module.metric.evaluated_ids),
        "images_in_split": len(module.metric.annotations),
        **{key: module.hparams[key] for key in ("score_threshold", "iou_threshold", "max_detections")},
    }


if __name__ == "__main__":
    run(evaluate)
