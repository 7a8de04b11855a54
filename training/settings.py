"""What an SSDModule and its training can be set to: numbers out of range are refused before anything runs."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from pytorch_lightning.utilities.exceptions import MisconfigurationException

from ssd.default_boxes import NUM_DEFAULT_BOXES
from training.class_weights import BALANCED
from training.freezing import FREEZABLE
from training.optimisation import OPTIMIZERS, SCHEDULES
from training.ranges import Range, out_of_range

RANGES = {
    "num_classes": Range(1, whole=True),
    "learning_rate": Range(0, above=True),
    "momentum": Range(0, 1, below=True),
    "weight_decay": Range(0, 1, below=True),
    "warmup_steps": Range(0, whole=True),
    "gamma": Range(0, 1, above=True),
    "background_prior": Range(0, 1, above=True, below=True),
    "score_threshold": Range(0, 1, below=True),
    "iou_threshold": Range(0, 1, above=True),
    "max_detections": Range(1, NUM_DEFAULT_BOXES, whole=True),
}
CHOICES = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}
# Half precision of the weights themselves: SGD's small updates are rounded away, and so are the boxes of the targets.
INFERENCE_PRECISIONS = ("16-true", "bf16-true")


ONE_IMAGE = (
    "--data.batch_size 1: the smallest feature map is one cell, and batch normalisation cannot train on one value. "
    "Give at least 2 images per device; --trainer.accumulate_grad_batches makes steps of more images with less memory. "
    "Or start from trained weights with --model.freeze norm"
)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for a number that `SSDModule` cannot take, naming its flag."""
    if told := out_of_range(settings, RANGES, "--model."):
        raise ValueError(told)
    for name, kind, words in (("class_names", str, "texts"), ("category_ids", int, "integers, each once")):
        values = settings.get(name) or ()  # on the command line they are the data's, and not there
        if not (isinstance(values, Sequence) and all(isinstance(value, kind) for value in values)) or (
            isinstance(values, str) or (kind is int and len(set(values)) != len(values))
        ):
            raise ValueError(f"--model.{name} {reprlib.repr(values)}: expected a list of {words}")
    for name, choices in CHOICES.items():
        if settings.get(name, choices[0]) not in choices:
            raise ValueError(f"--model.{name} {settings[name]}: expected {' or '.join(choices)}")
    parts = settings.get("freeze") or ()
    if unknown := [part for part in ([parts] if isinstance(parts, str) else parts) if part not in FREEZABLE]:
        raise ValueError(f"--model.freeze {unknown[0]}: expected {' or '.join(FREEZABLE)}, or a list of both")
    weights = settings.get("class_weights") or BALANCED
    by_name = weights if isinstance(weights, Mapping) else {}
    wrong = weights if isinstance(weights, str) and weights != BALANCED else None
    wrong = next((f"{name}: {value}" for name, value in by_name.items() if value not in Range(0, above=True)), wrong)
    if wrong is not None:
        raise ValueError(
            f"--model.class_weights {wrong}: expected {BALANCED}, or numbers above 0 by class name, such as "
            "'{RBC: 0.5, Platelets: 2}'"
        )
    milestones = list(settings["milestones"] or ())
    epochs = Range(1, whole=True)
    if not all(epoch in epochs for epoch in milestones) or milestones != sorted(set(milestones)):
        raise ValueError(
            f"--model.milestones {milestones}: expected epochs, each {epochs}, in ascending order and each once"
        )


def check_training_precision(precision: Any) -> None:
    """Raises MisconfigurationException for a Trainer's precision that a network can be used, but not trained in."""
    if precision in INFERENCE_PRECISIONS:
        raise MisconfigurationException(
            f"--precision {precision}: weights of so few digits lose the small updates of training; this precision is "
            f"for evaluation and prediction. Train with {str(precision).removesuffix('-true')}-mixed or 32-true"
        )
