"""Looks through a COCO-format data set: its figures, what would stop a run, and what is worth knowing."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from coco.annotations import AnnotationError, CocoAnnotations
from coco.figures import MIN_IOU, BestIou, split_figures
from coco.findings import EXAMPLES, Findings, findings, findings_of_both, in_both, some
from coco.names import look_alikes, told_apart
from coco.picture_files import Look, files_alike, missing_pictures, open_pictures
from coco.selection import Selection
from coco.splits import SPLITS, Splits

Progress = Callable[[str, int, int], None]
TURNED = (
    "pictures are stored turned (EXIF orientation); their boxes are taken for pictures as stored, like COCO's. Most "
    "labelling tools show them upright: where the contact sheet has boxes beside their objects, --data.upright true"
)
MANY_UNMATCHED = 0.2  # share of boxes without a well-fitting default box that is worth a note


@dataclass
class Report:
    """What was found.

    figures: by split, see coco/figures.py. problems: what would stop training or evaluation (in training a few broken
    pictures are allowed, see coco/damaged.py). notes: what would not, but is worth knowing. annotations: of the splits
    that are there and can be read. likeness: of their pictures, see `picture_files.Look`.
    """

    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    annotations: dict[str, CocoAnnotations] = field(default_factory=dict)
    likeness: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, found: Findings) -> None:
        self.problems += found.problems
        self.notes += found.notes


def check(
    splits: Splits,
    best_iou: BestIou,
    fast: bool = False,
    progress: Progress = lambda split, done, total: None,
    like: Callable[[Image.Image], int] | None = None,
) -> Report:
    """Checks a data set.

    Args:
        best_iou: see `coco.figures.split_figures`.
        fast: do not open the pictures, only look whether they are there.
        progress: called with the split, the number of its pictures opened and of all.
        like: see `picture_files.Look`.
    """
    report = Report()
    contents: dict[str, dict[bytes, list[str]]] = {}
    for split, directory in splits.directories.items():
        annotations = _annotations(split, directory, splits.files[split], splits.selection, report)
        if annotations is None:
            continue
        report.annotations[split] = annotations
        report.figures[split] = split_figures(annotations, best_iou)
        report.add(findings(annotations, split))
        report.notes += [f"{split}: {note}" for note in _notes(report.figures[split])]
        if fast:
            look = Look(
                [f"{directory / name}: no such image file" for name in missing_pictures(annotations, directory)]
            )
        else:
            look = open_pictures(annotations, directory, partial(progress, split), like)
        if look.turned and not splits.selection.upright:
            report.notes.append(f"{split}: {look.turned} {TURNED}")
        contents[split], report.likeness[split] = look.by_content, look.likeness
        _add_pictures(split, annotations, directory, look, report)
    if len(report.annotations) == 2:
        train, val = map(report.annotations.__getitem__, SPLITS)
        _compare_classes(train, val, report)
        if not _compare_pictures(contents["train"], contents["val"], report):
            report.add(findings_of_both(train, val, [splits.directories[split] for split in SPLITS]))
    return report


def _annotations(
    split: str, directory: Path, file: Path, selection: Selection, report: Report
) -> CocoAnnotations | None:
    """The split's annotations, or None with the reason in the report."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # dropped and clipped boxes, which the figures have
            annotations = selection.take(CocoAnnotations.load(file), split)
    except AnnotationError as error:
        report.problems.append(str(error))
        annotations = None
    if directory.is_dir():
        return annotations
    report.problems.append(f"{directory}: no such image directory")
    return None


def _add_pictures(split: str, annotations: CocoAnnotations, directory: Path, look: Look, report: Report) -> None:
    if faults := look.faults:
        first = "".join(f"\n  {fault}" for fault in faults[:EXAMPLES])
        more = f"\n  ... and {len(faults) - EXAMPLES} more" if len(faults) > EXAMPLES else ""
        missing = missing_pictures(annotations, directory)
        alike = told_apart(files_alike(missing, directory)) if missing else ""
        report.problems.append(
            f"{split}: {len(faults)} of {len(annotations)} pictures cannot be used:{first}{more}"
            f"{alike and chr(10)}{alike}"
        )
    equal = [" = ".join(paths) for paths in look.by_content.values() if len(paths) > 1]
    if equal:
        report.notes.append(f"{split}: {len(equal)} pictures are there more than once: {some(equal)}")


def _compare_classes(train: CocoAnnotations, val: CocoAnnotations, report: Report) -> None:
    classes, others = (set(zip(split.category_ids, split.class_names, strict=True)) for split in (train, val))
    if classes != others:
        report.problems.append(
            f"{train.path} and {val.path} list different categories; only in the first: "
            f"{some(sorted(classes - others))}; only in the second: {some(sorted(others - classes))}."
            f"{told_apart(look_alikes(train.class_names, val.class_names))}"
        )


def _compare_pictures(train: dict[bytes, list[str]], val: dict[bytes, list[str]], report: Report) -> bool:
    """Whether pictures of the same content are in both splits, which is noted."""
    shared = sorted(f"{train[content][0]} = {val[content][0]}" for content in train.keys() & val.keys())
    if shared:
        report.notes.append(in_both(len(shared), shared))
    return bool(shared)


def _notes(figures: dict[str, Any]) -> list[str]:
    """What is odd in the figures of a split beside `coco.findings`, but does not stop training."""
    trained_on = figures["boxes"] - figures["dropped_boxes"]
    if figures["unmatched"] > MANY_UNMATCHED * trained_on:
        return [
            f"{figures['unmatched']} of {trained_on} boxes have no default box above IoU {MIN_IOU}; training still "
            "gives each its best one, but expect such objects to be found less often"
        ]
    return []
