"""Makes a COCO-format data set of one from another tool: YOLO, Pascal VOC, CVAT, Open Images, or a table of boxes.
`python -m coco.convert SOURCE TARGET [--val_share 0.2 --seed 0] [--group_by folder|REGEX] [--copy]`.

A door: it may import any room, and none imports it."""

import argparse
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coco.foreign.formats import READERS, format_of, read
from coco.foreign.parts import WHOLE, ConversionError, Part
from coco.names import plain, shown
from coco.splitting import validation_images
from coco.whole_files import write_text


def convert(
    source: Path,
    target: Path,
    kind: str,
    names: Sequence[str] | None = None,
    val_share: float | None = None,
    seed: int = 0,
    group_by: str | None = None,
    copy: bool = False,
) -> list[str]:
    """Reads `source` and writes `target`, in the COCO 2017 layout; returns lines for the user.

    Args:
        kind: one of `READERS`.
        names: of the classes, where the source has none.
        val_share: of a data set without a validation part, the share that becomes one, see `coco.splitting`.
        group_by: keeps pictures together: those of one `folder`, or those of whose path a regular expression finds the
            same (its first group, if it has one).
        copy: pictures are copied, not linked.

    Raises:
        ConversionError: the source cannot be used, there is no validation part and no share, or something is in the
            way; nothing is written then, but for an error in writing itself.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConversionError(f"{target}: is there already, and nothing is written over; give a new directory")
    parts, class_names = read(source, kind, names)
    have_val = any(part.split == "val" for part in parts)
    if have_val and val_share is not None:
        raise ConversionError(f"--val_share {val_share}: {source} has a validation part of its own; leave the flag out")
    if not have_val:
        if val_share is None:
            raise ConversionError(f"{source}: has no validation part; --val_share 0.2 makes one of a fifth")
        parts = [made for part in parts for made in _split(part, class_names, source, val_share, seed, group_by)]
    lines = [f"{source}: {kind}, {len(class_names)} classes"]
    for part in _merged(parts):
        lines += _write(part, class_names, source, target, copy)
    return lines


def _split(
    part: Part, class_names: Sequence[str], source: Path, share: float, seed: int, group_by: str | None
) -> list[Part]:
    if part.split == "test":
        return [part]
    first = np.cumsum([0, *map(len, part.boxes)])
    label = {name: i for i, name in enumerate(class_names, start=1)}
    labels = np.array([label[name] for boxes in part.boxes for name, *_ in boxes], np.int64)
    paths = [path for path, *_ in part.images]
    groups = [_group(path, source, group_by) for path in paths]
    chosen = validation_images(groups, first, labels, share, seed).tolist()
    made = [Part("train", notes=part.notes), Part("val")]
    for image, boxes, in_val in zip(part.images, part.boxes, chosen, strict=True):
        made[in_val].images.append(image)
        made[in_val].boxes.append(boxes)
    if not made[0].images or not made[1].images:
        raise ConversionError(f"--val_share {share}: of {len(paths)} pictures one part stays empty")
    return made


def _group(path: Path, source: Path, group_by: str | None) -> str:
    """What tells the pictures' groups apart; the same on every machine."""
    within = _within(path, source)
    if group_by is None:
        return within.as_posix()
    if group_by == "folder":
        return within.parent.as_posix()
    try:
        found = re.search(group_by, within.as_posix())
    except re.error as error:
        raise ConversionError(
            f"--group_by {group_by}: `folder`, or a regular expression, which this is not: {error}"
        ) from None
    if found is None:
        raise ConversionError(f"--group_by {group_by}: finds nothing in {within.as_posix()}")
    return found[1] if found.re.groups else found[0]


def _within(path: Path, source: Path) -> Path:
    return path.relative_to(source) if path.is_relative_to(source) else path


def _merged(parts: Sequence[Part]) -> list[Part]:
    """One part a split."""
    merged: dict[str, Part] = {}
    for part in parts:
        whole = merged.setdefault(part.split if part.split != WHOLE else "train", Part(part.split))
        whole.images += part.images
        whole.boxes += part.boxes
        whole.notes += part.notes
    return [Part(split, part.images, part.boxes, part.notes) for split, part in merged.items()]


def _write(part: Part, class_names: Sequence[str], source: Path, target: Path, copy: bool) -> list[str]:
    """Pictures and annotations of a split; what was written, for the user."""
    folder = target / f"{part.split}2017"
    label = {name: i for i, name in enumerate(class_names, start=1)}
    same = Counter(path.name for path, *_ in part.images)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for path, width, height in part.images:
        name = path.name
        if same[name] > 1:  # folders tell them apart
            name = _within(path, source).as_posix().lstrip("/")
        images.append({"id": len(images) + 1, "file_name": name, "width": width, "height": height})
        _place(path, folder / name, copy)
        _show_progress(part.split, len(images), len(part.images))
    for image, boxes in zip(images, part.boxes, strict=True):
        for name, *box, crowd in boxes:
            about = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": label[name]}
            annotations.append({**about, "bbox": box, "area": box[2] * box[3], "iscrowd": int(crowd)})
    categories = [{"id": i, "name": name} for name, i in label.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_text(target / "annotations" / f"instances_{part.split}2017.json", json.dumps(content))
    counts = Counter(name for boxes in part.boxes for name, *_ in boxes)
    of_classes = ", ".join(f"{shown(name)} {counts[name]}" for name in class_names[:20])
    empty = sum(not boxes for boxes in part.boxes)
    told = f"{part.split}: {len(images)} pictures ({empty} without objects), {len(annotations)} boxes: {of_classes}"
    return [told, *(f"{part.split}: {note}" for note in part.notes)]


def _place(picture: Path, where: Path, copy: bool) -> None:
    where.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        shutil.copyfile(picture, where)
        return
    try:
        where.symlink_to(picture.resolve())
    except OSError as error:
        raise ConversionError(f"{where}: cannot be a link ({error.strerror}); --copy copies the pictures") from None


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    kind = args.format or format_of(args.source)
    try:
        if kind not in READERS:
            raise ConversionError(_unknown(args.source, kind))
        arguments = (args.names and args.names.split(","), args.val_share, args.seed, args.group_by, args.copy)
        lines = convert(args.source.resolve(), args.target, kind, *arguments)
    except (ConversionError, OSError) as error:
        sys.exit(f"coco.convert: {plain(str(error), lines=True)}")
    except UnicodeDecodeError as error:
        sys.exit(f"coco.convert: {args.source}: a list or table of it is no text in UTF-8 ({error}); save it as UTF-8")
    print(*(plain(line) for line in lines), sep="\n")
    print(f"next: python -m coco.check {args.target}")


def _unknown(source: Path, kind: str | None) -> str:
    if kind == "coco":
        return f"{source}: is COCO format already; docs/custom_data.md says how other names than COCO's are given"
    if not source.exists():
        return f"{source}: no such file or directory"
    return (
        f"{source}: of no tool that is known here, by its files: a data.yaml, or images/ and labels/ (YOLO), xml files "
        "(VOC, CVAT), a csv (Open Images, or split,picture,class,left,top,right,bottom). --format says which"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m coco.convert", description=__doc__.split("\n`")[0])
    add: Callable[..., Any] = parser.add_argument
    add("source", metavar="SOURCE", type=Path, help="its directory, or its yaml, xml or csv file")
    add("target", metavar="TARGET", type=Path, help="a new directory: the --data_root of the other commands")
    add("--format", choices=list(READERS), help="by default what the files look like")
    add("--names", metavar="A,B,...", help="class names, for YOLO's folders without a yaml")
    add(
        "--val_share",
        type=_share,
        metavar="S",
        help="of the pictures that become the validation part, where there is none",
    )
    add("--seed", type=int, default=0, help="of that choice (default 0)")
    add(
        "--group_by",
        metavar="folder|REGEX",
        help="keep pictures of one folder, or of which this finds the same, together",
    )
    add("--copy", action="store_true", help="copy the pictures; by default they are linked")
    return parser


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a share above 0 and below 1")
    return share


def _show_progress(split: str, done: int, total: int) -> None:
    if sys.stderr.isatty() and (done == total or done % 100 == 0):
        print(f"\r{split}: {done} of {total} pictures", end="\n" if done == total else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
