"""Looks through a COCO-format data set before training: figures, faults, and a contact sheet of pictures with boxes.
`python -m coco.check DIR [--fast] [--output check.png] [--json FILE]`; exit code 1 where something would stop a run.

A door: it may import any room, and none imports it."""

import argparse
import errno
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coco.annotations import AnnotationError, CocoAnnotations
from coco.contact_sheet import contact_sheet
from coco.figures import MIN_IOU, figures_table, split_figures
from coco.picture_files import missing_pictures, open_pictures
from evaluation.drawing import draw_detections
from ssd.default_boxes import ssd300_default_boxes
from ssd.matching import best_iou

BestIou = Callable[[np.ndarray], np.ndarray]
Progress = Callable[[str, int, int], None]
SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
EXAMPLES = 5  # pictures, boxes or classes named of many
MANY_UNMATCHED = 0.2  # share of boxes without a well-fitting default box that is worth a note


@dataclass
class Report:
    """What was found. `problems` would stop training or evaluation (in training a few broken pictures are
    allowed, see coco/damaged.py); `notes` would not, but are worth knowing."""

    figures: dict[str, dict[str, Any]] = field(default_factory=dict)  # by split, see coco/figures.py
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check(
    splits: dict[str, tuple[Path, Path]],
    best_iou: BestIou,
    fast: bool = False,
    progress: Progress = lambda split, done, total: None,
) -> tuple[Report, dict[str, CocoAnnotations]]:
    """Checks a data set.

    Args:
        splits: image directory and annotation file of "train" and "val".
        best_iou: see `coco.figures.split_figures`.
        fast: do not open the pictures, only look whether they are there.
        progress: called with the split, the number of its pictures opened and of all.

    Returns:
        The report, and the annotations of the splits that are there and can be read.
    """
    report, read, contents = Report(), {}, {}
    for split, (directory, file) in splits.items():
        annotations = _annotations(directory, file, report)
        if annotations is None:
            continue
        read[split] = annotations
        report.figures[split] = split_figures(annotations, best_iou)
        report.notes += [f"{split}: {note}" for note in _notes(report.figures[split])]
        if fast:
            missing = missing_pictures(annotations, directory)
            faults = [f"{directory / name}: no such image file" for name in missing]
            contents[split] = {}
        else:
            faults, contents[split] = open_pictures(annotations, directory, partial(progress, split))
        _add_pictures(split, len(annotations), faults, contents[split], report)
    if "train" in read and not len(read["train"].trainable):
        report.problems.append(f"{read['train'].path}: no image has a usable box, so there is nothing to train on")
    if len(read) == 2:
        _compare_classes(read["train"], read["val"], report)
        _compare_pictures(contents["train"], contents["val"], report)
    return report, read


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    splits = {
        "train": (args.data_root / args.train_images, args.data_root / args.train_annotations),
        "val": (args.data_root / args.val_images, args.data_root / args.val_annotations),
    }
    report, read = check(splits, _best_iou(), args.fast, _show_progress)
    for split, figures in report.figures.items():
        print("\n".join(figures_table(split, figures)), end="\n\n")
    for kind in ("notes", "problems"):
        for line in getattr(report, kind):
            print(f"{kind.removesuffix('s')}: {line}")
    if read:
        _draw([(annotations, splits[split][0]) for split, annotations in read.items()], args.output)
    if args.json:
        content = {"usable": not report.problems, **vars(report)}
        args.json.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    if report.problems:
        print(f"{args.data_root}: training or evaluation would stop, {len(report.problems)} problem(s) above")
        return 1
    opened = "pictures not opened (--fast)" if args.fast else "every picture opened"
    print(f"{args.data_root}: fit for training, {opened}")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; what could not be written at the end, minutes later, is an error now (exit code 2)."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.output.suffix.lower() not in SHEET_SUFFIXES:
        parser.error(f"--output {args.output}: expected a file name that ends in {', '.join(SHEET_SUFFIXES)}")
    for flag in ("output", "json"):
        path = getattr(args, flag)
        try:
            if path is not None:
                _make_room_for(path)
        except OSError as error:
            parser.error(f"--{flag} {path}: cannot be written ({error.strerror})")
    return args


def _make_room_for(path: Path) -> None:
    """Makes the directory of a file that is to be written. Raises OSError if it could not be written there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m coco.check", description=__doc__.split(":")[0] + ".")
    add = parser.add_argument
    add("data_root", metavar="DIR", type=Path, help="the data set, as --data_root of train.py")
    # Names below DIR, as those of COCODataModule.
    for name, default in (
        ("train_images", "train2017"),
        ("val_images", "val2017"),
        ("train_annotations", "annotations/instances_train2017.json"),
        ("val_annotations", "annotations/instances_val2017.json"),
    ):
        add(f"--{name}", default=default, metavar="PATH", help="below DIR (default %(default)s)")
    add("--fast", action="store_true", help="do not open the pictures, only look whether they are there")
    add("--output", type=Path, default=Path("check.png"), help="the contact sheet (default %(default)s)")
    add("--json", type=Path, metavar="FILE", help="also write the report to this file")
    return parser


def _annotations(directory: Path, file: Path, report: Report) -> CocoAnnotations | None:
    """The split's annotations, or None with the reason in the report."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # dropped and clipped boxes, which the figures have
            annotations = CocoAnnotations.load(file)
    except AnnotationError as error:
        report.problems.append(str(error))
        annotations = None
    if directory.is_dir():
        return annotations
    report.problems.append(f"{directory}: no such image directory")
    return None


def _add_pictures(split: str, count: int, faults: list[str], contents: dict[bytes, list[str]], report: Report) -> None:
    if faults:
        first = "".join(f"\n  {fault}" for fault in faults[:EXAMPLES])
        more = f"\n  ... and {len(faults) - EXAMPLES} more" if len(faults) > EXAMPLES else ""
        report.problems.append(f"{split}: {len(faults)} of {count} pictures cannot be used:{first}{more}")
    equal = [" = ".join(paths) for paths in contents.values() if len(paths) > 1]
    if equal:
        report.notes.append(f"{split}: {len(equal)} pictures are there more than once: {_some(equal)}")


def _compare_classes(train: CocoAnnotations, val: CocoAnnotations, report: Report) -> None:
    classes, others = (set(zip(split.category_ids, split.class_names, strict=True)) for split in (train, val))
    if classes != others:
        report.problems.append(
            f"{train.path} and {val.path} list different categories; only in the first: "
            f"{_some(sorted(classes - others))}; only in the second: {_some(sorted(others - classes))}"
        )


def _compare_pictures(train: dict[bytes, list[str]], val: dict[bytes, list[str]], report: Report) -> None:
    shared = sorted(f"{train[content][0]} = {val[content][0]}" for content in train.keys() & val.keys())
    if shared:
        report.notes.append(
            f"{len(shared)} pictures are in both splits, so evaluation sees pictures that were trained on: "
            f"{_some(shared)}"
        )


def _notes(figures: dict[str, Any]) -> list[str]:
    """What is odd in the figures of a split, but does not stop training."""
    notes = []
    names = [entry["name"] for entry in figures["classes"]]
    without = [entry["name"] for entry in figures["classes"] if not entry["boxes"]]
    if without:
        notes.append(f"{len(without)} of {len(names)} classes have no box: {_some(without)}")
    repeated = sorted({text for text in names if names.count(text) > 1})
    if repeated:
        notes.append(f"several categories have the same name: {_some(repeated)}")
    if figures["dropped_boxes"]:
        notes.append(f"{figures['dropped_boxes']} boxes have no area inside the picture; training leaves them out")
    if figures["clipped_boxes"]:
        notes.append(f"{figures['clipped_boxes']} boxes stick out of the picture; training clips them")
    trained_on = figures["boxes"] - figures["dropped_boxes"]
    if figures["unmatched"] > MANY_UNMATCHED * trained_on:
        notes.append(
            f"{figures['unmatched']} of {trained_on} boxes have no default box above IoU {MIN_IOU}; training still "
            "gives each its best one, but expect such objects to be found less often"
        )
    return notes


def _some(examples: Sequence[Any]) -> str:
    """The first few, in one line."""
    text = ", ".join(" ".join(map(str, e)) if isinstance(e, tuple) else str(e) for e in examples[:EXAMPLES])
    return (text or "none") + (f" and {len(examples) - EXAMPLES} more" if len(examples) > EXAMPLES else "")


def _show_progress(split: str, done: int, total: int) -> None:
    """One line on the terminal, rewritten; a log gets a line for every tenth."""
    if sys.stderr.isatty():
        print(f"\r{split}: {done} of {total} pictures", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total or done % -(-total // 10) == 0:
        print(f"{split}: {done} of {total} pictures", file=sys.stderr)


def _best_iou() -> BestIou:
    default_boxes = ssd300_default_boxes()
    return lambda boxes: best_iou(torch.from_numpy(boxes), default_boxes).numpy()


def _draw(splits: Sequence[tuple[CocoAnnotations, Path]], output: Path) -> None:
    sheet = contact_sheet(
        splits,
        lambda picture, boxes, labels, crowds, names: draw_detections(picture, boxes, labels, None, names, crowds),
    )
    sheet.save(output)
    print(f"contact sheet (thin white: crowds): {output}")


if __name__ == "__main__":
    sys.exit(main())
