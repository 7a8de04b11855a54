"""What a data set allows SSD300 to find, seen before any training, and what to do about it.

An object is within reach if a default box overlaps it above `MIN_IOU` at the network's input, so that training has a
box for it. Others get their nearest one, and are found seldom; below `TINY` pixels there is little to see, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from textwrap import TextWrapper
from typing import Any

import numpy as np

from coco.annotations import CocoAnnotations
from coco.decoding import INPUT_SIZE
from coco.figures import MIN_IOU, BestIou
from coco.findings import some
from coco.names import plain

TINY = 8  # px at the input, of a side: a cell of the finest map
HOPELESS = 0.5  # share within reach below which training finds little
GOOD = 0.9  # from which on size is no hindrance
FEW_BOXES, FEW_IMAGES = 20, 100  # for training
MANY_TO_ONE = 20  # boxes of the most frequent class to one of the rarest
MANY_EMPTY = 0.1  # of the training images
WHOLE, MANY_WHOLE = 0.95, 0.1  # of a picture's sides; share of boxes that are as large
COLUMNS, ROWS = 80, 25  # of the table


@dataclass
class Advice:
    """Plain values, JSON-ready.

    classes: name, boxes, within_reach and tiny (shares, below `TINY`) of each; boxes that are trained on, of all
    splits. The same of all boxes: boxes, within_reach, tiny. lines: what to do, a sentence or two each.
    """

    boxes: int = 0
    within_reach: float = 0.0
    tiny: float = 0.0
    classes: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def hopeless(figures: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why a data set should not be trained on as it is, though nothing would stop a run; None if it can be.

    Args:
        figures: by split, see `coco.figures.split_figures`.
    """
    boxes = sum(of["boxes"] - of["dropped_boxes"] for of in figures.values())
    out = sum(of["unmatched"] for of in figures.values())
    if boxes and 1 - out / boxes < HOPELESS:
        return f"{out} of {boxes} boxes are out of SSD300's reach (no default box above IoU {MIN_IOU})"
    return None


def advise(splits: Mapping[str, CocoAnnotations], best_iou: BestIou, near: Sequence[str] | None) -> Advice:
    """Looks at the splits that there are, "train" and mostly "val", of the same classes.

    Args:
        best_iou: see `coco.figures.split_figures`. near: pairs of pictures of both splits that look alike; None if
            nobody looked.
    """
    parts = [annotations.all_training_boxes for annotations in splits.values()]
    boxes, labels = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    reached = best_iou(boxes) > MIN_IOU
    tiny = INPUT_SIZE * np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1)) < TINY
    names = next(iter(splits.values())).class_names
    counts, of_reached, of_tiny = (
        np.bincount(labels[chosen], minlength=len(names) + 1)[1:]
        for chosen in (np.ones(len(labels), bool), reached, tiny)
    )
    share = np.maximum(counts, 1)
    rows = zip(names, counts.tolist(), (of_reached / share).tolist(), (of_tiny / share).tolist(), strict=True)
    made = Advice(len(boxes), float(reached.mean()), float(tiny.mean()))
    made.classes = [dict(zip(("name", "boxes", "within_reach", "tiny"), row, strict=True)) for row in rows]
    made.lines = [
        *_on_sizes(made),
        *_on_training(splits["train"]),
        *(line for split, annotations in splits.items() for line in _on_boxes(annotations, split)),
        *_on_likeness(near),
    ]
    return made


def advice_text(advice: Advice) -> list[str]:
    """The advice for a terminal of 80 columns; of many classes those that are reached least."""
    there = [row for row in advice.classes if row["boxes"]]
    shown = sorted(there, key=lambda row: row["within_reach"])[:ROWS] if len(there) > ROWS else there
    lines = [f"within SSD300's reach at {INPUT_SIZE}x{INPUT_SIZE}, a default box above IoU {MIN_IOU}:"]
    lines.append(f"  {'class':33}{'boxes':>9}{'within reach':>15}{f'below {TINY} px':>15}")
    every = [{"name": "together", **asdict(advice)}] if len(there) > 1 else []
    for row in [*shown, *every]:
        name = plain(row["name"])[:32]
        lines.append(f"  {name:33}{row['boxes']:9}{row['within_reach']:15.1%}{row['tiny']:15.1%}")
    if len(shown) < len(there):
        lines.append(f"  ({len(there) - len(shown)} classes that are reached more often are left out)")
    wrapper = TextWrapper(COLUMNS, "- ", "  ", break_long_words=False, break_on_hyphens=False)
    told = (wrapper.fill(plain(line)) for line in advice.lines)
    return [*lines, "", *told]


def _on_sizes(advice: Advice) -> list[str]:
    reach = f"{advice.within_reach:.1%} of the boxes are within reach"
    if advice.within_reach < HOPELESS:
        return [
            f"Hopeless as it is: {reach}, {advice.tiny:.1%} are below {TINY} px at the input. Show objects larger: cut "
            "the pictures into tiles, or take them from nearer."
        ]
    out = [row["name"] for row in advice.classes if row["boxes"] and row["within_reach"] < HOPELESS]
    least = f" Less than half of: {some(out)}." if out else ""
    if advice.within_reach < GOOD:
        return [f"{reach}, the others will be found seldom: tiles show them larger.{least}"]
    return [f"{reach}: their sizes suit SSD300.{least}"]


def _on_training(train: CocoAnnotations) -> list[str]:
    lines, names, counts = [], train.class_names, train.training_objects
    if len(train.trainable) < FEW_IMAGES:
        lines.append(
            f"{len(train.trainable)} pictures to train on are few: begin with a checkpoint that was trained on more "
            "(--finetune_from CKPT)."
        )
    few = [f"{name} ({count})" for name, count in zip(names, counts.tolist(), strict=True) if count < FEW_BOXES]
    if few:
        lines.append(
            f"{len(few)} of {len(names)} classes have fewer than {FEW_BOXES} boxes to train on: {some(few)}. Annotate "
            "more, merge them with others (--data.merge_classes) or leave them out (--data.classes)."
        )
    by_count = [i for i in np.argsort(counts, kind="stable").tolist() if counts[i]]
    if by_count and counts[by_count[-1]] > MANY_TO_ONE * counts[by_count[0]]:
        rarest, most = by_count[0], by_count[-1]
        lines.append(
            f"{names[most]} has {counts[most] / counts[rarest]:.0f} times the boxes of {names[rarest]}: look at each "
            "class's AP, not at mAP alone; --model.class_weights balanced weighs rare classes more."
        )
    if len(train.backgrounds) > MANY_EMPTY * len(train):
        lines.append(
            f"{len(train.backgrounds)} of {len(train)} training pictures are without objects and left out: "
            "--data.train_backgrounds true trains on them too, against false alarms."
        )
    return lines


def _on_boxes(annotations: CocoAnnotations, split: str) -> list[str]:
    """Boxes that are there twice, and ones that can hardly be meant."""
    image = np.repeat(np.arange(len(annotations)), np.diff(annotations.first))
    boxes, sizes = annotations.bboxes, np.stack([annotations.widths, annotations.heights], 1)[image]
    keys = np.column_stack([image, np.rint(np.clip(boxes, -1e9, 1e9)).astype(np.int64), annotations.labels])
    keys = keys[np.lexsort(keys.T[::-1])]
    same, label = (keys[1:, :5] == keys[:-1, :5]).all(1), keys[1:, 5] == keys[:-1, 5]
    whole = int((boxes[:, 2:] >= WHOLE * sizes).all(1).sum())
    shares = ((boxes >= 0) & (boxes <= 1)).all(1)
    found = {
        "are there twice, of one class and equal to a pixel: remove them, one of each is always a miss.": same & label,
        "are those of another class, too, to a pixel: decide which it is.": same & ~label,
        "lie within 0..1, as shares of a picture do; COCO's are pixels.": shares,
        "are at most 1 px wide or high: points or lines, which nothing finds.": (boxes[:, 2:] <= 1).any(1) & ~shares,
    }
    lines = [f"{split}: {rows.sum()} boxes {told}" for told, rows in found.items() if rows.any()]
    if whole > MANY_WHOLE * len(boxes):
        told = "boxes are as large as their picture: labels of pictures, not of objects?"
        lines.append(f"{split}: {whole} of {len(boxes)} {told}")
    return lines


def _on_likeness(near: Sequence[str] | None) -> list[str]:
    if near is None:
        told = "needs the pictures opened, and imagehash (pip install 'ssd300-lightning[check]')"
        return [f"Whether pictures of one split look like ones of the other was not seen: {told}."]
    if not near:
        return []
    return [
        f"{len(near)} validation pictures look like training ones, so mAP will say too much: {some(near)}. Keep "
        "pictures of a scene in one split (coco.convert --group_by)."
    ]
