"""COCO's numbers by name, and per class, from COCOeval's arrays; or from detections, all at once."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from coco.annotations import CocoAnnotations
from evaluation import coco_sets
from evaluation.detections import Detections

# COCOeval's twelve numbers, in its order.
NUMBERS = (
    *("mAP", "mAP_50", "mAP_75", "mAP_small", "mAP_medium", "mAP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)


class Evaluation(NamedTuple):
    """The numbers of some detections; -1 where there is nothing to measure, as in COCOeval."""

    numbers: dict[str, float]  # `NUMBERS`
    classes: list[dict[str, Any]]  # `class_rows`
    precision: np.ndarray  # float64 [T, R, C] of IoU thresholds, recalls and classes, all sizes


def evaluate_at_once(annotations: CocoAnnotations, detections: Detections) -> Evaluation:
    """The numbers of detections over their images: those of the metric, to the bit."""
    evaluator = coco_sets.evaluate(annotations, detections)
    evaluator.summary_lines()  # which makes `stats`, and prints nothing
    arrays: Any = evaluator.eval
    classes = class_rows(annotations, detections.image_ids, arrays)
    numbers = dict(zip(NUMBERS, map(float, evaluator.stats[: len(NUMBERS)]), strict=True))
    return Evaluation(numbers, classes, np.asarray(arrays["precision"])[..., 0, -1])


def class_rows(
    annotations: CocoAnnotations, image_ids: np.ndarray, arrays: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Per class its name, number of ground truths in these images, AP, AP50, AP75 and AR at 100.

    Args:
        arrays: COCOeval's `precision` [T, R, C, area, max] and `recall` [T, C, area, max].
    """
    precision, recall = np.asarray(arrays["precision"]), np.asarray(arrays["recall"])

    def mean(values: np.ndarray) -> float:
        values = values[values > -1]
        return float(values.mean()) if values.size else -1.0

    image = np.repeat(annotations.image_ids, np.diff(annotations.first))
    labels = annotations.labels[np.isin(image, image_ids) & ~annotations.iscrowd]
    counts = np.bincount(labels, minlength=len(annotations.class_names) + 1)[1:]
    return [
        {
            "name": name,
            "category_id": annotations.category_ids[c],
            "ground_truths": int(counts[c]),
            "AP": mean(precision[:, :, c, 0, -1]),
            "AP50": mean(precision[0, :, c, 0, -1]),
            "AP75": mean(precision[5, :, c, 0, -1]),
            "AR": mean(recall[:, c, 0, -1]),
        }
        for c, name in enumerate(annotations.class_names)
    ]
