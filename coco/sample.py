"""The built-in sample data set: a few hundred generated pictures in the COCO 2017 layout, the same for the same seed.
Four classes told apart by shape alone: `python -m coco.sample DIR [--train 320] [--val 80] [--seed 0]`."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coco.sample_pictures import draw_picture
from coco.sample_shapes import CATEGORIES
from coco.whole_files import replacing, write_text

VERSION = 1  # raise it whenever the pictures or annotations of a given seed change
MARKER = "sample.json"


def write_sample(
    directory: str | Path,
    train_images: int = 320,
    val_images: int = 80,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> dict:
    """Write the sample to `directory` and return its counts: {"written": bool, "train2017": {...}, "val2017": {...}}.

    A complete sample of the same parameters is left alone, an interrupted one is written again. Anything else in the
    directory raises FileExistsError: nothing is ever deleted. `progress`, if given, is called with a line of text.
    Picture i of a part depends on (seed, part, i) alone, so a smaller sample is the beginning of a larger one.
    """
    if train_images < 1 or val_images < 1 or seed < 0:
        raise ValueError(
            "expected train_images >= 1, val_images >= 1 and seed >= 0, "
            f"got train_images={train_images}, val_images={val_images}, seed={seed}"
        )
    directory = Path(directory)
    parameters = {
        "generator": "coco.sample", "version": VERSION,
        "train_images": train_images, "val_images": val_images, "seed": seed,
    }  # fmt: skip
    parts = {"train2017": train_images, "val2017": val_images}

    marker = _read_marker(directory, parameters)
    if marker.get("counts") and _all_files_exist(directory, parts):
        return {"written": False, **marker["counts"]}

    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / MARKER, json.dumps({"parameters": parameters, "counts": None}))  # None: not complete yet
    counts = {
        part: _write_part(directory, part, stream, images, seed, progress)
        for stream, (part, images) in enumerate(parts.items())
    }
    write_text(directory / MARKER, json.dumps({"parameters": parameters, "counts": counts}))
    return {"written": True, **counts}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m coco.sample", description="Write the sample data set.")
    parser.add_argument("directory", metavar="DIR", help="a new or empty directory")
    parser.add_argument("--train", type=int, default=320, metavar="N", help="training pictures (default %(default)s)")
    parser.add_argument("--val", type=int, default=80, metavar="N", help="validation pictures (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures (default %(default)s)")
    args = parser.parse_args(argv)

    try:
        summary = write_sample(
            args.directory, args.train, args.val, args.seed, progress=lambda line: print(line, file=sys.stderr)
        )
    except (OSError, ValueError) as error:
        raise SystemExit(f"coco.sample: {error}") from None
    written = summary.pop("written")
    print(f"Wrote the sample to {args.directory}:" if written else f"{args.directory} already holds this sample:")
    for part, counts in summary.items():
        print(f"  {part}: " + ", ".join(f"{number} {what}" for what, number in counts.items()))


def _read_marker(directory: Path, parameters: dict) -> dict:
    """The marker of a sample with these parameters, {} where the directory is new or empty; else FileExistsError."""
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"expected a directory for the sample, {directory} is a file: give another path")
    found = sorted(p.name for p in directory.iterdir() if not p.name.startswith(".")) if directory.exists() else []
    if not found:
        return {}
    try:
        marker = json.loads((directory / MARKER).read_text(encoding="utf-8"))
        present = marker["parameters"]
        if present["generator"] != parameters["generator"]:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        names = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
        raise FileExistsError(
            f"{directory} holds something else than a sample (found: {names}): "
            "give a new or empty directory, or train on this one as it is if it is your data set"
        ) from None
    if present != parameters:
        different = [f"{k} {present.get(k)} instead of {v}" for k, v in parameters.items() if present.get(k) != v]
        raise FileExistsError(
            f"{directory} holds another sample ({', '.join(different)}): give another directory, or delete this one"
        )
    return marker


def _all_files_exist(directory: Path, parts: dict[str, int]) -> bool:
    names = [f"annotations/instances_{part}.json" for part in parts]
    names += [f"{part}/{_file_name(index)}" for part, images in parts.items() for index in range(images)]
    return all((directory / name).is_file() for name in names)


def _write_part(
    directory: Path, part: str, stream: int, images: int, seed: int, progress: Callable[[str], None] | None
) -> dict[str, int]:
    (directory / part).mkdir(exist_ok=True)
    (directory / "annotations").mkdir(exist_ok=True)
    instances: dict[str, Any] = {
        "info": {"description": f"generated sample, {part}", "version": str(VERSION), "year": 2017, "seed": seed},
        "licenses": [{"id": 1, "name": "Public domain", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "categories": [{"id": i, "name": name, "supercategory": "shape"} for i, name in CATEGORIES.items()],
        "images": [],
        "annotations": [],
    }
    for index in range(images):
        picture, objects = draw_picture(np.random.default_rng([seed, stream, index]))
        with replacing(directory / part / _file_name(index), durable=False) as file:
            picture.save(file, format="JPEG", quality=90)
        size = {"width": picture.width, "height": picture.height}
        instances["images"].append({"id": index + 1, "file_name": _file_name(index), **size, "license": 1})
        for annotation in objects:
            ids = {"id": len(instances["annotations"]) + 1, "image_id": index + 1}
            instances["annotations"].append(ids | annotation)
        if progress and ((index + 1) % 100 == 0 or index + 1 == images):
            progress(f"{part}: {index + 1} of {images} pictures")
    write_text(directory / "annotations" / f"instances_{part}.json", json.dumps(instances))
    crowds = sum(annotation["iscrowd"] for annotation in instances["annotations"])
    return {
        "images": images,
        "objects": len(instances["annotations"]) - crowds,
        "crowds": crowds,
        "empty images": images - len({annotation["image_id"] for annotation in instances["annotations"]}),
    }


def _file_name(index: int) -> str:
    return f"{index + 1:012d}.jpg"


if __name__ == "__main__":
    main()
