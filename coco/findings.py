"""What is wrong or odd in annotations, seen without opening a picture: cheap enough for every start of a run.

A problem is data that cannot train, or be evaluated, as meant; a note is worth knowing.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from coco.annotations import STICKS_OUT_PX, CocoAnnotations
from coco.names import difference, repeated, shown

EXAMPLES = 5  # classes or files named of many
CORNERS_SHARE = 0.25  # of the boxes, that stick out: where all could be corners, they are
FEWEST = 4  # boxes from which on all of them fitting as corners is no chance
TINY_PX = 1.0


@dataclass
class Findings:
    """Lines for a user, each with its counts and what to do."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def findings(annotations: CocoAnnotations, split: str) -> Findings:
    """What is to be said of one split, "train" or "val"."""
    found = Findings()
    problem = _problem(annotations, split)
    if problem:
        found.problems.append(f"{annotations.path}: {problem}")
    else:
        found.notes += [f"{split}: {note}" for note in _box_notes(annotations)]
    notes = (*_class_notes(annotations, split), *_image_notes(annotations))
    found.notes += [f"{split}: {note}" for note in notes]
    return found


def findings_of_both(train: CocoAnnotations, val: CocoAnnotations, directories: Sequence[Path]) -> Findings:
    """What is to be said of the two splits together, beside other classes.

    Args:
        directories: of the training and of the validation pictures.
    """
    found = Findings()
    without = [
        name
        for label, name in enumerate(train.class_names, start=1)
        if train.category_ids == val.category_ids and not (train.labels == label).any() and (val.labels == label).any()
    ]
    if without:
        found.notes.append(f"{len(without)} classes have boxes in val and none in train: {some(without)}")
    if _same_directory(*directories):
        shared = sorted(set(train.file_names()) & set(val.file_names()))
        if shared:
            found.notes.append(in_both(len(shared), shared))
    return found


def in_both(count: int, examples: Sequence[str]) -> str:
    """The note on pictures that are in both splits."""
    return f"{count} pictures are in both splits, so evaluation sees pictures that were trained on: {some(examples)}"


def some(examples: Sequence[Any]) -> str:
    """The first few, in one line."""
    text = ", ".join(shown(" ".join(map(str, e)) if isinstance(e, tuple) else str(e)) for e in examples[:EXAMPLES])
    return (text or "none") + (f" and {len(examples) - EXAMPLES} more" if len(examples) > EXAMPLES else "")


def _problem(annotations: CocoAnnotations, split: str) -> str | None:
    """Why no box of the split is what it should be; None if some are."""
    boxes, count = annotations.bboxes, len(annotations.labels)
    purpose = "train on" if split == "train" else "evaluate against"
    if count == 0:
        return f"no image has a usable box, so there is nothing to {purpose} (it has no annotations)"
    if annotations.iscrowd.all():
        return (
            f'every box ({count}) is a crowd ("iscrowd": 1), so there is no single object to {purpose}. Write 0, or '
            "leave it out, for boxes of one object"
        )
    sizes = boxes[:, 2:]
    if _are_shares(annotations):
        return (
            f"every box ({count}) lies within 0..1, so the boxes are shares of the picture. COCO's are pixels: "
            "multiply x and width by the picture's width, y and height by its height"
        )
    if annotations.num_dropped == count:
        return (
            f"no image has a usable box, so there is nothing to {purpose}: all {count} boxes have no size or lie "
            "outside their picture"
        )
    if (sizes <= TINY_PX).any(axis=1).all():
        return f"every box ({count}) is at most {TINY_PX:g} px wide or high: points or lines, nothing to {purpose}"
    out = _sticks_out(annotations)
    if count >= FEWEST and out.mean() >= CORNERS_SHARE and _could_be_corners(annotations):
        return (
            f"{out.sum()} of {count} boxes stick out of their picture as [x, y, width, height], and all would fit as "
            "corners [left, top, right, bottom]. Write COCO's form: width = right - left, height = bottom - top"
        )
    if split == "val" and not (~annotations.iscrowd & (sizes > 0).all(axis=1)).any():
        return f"no box of a single object has a size, so there is nothing to {purpose}"
    return None


def _box_notes(annotations: CocoAnnotations) -> list[str]:
    notes = []
    count = len(annotations.labels)
    if annotations.num_dropped:
        notes.append(
            f"{annotations.num_dropped} of {count} boxes have no area inside the picture; left out of training"
        )
    if annotations.num_clipped:
        swapped = _fit_when_turned(annotations)
        why = f"; {swapped} images have boxes that fit if width and height are swapped" if swapped else ""
        notes.append(f"{annotations.num_clipped} of {count} boxes stick out of the picture; training clips them{why}")
    sizes = annotations.bboxes[:, 2:]
    tiny = int(((sizes > 0).all(axis=1) & (sizes <= TINY_PX).any(axis=1)).sum())
    if tiny:
        notes.append(f"{tiny} of {count} boxes are at most {TINY_PX:g} px wide or high")
    if annotations.iscrowd.mean() > 0.5:
        notes.append(f"{annotations.iscrowd.sum()} of {count} boxes are crowds, which evaluation ignores")
    areas = sizes.prod(axis=1)
    odd = int(((annotations.areas > 2 * areas + 1) & (areas > 0)).sum())
    if odd:
        notes.append(f'{odd} of {count} boxes have an "area" more than twice width x height')
    if annotations.areas.max() <= 1 < areas.max():
        notes.append('every "area" is at most 1 px^2, so all objects count as small in evaluation; leave the key out')
    return notes


def _class_notes(annotations: CocoAnnotations, split: str) -> list[str]:
    notes, names = [], annotations.class_names
    counts = np.bincount(annotations.labels, minlength=len(names) + 1)[1:]
    single = np.bincount(annotations.labels[~annotations.iscrowd], minlength=len(names) + 1)[1:]
    without = [name for name, boxes in zip(names, counts, strict=True) if not boxes]
    if without:
        notes.append(f"{len(without)} of {len(names)} classes have no box: {some(without)}")
    crowds = [name for name, boxes, alone in zip(names, counts, single, strict=True) if boxes and not alone]
    if crowds and split == "val":
        notes.append(f"{len(crowds)} of {len(names)} classes have crowds only, so no AP: {some(crowds)}")
    groups = repeated(names)
    same = sorted({group[0] for group in groups if len(set(group)) == 1})
    if same:
        notes.append(f"several categories have the same name: {some(same)}")
    alike = [group for group in groups if len(set(group)) > 1]
    if alike:
        one, other = sorted(set(alike[0]))[:2]
        told = f"{one!a} and {other!a} ({difference(one, other)})"
        notes.append(f"{len(alike)} names of categories are there in more than one form, the first: {told}")
    nameless = [str(i) for i, name in zip(annotations.category_ids, names, strict=True) if not name.strip()]
    if nameless:
        notes.append(f"{len(nameless)} categories have no name, ids {some(nameless)}")
    return notes


def _image_notes(annotations: CocoAnnotations) -> list[str]:
    counts = Counter(annotations.file_names())
    listed = sorted(name for name, count in counts.items() if count > 1)
    extra = len(annotations) - len(counts)
    told = f"{len(listed)} file names are listed more than once ({extra} images too many): {some(listed)}"
    return [told] if extra else []


def _image_of_boxes(annotations: CocoAnnotations) -> np.ndarray:
    return np.repeat(np.arange(len(annotations)), np.diff(annotations.first))


def _sizes(annotations: CocoAnnotations) -> np.ndarray:
    """Width and height [M, 2] of the picture of each box."""
    return np.stack([annotations.widths, annotations.heights], axis=1)[_image_of_boxes(annotations)]


def _are_shares(annotations: CocoAnnotations) -> bool:
    boxes = annotations.bboxes
    pictures = _sizes(annotations)
    return bool((boxes >= 0).all() and (boxes <= 1).all() and (pictures > 2).any())


def _sticks_out(annotations: CocoAnnotations) -> np.ndarray:
    boxes = annotations.bboxes
    with np.errstate(over="ignore"):
        high = boxes[:, :2] + boxes[:, 2:]
    return ((boxes[:, :2] < -STICKS_OUT_PX) | (high > _sizes(annotations) + STICKS_OUT_PX)).any(axis=1)


def _could_be_corners(annotations: CocoAnnotations) -> bool:
    low, high = annotations.bboxes[:, :2], annotations.bboxes[:, 2:]
    return bool((high >= low).all() and (high <= _sizes(annotations) + STICKS_OUT_PX).all() and (low >= -1).all())


def _fit_when_turned(annotations: CocoAnnotations) -> int:
    """Images whose boxes do not all lie within width x height, and do within height x width."""
    image, pictures = _image_of_boxes(annotations), _sizes(annotations)
    with np.errstate(over="ignore"):
        high = annotations.bboxes[:, :2] + annotations.bboxes[:, 2:]
    out = np.zeros((2, len(annotations)), bool)
    for form, sizes in enumerate((pictures, pictures[:, ::-1])):
        np.logical_or.at(out[form], image, (high > sizes + STICKS_OUT_PX).any(axis=1))
    return int((out[0] & ~out[1]).sum())


def _same_directory(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
