"""What one split of a data set holds, in figures: counts, class balance, box sizes at the input, boxes hard to match.

Plain numbers from `CocoAnnotations`; no picture is opened.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from coco.annotations import CocoAnnotations
from coco.decoding import INPUT_SIZE

MIN_IOU = 0.5  # SSD matches a default box to a ground truth above this IoU
COCO_AREAS = (32**2, 96**2)  # px^2 in the original picture: small below the first, large from the second on
SIDES = (16, 32, 64, 128)  # px at the input; bounds of the bins of `sides`
BestIou = Callable[[np.ndarray], np.ndarray]  # see `split_figures`
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def split_figures(annotations: CocoAnnotations, best_iou: BestIou) -> dict[str, Any]:
    """The figures of one split, JSON-ready.

    Args:
        best_iou: float32 [N, 4] boxes, xyxy in [0, 1] -> [N], the IoU of each with the default box that fits it best.

    Returns:
        images, images_without_boxes, images_with_crowds, trainable_images; boxes, crowd_boxes, dropped_boxes,
        clipped_boxes; classes: [{id, name, images, boxes, share, unmatched}]; areas: {small, medium, large};
        and of the boxes trained on (dropped ones left out): sides [{from, to, boxes, unmatched}], px at the input;
        width and height: quantiles in px at the input; unmatched: boxes that no default box matches above MIN_IOU.
    """
    counts = np.diff(annotations.first)
    image = np.repeat(np.arange(len(annotations)), counts)
    _, boxes, labels = annotations.all_training_boxes
    unmatched = best_iou(boxes) <= MIN_IOU
    width, height = INPUT_SIZE * (boxes[:, 2:] - boxes[:, :2]).T
    return {
        "annotations": str(annotations.path),
        "images": len(annotations),
        "images_without_boxes": int((counts == 0).sum()),
        "images_with_crowds": len(np.unique(image[annotations.iscrowd])),
        "trainable_images": len(annotations.trainable),
        "boxes": len(annotations.labels),
        "crowd_boxes": int(annotations.iscrowd.sum()),
        "dropped_boxes": annotations.num_dropped,
        "clipped_boxes": annotations.num_clipped,
        "classes": _classes(annotations, image, labels[unmatched]),
        "areas": dict(zip(("small", "medium", "large"), _bins(annotations.areas, COCO_AREAS), strict=True)),
        "sides": _sides(np.sqrt(width * height), unmatched),
        "width": _quantiles(width),
        "height": _quantiles(height),
        "unmatched": int(unmatched.sum()),
    }


def figures_table(name: str, figures: dict[str, Any]) -> list[str]:
    """The figures of the split `name` as lines of text."""
    boxes = figures["boxes"]
    trained_on = boxes - figures["dropped_boxes"]
    lines = [
        f"{name} ({figures['annotations']})",
        f"  images {figures['images']}: {figures['images_without_boxes']} without boxes, "
        f"{figures['images_with_crowds']} with crowds, {figures['trainable_images']} to train on",
        f"  boxes {boxes}: {figures['crowd_boxes']} crowds, {figures['dropped_boxes']} dropped for training, "
        f"{figures['clipped_boxes']} clipped",
        f"  by COCO's areas: {', '.join(f'{size} {count}' for size, count in figures['areas'].items())}",
        "",
        f"  {'class':20}{'id':>8}{'images':>9}{'boxes':>9}{'share':>9}   no default box above IoU {MIN_IOU}",
    ]
    for entry in figures["classes"]:
        lines.append(
            f"  {entry['name'][:20]:20}{entry['id']:8}{entry['images']:9}{entry['boxes']:9}{entry['share']:9.1%}"
            f"   {_part(entry['unmatched'], entry['boxes'])}"
        )
    lines += ["", f"  {f'side at {INPUT_SIZE}x{INPUT_SIZE}':37}{'boxes':>9}{'share':>9}"]
    for entry in figures["sides"]:
        bounds = f"{entry['from']} to {entry['to']} px" if entry["to"] else f"{entry['from']} px and more"
        lines.append(
            f"  {bounds:37}{entry['boxes']:9}{entry['boxes'] / max(1, trained_on):9.1%}"
            f"   {_part(entry['unmatched'], entry['boxes'])}"
        )
    lines.append(f"  {'together':37}{trained_on:9}{'':9}   {_part(figures['unmatched'], trained_on)}")
    for key in ("width", "height"):
        quantiles = ", ".join(f"{quantile} {value:g}" for quantile, value in figures[key].items())
        lines.append(f"  {key} at {INPUT_SIZE}x{INPUT_SIZE}, quantiles in px: {quantiles}")
    return lines


def _part(count: int, of: int) -> str:
    return f"{count} ({count / of:.1%})" if of else "0"


def _classes(annotations: CocoAnnotations, image: np.ndarray, unmatched_labels: np.ndarray) -> list[dict[str, Any]]:
    count = len(annotations.class_names) + 1
    boxes = np.bincount(annotations.labels, minlength=count)
    unmatched = np.bincount(unmatched_labels, minlength=count)
    pairs = np.sort(image * count + annotations.labels)  # sorted: NumPy's own unique takes ten times as long for many
    images = np.bincount(pairs[np.diff(pairs, prepend=-1) > 0] % count, minlength=count)
    return [
        {
            "id": category_id,
            "name": name,
            "images": int(images[label]),
            "boxes": int(boxes[label]),
            "share": float(boxes[label] / max(1, len(image))),
            "unmatched": int(unmatched[label]),
        }
        for label, (category_id, name) in enumerate(
            zip(annotations.category_ids, annotations.class_names, strict=True), start=1
        )
    ]


def _sides(side: np.ndarray, unmatched: np.ndarray) -> list[dict[str, Any]]:
    rows = zip((0, *SIDES), (*SIDES, None), _bins(side, SIDES), _bins(side[unmatched], SIDES), strict=True)
    return [dict(zip(("from", "to", "boxes", "unmatched"), row, strict=True)) for row in rows]


def _bins(values: np.ndarray, bounds: tuple[int, ...]) -> list[int]:
    """How many values lie below the first bound, from it to the next, ..., from the last on."""
    return np.bincount(np.searchsorted(bounds, values, side="right"), minlength=len(bounds) + 1).tolist()


def _quantiles(values: np.ndarray) -> dict[str, float]:
    found = np.quantile(values, QUANTILES) if len(values) else np.zeros(len(QUANTILES))
    return {f"{100 * quantile:g} %": round(float(value), 1) for quantile, value in zip(QUANTILES, found, strict=True)}
