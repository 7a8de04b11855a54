"""Tables of an evaluation for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from coco.metric import NUMBERS

_MEANING = (
    "AP, IoU 0.50:0.95, all sizes",
    "AP, IoU 0.50",
    "AP, IoU 0.75",
    "AP, small (area < 32^2 px)",
    "AP, medium (32^2 .. 96^2 px)",
    "AP, large (> 96^2 px)",
    "AR, 1 detection per image",
    "AR, 10 detections",
    "AR, 100 detections",
    "AR, small",
    "AR, medium",
    "AR, large",
)


def metrics_table(numbers: Mapping[str, float]) -> str:
    """COCO's twelve numbers with what they mean; - where nothing could be measured (COCOeval's -1)."""
    rows = [f"{name:<12} {_number(numbers[name])}   {meaning}" for name, meaning in zip(NUMBERS, _MEANING, strict=True)]
    return "\n".join(("", "COCO metric  value   meaning", "-" * 52, *rows))


def class_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Per-class AP, best first."""
    width = max([len("class"), *(len(row["name"]) for row in rows)])
    lines = [
        f"{row['name']:<{width}} {row['ground_truths']:>7} "
        + " ".join(_number(row[key]) for key in ("AP", "AP50", "AP75", "AR"))
        for row in sorted(rows, key=lambda row: -row["AP"])
    ]
    return "\n".join(("", f"{'class':<{width}}   boxes     AP   AP50   AP75     AR", "-" * (width + 36), *lines))


def _number(value: float) -> str:
    return "     -" if value == -1 else f"{value:6.3f}"
