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
from coco.tiles import Tiling, in_their_tiles, view_counts

TINY = 8  # px at the input, of a side: a cell of the finest map
HOPELESS = 0.5  # share within reach below which training finds little
GOOD = 0.9  # from which on size is no hindrance
FEW_BOXES, FEW_IMAGES = 20, 100  # for training
MANY_TO_ONE = 20  # boxes of the most frequent class to one of the rarest
MANY_EMPTY = 0.1  # of the training images
WHOLE, MANY_WHOLE = 0.95, 0.1  # of a picture's sides; share of boxes that are as large
TILES, WORTH = (300, 500, 800, 1300), 0.05  # pixels that are tried, and the share from which on they are worth it
COLUMNS, ROWS = 80, 25  # of the table


@dataclass
class Advice:
    """Plain values, JSON-ready.

    boxes: that are trained on, of all splits. within_reach, tiny: shares of them, the latter below `TINY`. in_tiles:
    pixels of a tile -> the share within reach in the whole picture or the tile that shows most of it. classes: the same
    of each, with its name. views: pixels of a tile -> how often a picture is looked at, on average. tiles: the size to
    use; None where tiles are not needed, or no help. lines: what to do, a sentence or two each.
    """

    boxes: int = 0
    within_reach: float = 0.0
    tiny: float = 0.0
    in_tiles: dict[int, float] = field(default_factory=dict)
    classes: list[dict[str, Any]] = field(default_factory=list)
    views: dict[int, float] = field(default_factory=dict)
    tiles: int | None = None
    lines: list[str] = field(default_factory=list)


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
    pictures = [np.stack([each.widths, each.heights], 1).astype(np.int64) for each in splits.values()]
    sizes = np.concatenate([of[part[0]] for of, part in zip(pictures, parts, strict=True)])
    reached = best_iou(boxes) > MIN_IOU
    tiny = INPUT_SIZE * np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1)) < TINY
    made, in_tiles = Advice(), {}
    for tiling in map(Tiling, TILES):
        views = view_counts(np.concatenate(pictures), tiling)
        if np.median(views) > 1:
            made.views[tiling.size] = float(views.mean())
            in_tiles[tiling.size] = reached | (best_iou(in_their_tiles(boxes, sizes, tiling)) > MIN_IOU)
    names = next(iter(splits.values())).class_names
    by_class = np.bincount(labels, minlength=len(names) + 1)[1:]

    def shares(chosen: np.ndarray) -> list[float]:
        """Of all boxes, then of each class."""
        each = np.bincount(labels[chosen], minlength=len(names) + 1)[1:] / np.maximum(by_class, 1)
        return [float(chosen.mean()), *each.tolist()]

    columns = [[len(labels), *by_class.tolist()], shares(reached), shares(tiny)]
    columns += [shares(chosen) for chosen in in_tiles.values()]
    whole, *rows = (
        {"boxes": count, "within_reach": within, "tiny": below, "in_tiles": dict(zip(in_tiles, tiled, strict=True))}
        for count, within, below, *tiled in zip(*columns, strict=True)
    )
    vars(made).update(whole)
    made.classes = [{"name": name, **row} for name, row in zip(names, rows, strict=True)]
    made.tiles = _best_tiles(made)
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
    width = 80 - 26 - 9 * len(advice.in_tiles)
    tiles = "; whole, in tiles of pixels" if advice.in_tiles else ""
    lines = [f"within SSD300's reach (a default box above IoU {MIN_IOU}){tiles}:"]
    head = f"{'boxes':>8}{f'<{TINY} px':>8}{'whole':>8}"
    lines.append(f"  {'class':{width}}{head}" + "".join(f"{size:9}" for size in advice.in_tiles))
    every = [{"name": "together", **asdict(advice)}] if len(there) > 1 else []
    for row in [*shown, *every]:
        shares = "".join(f"{share:9.1%}" for share in row["in_tiles"].values())
        figures = f"{row['boxes']:8}{row['tiny']:8.1%}{row['within_reach']:8.1%}{shares}"
        lines.append(f"  {plain(row['name'])[: width - 1]:{width}}{figures}")
    if len(shown) < len(there):
        lines.append(f"  ({len(there) - len(shown)} classes that are reached more often are left out)")
    wrapper = TextWrapper(COLUMNS, "- ", "  ", break_long_words=False, break_on_hyphens=False)
    return [*lines, "", *(wrapper.fill(plain(line)) for line in advice.lines)]


def _best_tiles(advice: Advice) -> int | None:
    """The largest, and cheapest, tiles that bring most boxes within reach, or else those that bring most of them."""
    if advice.within_reach >= GOOD or not advice.in_tiles:
        return None
    good = [size for size, share in advice.in_tiles.items() if share >= GOOD]
    size = max(good) if good else max(advice.in_tiles, key=lambda size: advice.in_tiles[size])
    return size if advice.in_tiles[size] >= advice.within_reach + WORTH else None


def _on_sizes(advice: Advice) -> list[str]:
    reach = f"{advice.within_reach:.1%} of the boxes are within reach"
    out = [row["name"] for row in advice.classes if row["boxes"] and row["within_reach"] < HOPELESS]
    least = f" Less than half of: {some(out)}." if out and advice.within_reach >= HOPELESS else ""
    if advice.within_reach >= GOOD:
        return [f"{reach}: their sizes suit SSD300.{least}"]
    if advice.tiles:
        brings = advice.in_tiles[advice.tiles]
        times = f"a picture is looked at {advice.views[advice.tiles]:.0f} times then (docs/tiles.md)"
        larger = f"--data.tiles {advice.tiles} brings {brings:.1%} within reach; {times}."
    else:
        larger = "Tiles do not help: take pictures from nearer, or in which objects are larger."
    if advice.within_reach < HOPELESS:
        return [f"Hopeless as it is: {reach}, {advice.tiny:.1%} are below {TINY} px at the input. {larger}"]
    return [f"{reach}, the others will be found seldom.{least} {larger}"]


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
