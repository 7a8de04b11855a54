"""Evaluates a checkpoint on the validation split: COCO's twelve numbers and a table per class.

    python evaluate.py --ckpt_path runs/0001/checkpoints/best.ckpt --data_root data/sample
    python evaluate.py --ckpt_path epoch_64.pt --data_root data/coco --pictures pictures --json numbers.json

Backbone and classes come from the checkpoint: one of ours, or a `.pt` file of the published recipe.
"""

import json
from collections.abc import Sequence
from typing import Any

from cli import EvaluateCLI, run
from datamodule import check_same_classes
from report import class_table, metrics_table


def evaluate(args: Sequence[str] | None = None) -> dict[str, Any]:
    """Parses the arguments (those of the process by default) and returns the numbers by name, on every rank."""
    cli = EvaluateCLI(args)
    module = cli.model
    check_same_classes(module.class_names, module.category_ids, cli.datamodule.val_annotations)
    cli.trainer.validate(module, cli.datamodule, verbose=False)
    numbers = module.numbers
    if cli.trainer.is_global_zero:
        print(metrics_table(numbers))
        print(class_table(module.metric.per_class()))
        if cli.config.json:
            cli.config.json.write_text(json.dumps(numbers, indent=1))
    return numbers


if __name__ == "__main__":
    run(evaluate)
