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
from PIL import Image

from coco.annotations import AnnotationError, CocoAnnotations
from coco.contact_sheet import contact_sheet
from coco.data_file import PLACES, splits_of
from coco.figures import MIN_IOU, figures_table, split_figures
from coco.findings import EXAMPLES, Findings, findings, findings_of_both, in_both, some
from coco.names import look_alikes, plain, told_apart
from coco.picture_files import files_alike, missing_pictures, open_pictures
from coco.selection import WHOLE, Selection
from coco.splits import SPLITS, DataError
from coco.whole_files import replacing, write_text
from evaluation.drawing import draw_detections
from ssd.grid import best_iou

BestIou = Callable[[np.ndarray], np.ndarray]
Progress = Callable[[str, int, int], None]
SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
TURNED = (
    "pictures are stored turned (EXIF orientation); their boxes are taken for pictures as stored, like COCO's. Most "
    "labelling tools show them upright: where the contact sheet has boxes beside their objects, --data.upright true"
)
MANY_UNMATCHED = 0.2  # share of boxes without a well-fitting default box that is worth a note


@dataclass
class Report:
    """What was found. `problems` would stop training or evaluation (in training a few broken pictures are
    allowed, see coco/damaged.py); `notes` would not, but are worth knowing."""

    figures: dict[str, dict[str, Any]] = field(default_factory=dict)  # by split, see coco/figures.py
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, found: Findings) -> None:
        self.problems += found.problems
        self.notes += found.notes


def check(
    splits: dict[str, tuple[Path, Path]],
    best_iou: BestIou,
    fast: bool = False,
    progress: Progress = lambda split, done, total: None,
    selection: Selection = WHOLE,
) -> tuple[Report, dict[str, CocoAnnotations]]:
    """Checks a data set.

    Args:
        splits: image directory and annotation file of "train" and "val".
        best_iou: see `coco.figures.split_figures`.
        fast: do not open the pictures, only look whether they are there.
        progress: called with the split, the number of its pictures opened and of all.
        selection: what of it a run would use.

    Returns:
        The report, and the annotations of the splits that are there and can be read.
    """
    report, read = Report(), {}
    contents: dict[str, dict[bytes, list[str]]] = {}
    for split, (directory, file) in splits.items():
        annotations = _annotations(split, directory, file, selection, report)
        if annotations is None:
            continue
        read[split] = annotations
        report.figures[split] = split_figures(annotations, best_iou)
        report.add(findings(annotations, split))
        report.notes += [f"{split}: {note}" for note in _notes(report.figures[split])]
        if fast:
            missing = missing_pictures(annotations, directory)
            faults = [f"{directory / name}: no such image file" for name in missing]
            contents[split] = {}
        else:
            faults, contents[split], turned = open_pictures(annotations, directory, partial(progress, split))
            if turned and not selection.upright:
                report.notes.append(f"{split}: {turned} {TURNED}")
        _add_pictures(split, annotations, directory, faults, contents[split], report)
    if len(read) == 2:
        _compare_classes(read["train"], read["val"], report)
        if not _compare_pictures(contents["train"], contents["val"], report):
            report.add(findings_of_both(read["train"], read["val"], [splits[name][0] for name in ("train", "val")]))
    return report, read


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    data = splits_of(vars(args))
    splits = {split: (data.directories[split], data.files[split]) for split in SPLITS}
    report, read = check(splits, _best_iou(), args.fast, _show_progress, data.selection)
    for split, figures in report.figures.items():
        print(plain("\n".join(figures_table(split, figures)), lines=True), end="\n\n")
    for kind in ("notes", "problems"):
        for line in getattr(report, kind):
            print(f"{kind.removesuffix('s')}: {plain(line, lines=True)}")
    try:
        _write(report, [(annotations, splits[split][0]) for split, annotations in read.items()], args)
    except OSError as error:
        sys.exit(f"coco.check: the report cannot be written ({error.strerror})")
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
    try:
        splits_of(vars(args))
    except DataError as error:
        parser.error(str(error))
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
    # A new file is written beside its place.
    if not os.access(path.resolve().parent if path.is_file() or not path.exists() else path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m coco.check", description=__doc__.split(":")[0] + ".")
    add = parser.add_argument
    add("data_root", metavar="DIR", type=_path, help="the data set or its yaml, as --data_root of train.py")
    for name, default in PLACES.items():
        add(f"--{name}", default=default, metavar="PATH", help="below DIR (default %(default)s)")
    add("--fast", action="store_true", help="do not open the pictures, only look whether they are there")
    # What a run is told by the same names with `data.` before them.
    add("--classes", metavar="A,B", help="these classes alone")
    add("--merge_classes", metavar="NEW=A+B", help="classes that are one")
    add("--single_class", type=_true, metavar="true", default=False, help="all classes are one")
    add("--upright", type=_true, metavar="true", default=False, help="boxes were drawn on pictures turned by EXIF")
    add("--val_share", type=float, metavar="S", help="of the training images, for validation")
    add("--val_seed", type=int, default=0, help="of that choice (default 0)")
    add("--output", type=_path, default=Path("check.png"), help="the contact sheet (default %(default)s)")
    add("--json", type=_path, metavar="FILE", help="also write the report to this file")
    return parser


def _true(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text}: expected true or false")
    return text == "true"


def _path(text: str) -> Path:
    return Path(text).expanduser()


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


def _add_pictures(
    split: str,
    annotations: CocoAnnotations,
    directory: Path,
    faults: list[str],
    contents: dict[bytes, list[str]],
    report: Report,
) -> None:
    if faults:
        first = "".join(f"\n  {fault}" for fault in faults[:EXAMPLES])
        more = f"\n  ... and {len(faults) - EXAMPLES} more" if len(faults) > EXAMPLES else ""
        missing = missing_pictures(annotations, directory)
        alike = told_apart(files_alike(missing, directory)) if missing else ""
        report.problems.append(
            f"{split}: {len(faults)} of {len(annotations)} pictures cannot be used:{first}{more}"
            f"{alike and chr(10)}{alike}"
        )
    equal = [" = ".join(paths) for paths in contents.values() if len(paths) > 1]
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


def _show_progress(split: str, done: int, total: int) -> None:
    """One line on the terminal, rewritten; a log gets a line for every tenth."""
    if sys.stderr.isatty():
        print(f"\r{split}: {done} of {total} pictures", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total or done % -(-total // 10) == 0:
        print(f"{split}: {done} of {total} pictures", file=sys.stderr)


def _best_iou() -> BestIou:
    return lambda boxes: best_iou(torch.from_numpy(boxes)).numpy()


def _write(report: Report, splits: Sequence[tuple[CocoAnnotations, Path]], args: argparse.Namespace) -> None:
    if splits:
        _draw(splits, args.output)
    if args.json:
        text = json.dumps({"usable": not report.problems, **vars(report)}, indent=2, ensure_ascii=False)
        write_text(args.json, f"{text}\n", follow=True, errors="backslashreplace")


def _draw(splits: Sequence[tuple[CocoAnnotations, Path]], output: Path) -> None:
    sheet = contact_sheet(
        splits,
        lambda picture, boxes, labels, crowds, names: draw_detections(picture, boxes, labels, None, names, crowds),
    )
    with replacing(output, follow=True) as file:
        sheet.save(file, format=Image.registered_extensions()[output.suffix.lower()])
    print(f"contact sheet (thin white: crowds): {output}")


if __name__ == "__main__":
    sys.exit(main())
