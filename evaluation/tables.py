"""The numbers of an evaluation as tables: rows of plain data, and text for a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from checkpoints.published import COCO_CATEGORY_IDS
from coco.annotations import CocoAnnotations
from coco.names import plain
from evaluation.numbers import NUMBERS
from evaluation.thresholds import OperatingPoint, Rule

MEANING = dict(
    zip(
        NUMBERS,
        (
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
        ),
        strict=True,
    )
)
VAL2017_IMAGES = 5000


def metrics_table(numbers: Mapping[str, float]) -> str:
    """COCO's twelve numbers with what they mean; - where nothing could be measured (COCOeval's -1)."""
    rows = [f"{name:<12} {_number(numbers[name])}   {meaning}" for name, meaning in MEANING.items()]
    return "\n".join(("", "COCO metric  value   meaning", "-" * 52, *rows))


def class_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Per-class AP, best first."""
    rows = [{**row, "name": plain(row["name"])} for row in rows]
    width = max([len("class"), *(len(row["name"]) for row in rows)])
    lines = [
        f"{row['name']:<{width}} {row['ground_truths']:>7} "
        + " ".join(_number(row[key]) for key in ("AP", "AP50", "AP75", "AR"))
        for row in sorted(rows, key=lambda row: -row["AP"])
    ]
    return "\n".join(("", f"{'class':<{width}}   boxes     AP   AP50   AP75     AR", "-" * (width + 36), *lines))


def slice_table(slices: Sequence[tuple[str, int, Mapping[str, float]]]) -> str:
    """A line for each (name, images, numbers)."""
    named = [(plain(name), images, numbers) for name, images, numbers in slices]
    width = max(len(name) for name, _, _ in named)
    lines = [
        f"{name:<{width}} {images:>7} " + " ".join(_number(numbers[key]) for key in NUMBERS[:6])
        for name, images, numbers in named
    ]
    head = f"{'slice':<{width}}  images    mAP   AP50   AP75  small medium  large"
    return "\n".join(("", head, "-" * len(head), *lines))


def threshold_table(names: Sequence[str], rule: Rule, points: Sequence[OperatingPoint | None]) -> str:
    """The threshold of each class, and of all classes together, for a rule."""
    named = [*map(plain, names), "all classes, one threshold"]
    width = max(map(len, named))
    lines = [
        f"{name:<{width}} "
        + (" ".join(f"{value:9.3f}" for value in (p.threshold, p.precision, p.recall, p.f1)) if p else "none")
        for name, p in zip(named, points, strict=True)
    ]
    head = f"{'class':<{width}} threshold precision    recall        F1"
    return "\n".join(("", f"Score thresholds by {rule}, at IoU 0.5:", head, "-" * len(head), *lines))


def scope(facts: Mapping[str, Any]) -> str:
    """Which images were evaluated, in words."""
    images, whole = facts["images"], facts["images_in_split"]
    return f"all {whole} images" if images == whole else f"the first {images} of {whole} images, by image id"


def why_not_comparable(annotations: CocoAnnotations, facts: Mapping[str, Any]) -> list[str]:
    """Why the numbers are not to be compared with published ones for COCO val2017; empty if they are."""
    reasons = []
    if tuple(annotations.category_ids) != COCO_CATEGORY_IDS:
        reasons.append(f"the {len(annotations.category_ids)} classes are not COCO's 80, by category id")
    if facts["images"] != facts["images_in_split"]:
        reasons.append(f"only {facts['images']} of {facts['images_in_split']} images were evaluated")
    elif facts["images"] != VAL2017_IMAGES:
        reasons.append(f"val2017 has {VAL2017_IMAGES} images, this split has {facts['images']}")
    if facts.get("max_detections") is not None and facts["max_detections"] < 100:
        reasons.append(f"at most {facts['max_detections']} detections of an image were kept, and COCO counts 100")
    return reasons


def _number(value: float) -> str:
    return "     -" if value == -1 else f"{value:6.3f}"
