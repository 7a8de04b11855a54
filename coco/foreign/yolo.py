"""Ultralytics' YOLO data sets: a yaml that names pictures and classes, or bare folders; one text file a picture."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hotcoco

from coco.foreign.parts import SPLITS, WHOLE, ConversionError, Part, add, pictures_below, size_of, write_unit_picture
from coco.names import shown
from coco.whole_files import replacing
from coco.yaml_files import YamlError, read_mapping


def read_yolo(source: Path, names: Sequence[str] | None) -> tuple[list[Part], list[str]]:
    file = source if source.is_file() else yaml_in(source)
    if file is None:
        listed = source / "classes.txt"
        if names is None and not listed.is_file():
            raise ConversionError(
                f"{source}: no data.yaml and no classes.txt, so that the classes have no names; say --names a,b,c"
            )
        names = names or [line.strip() for line in listed.read_text("utf-8").splitlines() if line.strip()]
        within = [folder for folder in sorted((source / "images").iterdir()) if folder.name.lower() in SPLITS]
        where = {SPLITS[folder.name.lower()]: [folder] for folder in within} or {WHOLE: [source / "images"]}
    else:
        try:
            content = read_mapping(file)
        except YamlError as error:
            raise ConversionError(str(error)) from None
        listed_names = content.get("names")
        names = names or (
            list(dict(sorted(listed_names.items())).values()) if isinstance(listed_names, dict) else listed_names
        )
        if not names:
            raise ConversionError(f"{file}: names: expected a list of class names, found {names!r}")
        given = {key: content[key] for key in ("train", "val", "valid", "test") if content.get(key)}
        where = {
            SPLITS[key]: [_place(file, content, entry) for entry in _listed(value)] for key, value in given.items()
        }
        if not where:
            raise ConversionError(f"{file}: no train:, val: or test:, which say where the pictures are")
    names = [str(name) for name in names]
    return [_part(split, _pictures(places), names) for split, places in where.items()], names


def _place(file: Path, content: dict, entry: str) -> Path:
    """Where an entry of a yaml is: below its `path`, or below the yaml's folder, as exporters write it too."""
    below = [file.parent / str(content.get("path") or ""), file.parent]
    candidates = [base / entry for base in below] + [file.parent / entry.removeprefix("../")]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise ConversionError(f"{file}: {entry}: no such directory, looked for {', '.join(map(str, candidates))}")


def _pictures(places: Sequence[Path]) -> Iterator[Path]:
    for place in places:
        if place.is_file():  # a list of pictures
            for line in place.read_text("utf-8").splitlines():
                if line.strip():
                    yield Path(os.path.normpath(place.parent / line.strip()))  # its name may be kept: without ".."
        else:
            yield from pictures_below(place)


def _part(split: str, pictures: Iterator[Path], names: Sequence[str]) -> Part:
    """By hotcoco, from a directory with a numbered link to every picture beside its labels, since it takes file names
    without their endings for the same."""
    part, polygons, without = Part(split), 0, 0
    with tempfile.TemporaryDirectory() as place:
        staged = Path(place)
        # By number: hotcoco's own reader of yaml takes the simplest of forms.
        _write(staged / "data.yaml", f"names: [{', '.join(map(str, range(len(names))))}]\n")
        unit = write_unit_picture(staged)
        files: list[tuple[Path, Path, int, int]] = []
        for i, picture in enumerate(pictures):
            size = size_of(picture)
            labels = _labels(picture)
            files.append((labels, picture, *size))
            lines = labels.read_text("utf-8", "surrogateescape").splitlines() if labels.is_file() else []
            without += not labels.is_file()
            boxes = [_as_box(line) for line in lines]
            polygons += sum(a != b for a, b in zip(boxes, lines, strict=True))
            _write(staged / f"{i:09d}.txt", "\n".join(boxes))
            (staged / f"{i:09d}.png").symlink_to(unit)
        try:
            dataset = hotcoco.COCO.from_yolo(str(staged), images_dir=str(staged)).dataset
        except (ValueError, OSError) as error:
            message = str(error)
            for i, (labels, *_) in enumerate(files):
                message = message.replace(str(staged / f"{i:09d}.txt"), str(labels)).replace(f"`{i:09d}`", str(labels))
            raise ConversionError(f"{message}. The classes are {', '.join(map(shown, names[:10]))}") from None
    for category in dataset["categories"]:
        category["name"] = names[int(category["name"])]
    for image in dataset["images"]:
        _, picture, width, height = files[int(image["file_name"])]
        image.update(file_name=picture, width=width, height=height)
    add(part, dataset, shares=True)
    if polygons:
        part.notes.append(f"{polygons} outlines became the boxes around them")
    if without:
        part.notes.append(f"{without} pictures have no label file: taken as pictures without objects")
    return part


def _write(path: Path, text: str) -> None:
    with replacing(path, durable=False, encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)


def _labels(picture: Path) -> Path:
    """Ultralytics' rule: the last folder `images` of the path is `labels`; without one, beside the picture."""
    parts = list(picture.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _as_box(line: str) -> str:
    """A line of a label file; of an outline (class x y x y x y ...) the box around it, which hotcoco does not take."""
    label, *numbers = line.split() or [""]
    if len(numbers) < 6 or len(numbers) % 2:
        return line
    try:
        values = [float(number) for number in numbers]
    except ValueError:
        return line
    (left, right), (top, bottom) = ((min(values[i::2]), max(values[i::2])) for i in (0, 1))
    return f"{label} {(left + right) / 2!r} {(top + bottom) / 2!r} {right - left!r} {bottom - top!r}"


def yaml_in(source: Path) -> Path | None:
    named = [path for path in sorted(source.glob("*.y*ml")) if path.suffix in (".yaml", ".yml")]
    return next((path for path in named if path.stem in ("data", "dataset")), next(iter(named), None))


def _listed(value: Any) -> list[str]:
    return [str(entry) for entry in (value if isinstance(value, list) else [value])]
