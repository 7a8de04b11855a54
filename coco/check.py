"""Looks through a COCO-format data set before training: figures, faults, and a contact sheet of pictures with boxes.
`python -m coco.check DIR [--fast] [--advise] [--output check.png] [--json FILE]`; exit code 1 where something would
stop a run.

A door: it may import any room, and none imports it."""

import argparse
import errno
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from coco.advice import Advice, advice_text, advise, hopeless
from coco.annotations import CocoAnnotations
from coco.checking import Report, check
from coco.contact_sheet import contact_sheet
from coco.data_file import PLACES, given_settings, splits_of
from coco.figures import figures_table
from coco.names import plain
from coco.near_duplicates import hasher, look_alike
from coco.splits import DataError
from coco.whole_files import replacing, write_text
from command_line.start_config import start_config
from evaluation.drawing import draw_detections
from ssd.grid import best_iou

SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    data = splits_of(vars(args))
    like = hasher() if args.advise and not args.fast else None
    report = check(data, _best_iou, args.fast, _show_progress, like)
    for split, figures in report.figures.items():
        print(plain("\n".join(figures_table(split, figures)), lines=True), end="\n\n")
    for kind in ("notes", "problems"):
        for line in getattr(report, kind):
            print(f"{kind.removesuffix('s')}: {plain(line, lines=True)}")
    found = {"usable": not report.problems, "figures": report.figures}
    found |= {"problems": report.problems, "notes": report.notes}
    advice = None
    if args.advise and not report.problems:
        advice = advise(report.annotations, _best_iou, _near_duplicates(report) if like else None)
        print("", *advice_text(advice), sep="\n", end="\n\n")
        found["advice"] = asdict(advice)
    try:
        _write(found, [(of, data.directories[split]) for split, of in report.annotations.items()], args)
        if advice and args.write_config:
            text = start_config(report.annotations["train"], _settings(args, advice))
            write_text(args.write_config, text, follow=True)
            print(f"a configuration to start with: train.py --config {args.write_config}")
    except OSError as error:
        sys.exit(f"coco.check: what was found cannot be written ({error.strerror})")
    return _verdict(report, args)


def _verdict(report: Report, args: argparse.Namespace) -> int:
    """Prints the last line; the exit code."""
    if report.problems:
        print(f"{args.data_root}: training or evaluation would stop, {len(report.problems)} problem(s) above")
        return 1
    opened = "pictures not opened (--fast)" if args.fast else "every picture opened"
    why = hopeless(report.figures)
    print(f"{args.data_root}: {f'nothing would stop a run, but {why}' if why else f'fit for training, {opened}'}")
    if why and not args.advise:
        print("--advise says what to do")
    return 0


def _near_duplicates(report: Report) -> list[str]:
    """`train picture ~ validation picture` of those that look alike."""
    ours, theirs = (list(report.likeness[split].items()) for split in ("val", "train"))
    hashes = [np.array([each for _, each in pictures], np.uint64) for pictures in (ours, theirs)]
    pairs = zip(ours, look_alike(*hashes).tolist(), strict=True)
    return [f"{theirs[other][0]} ~ {path}" for (path, _), other in pairs if other >= 0]


def _settings(args: argparse.Namespace, advice: Advice) -> dict[str, object]:
    tiles = {"tiles": advice.tiles} if advice.tiles else {}
    return {"data_root": os.path.abspath(args.data_root), **given_settings(vars(args)), **tiles}


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
    args.advise = args.advise or args.write_config is not None
    if args.write_config and args.write_config.exists():
        parser.error(f"--write_config {args.write_config}: is there already, and nothing is written over")
    for flag in ("output", "json", "write_config"):
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
    add("--advise", action="store_true", help="what SSD300 can find in it, and what to do")
    add("--write_config", type=_path, metavar="FILE", help="with this a configuration to start with, for train.py")
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


def _show_progress(split: str, done: int, total: int) -> None:
    """One line on the terminal, rewritten; a log gets a line for every tenth."""
    if sys.stderr.isatty():
        print(f"\r{split}: {done} of {total} pictures", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total or done % -(-total // 10) == 0:
        print(f"{split}: {done} of {total} pictures", file=sys.stderr)


def _best_iou(boxes: np.ndarray) -> np.ndarray:
    return best_iou(torch.tensor(boxes)).numpy()  # a copy: these may be mapped read-only


def _write(found: dict[str, object], splits: Sequence[tuple[CocoAnnotations, Path]], args: argparse.Namespace) -> None:
    if splits:
        _draw(splits, args.output)
    if args.json:
        text = json.dumps(found, indent=2, ensure_ascii=False)
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
