"""The files of a prediction: which go in, what the drawn ones are called, and the tables that come out."""

import csv
import glob
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.exceptions import MisconfigurationException

from prediction import video
from prediction.detector import Detections

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2")
TABLES = ("detections.json", "images.json", "detections.csv")


@dataclass(frozen=True)
class Input:
    """A file to predict on, and what the drawn one is called below the output directory."""

    path: Path
    drawn: str

    @property
    def is_video(self) -> bool:
        return _is_video(self.path)


def find_inputs(patterns: Sequence[str], output: Path) -> list[Input]:
    """The files that paths, folders (all pictures in them, at any depth) and globs name, each once.

    Drawn files keep the structure below a folder or glob; those whose names would meet are numbered. What lies in the
    output directory is not read, so that a second run gives the same result.

    Raises:
        MisconfigurationException: a name that matches nothing; an input that a drawn picture would overwrite.
    """
    found: dict[str, tuple[Path, str]] = {}
    for pattern in patterns:
        own = {os.path.abspath(path): (path, name) for path, name in _matches(pattern, output)}
        if not own:
            raise MisconfigurationException(_nothing_there(pattern))
        found = {**own, **found}
    files = sorted(found.values(), key=lambda row: (_is_video(row[0]), str(row[0])))
    names = _distinct([_drawn_name(path, name) for path, name in files])
    inputs = [Input(path, name) for (path, _), name in zip(files, names, strict=True)]
    targets = {os.path.join(os.path.realpath(output), each.drawn) for each in inputs}
    for each in inputs:
        if os.path.realpath(each.path) in targets:
            raise MisconfigurationException(
                f"--output {output}: {each.path} is an input and would be overwritten; name another directory"
            )
    return inputs


class ResultFiles:
    """Writes detections as they come: nothing is kept in memory, and the files are whole whenever they are closed.

    - detections.json: COCO results, one record a detection: image_id, category_id (the checkpoint's), bbox
      [x, y, width, height] in pixels, score.
    - images.json: which image_id is which file (and frame of a video): COCO annotations without any object, so that
      `COCO("images.json").loadRes("detections.json")` works.
    - detections.csv: the same for people: file, frame, class, score, x0, y0, x1, y1.
    """

    def __init__(self, directory: Path, class_names: Sequence[str], category_ids: Sequence[int]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.images = self.detections = 0
        with ExitStack() as stack:
            self._results, self._images, table = (
                stack.enter_context(open(directory / name, "w", newline="", encoding="utf-8")) for name in TABLES
            )
            self._open = stack.pop_all()
        categories = [{"id": i, "name": name} for i, name in zip(category_ids, class_names, strict=True)]
        self._results.write("[")
        self._images.write(f'{{"categories": {json.dumps(categories)},\n"annotations": [],\n"images": [')
        self._table = csv.writer(table)
        self._table.writerow(("file", "frame", "class", "score", "x0", "y0", "x1", "y1"))

    def __enter__(self) -> "ResultFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._results.write("\n]\n")
        self._images.write("\n]}\n")
        self._open.close()

    def add(self, file: str, found: Detections, drawn: str | None = None, frame: int | None = None) -> None:
        """The detections of the next image; its id is the number of images before it.

        Args:
            drawn: what the drawn picture is called, if there is one. frame: of a video, from 0.
        """
        image = {"id": self.images, "file_name": file, "width": found.size[0], "height": found.size[1]}
        image |= {} if frame is None else {"frame": frame}
        image |= {} if drawn is None else {"drawn": drawn}
        self._images.write(("," if self.images else "") + "\n" + json.dumps(image))
        boxes = found.boxes.astype(float).round(2).tolist()  # a hundredth of a pixel
        scores = found.scores.astype(float).round(4).tolist()
        for box, score, name, category in zip(boxes, scores, found.class_names, found.category_ids, strict=True):
            x0, y0, x1, y1 = box
            bbox = [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]
            record = {"image_id": self.images, "category_id": category, "bbox": bbox, "score": score}
            self._results.write(("," if self.detections else "") + "\n" + json.dumps(record))
            self._table.writerow((file, "" if frame is None else frame, name, score, *box))
            self.detections += 1
        self.images += 1


def _matches(pattern: str, output: Path) -> Iterator[tuple[Path, str]]:
    """(path, name below the output directory) of what a path, folder or glob names."""
    own = Path(os.path.abspath(output))
    if os.path.isdir(pattern):
        found: Any = ((path, path.relative_to(pattern)) for path in _pictures_below(pattern))
    elif os.path.exists(pattern):  # before globs, since names may hold their characters
        yield Path(pattern), Path(pattern).name
        return
    else:
        base = _fixed_part(pattern)
        matched = (Path(path) for path in glob.glob(pattern, recursive=True))
        files = (file for path in matched for file in (_pictures_below(path) if path.is_dir() else [path]))
        known = (path for path in files if path.suffix.lower() in (*PICTURE_SUFFIXES, *video.SUFFIXES))
        found = ((path, path.relative_to(base)) for path in known)
    for path, name in found:
        if own not in Path(os.path.abspath(path)).parents or own == Path(os.path.abspath(pattern)):
            yield path, str(name)


def _pictures_below(directory: str | Path) -> Iterator[Path]:
    """Without hidden files and folders, which hold thumbnails and other systems' notes."""
    for parent, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and Path(name).suffix.lower() in PICTURE_SUFFIXES:
                yield Path(parent, name)


def _fixed_part(pattern: str) -> Path:
    """The folder above the first part of a glob that has a wildcard."""
    parts = Path(pattern).parts
    first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:first])


def _drawn_name(path: Path, name: str) -> str:
    """JPEG stays JPEG, videos become MP4, everything else PNG."""
    suffix = ".mp4" if _is_video(path) else path.suffix if path.suffix.lower() in (".jpg", ".jpeg") else ".png"
    return str(Path(name).with_suffix(suffix))


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, those that came before (in any case: some file systems ignore it) with a number: x.jpg, x_2.jpg."""
    taken: set[str] = set()
    last: dict[str, int] = {}
    result = []
    for name in names:
        stem, suffix = os.path.splitext(name)
        distinct = name
        while distinct.lower() in taken:
            last[name.lower()] = last.get(name.lower(), 1) + 1
            distinct = f"{stem}_{last[name.lower()]}{suffix}"
        taken.add(distinct.lower())
        result.append(distinct)
    return result


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in video.SUFFIXES


def _nothing_there(pattern: str) -> str:
    if os.path.isdir(pattern):
        return f"{pattern}: no picture in this folder ({' '.join(PICTURE_SUFFIXES)}). Videos are given by name or glob"
    if glob.has_magic(pattern):
        return f"{pattern}: no picture or video file matches"
    return f"{pattern}: no such file or folder"
