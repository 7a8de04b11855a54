"""The built-in sample data set: a few hundred generated pictures in the COCO 2017 layout, the same for the same seed.
Four classes told apart by shape alone: `python -m coco.sample DIR [--train 320] [--val 80] [--seed 0]`."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

VERSION = 1  # raise it whenever the pictures or annotations of a given seed change
MARKER = "sample.json"
CATEGORIES = {2: "disc", 3: "square", 7: "triangle", 40: "cross"}  # ids with gaps, as COCO's own

EMPTY_SHARE, CROWD_SHARE = 0.05, 0.04  # of the pictures
OBJECT_COUNT_WEIGHTS = [0.04, 0.08, 0.12, 0.16, 0.20, 0.20, 0.20]  # 1 to 7 objects
SMALLEST, LARGEST = 30, 170  # longest side of an object's box, pixels
MAX_OVERLAP = 0.5  # of the smaller of two boxes, hence IoU <= 1/3
MIN_VISIBLE = 0.65  # share of an object that later objects leave uncovered
MIN_INSIDE = 0.8  # share of an object inside the picture
MIN_CONTRAST = 100  # RGB distance between an object's colour and what it is painted on


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
    _write_json(directory / MARKER, {"parameters": parameters, "counts": None})  # None: not complete yet
    counts = {
        part: _write_part(directory, part, stream, images, seed, progress)
        for stream, (part, images) in enumerate(parts.items())
    }
    _write_json(directory / MARKER, {"parameters": parameters, "counts": counts})
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
    except (FileExistsError, ValueError) as error:
        raise SystemExit(f"coco.sample: {error}") from None
    written = summary.pop("written")
    print(f"Wrote the sample to {args.directory}:" if written else f"{args.directory} already holds this sample:")
    for part, counts in summary.items():
        print(f"  {part}: " + ", ".join(f"{number} {what}" for what, number in counts.items()))


# ---- files ----


def _read_marker(directory: Path, parameters: dict) -> dict:
    """The marker of a sample with these parameters, {} where the directory is new or empty; else FileExistsError."""
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"expected a directory for the sample, {directory} is a file: give another path")
    found = sorted(p.name for p in directory.iterdir() if not p.name.startswith(".")) if directory.exists() else []
    if not found:
        return {}
    try:
        marker = json.loads((directory / MARKER).read_text())
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


def _write_part(directory: Path, part: str, stream: int, images: int, seed: int, progress) -> dict[str, int]:
    (directory / part).mkdir(exist_ok=True)
    (directory / "annotations").mkdir(exist_ok=True)
    instances = {
        "info": {"description": f"generated sample, {part}", "version": str(VERSION), "year": 2017, "seed": seed},
        "licenses": [{"id": 1, "name": "Public domain", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "categories": [{"id": i, "name": name, "supercategory": "shape"} for i, name in CATEGORIES.items()],
        "images": [],
        "annotations": [],
    }
    for index in range(images):
        picture, objects = _picture(np.random.default_rng([seed, stream, index]))
        picture.save(directory / part / _file_name(index), quality=90)
        size = {"width": picture.width, "height": picture.height}
        instances["images"].append({"id": index + 1, "file_name": _file_name(index), **size, "license": 1})
        for annotation in objects:
            ids = {"id": len(instances["annotations"]) + 1, "image_id": index + 1}
            instances["annotations"].append(ids | annotation)
        if progress and ((index + 1) % 100 == 0 or index + 1 == images):
            progress(f"{part}: {index + 1} of {images} pictures")
    _write_json(directory / "annotations" / f"instances_{part}.json", instances)
    crowds = sum(annotation["iscrowd"] for annotation in instances["annotations"])
    return {
        "images": images,
        "objects": len(instances["annotations"]) - crowds,
        "crowds": crowds,
        "empty images": images - len({annotation["image_id"] for annotation in instances["annotations"]}),
    }


def _file_name(index: int) -> str:
    return f"{index + 1:012d}.jpg"


def _write_json(path: Path, content: dict) -> None:
    """Under a hidden name first: a file under its own name is always whole."""
    hidden = path.with_name(f".{path.name}.part")
    hidden.write_text(json.dumps(content))
    os.replace(hidden, path)


# ---- pictures ----


def _picture(rng: np.random.Generator) -> tuple[Image.Image, list[dict]]:
    """One picture and its annotations (without ids)."""
    width, height = int(rng.integers(320, 481)), int(rng.integers(240, 401))
    picture = _background(rng, width, height)
    kind = rng.random()
    if kind < EMPTY_SHARE:
        return picture, []
    if kind < EMPTY_SHARE + CROWD_SHARE:
        annotations = [_paint_crowd(rng, picture)]
        return picture, annotations + _paint_objects(rng, picture, int(rng.integers(0, 3)), [annotations[0]["bbox"]])
    return picture, _paint_objects(rng, picture, 1 + int(rng.choice(7, p=OBJECT_COUNT_WEIGHTS)))


def _paint_objects(rng: np.random.Generator, picture: Image.Image, count: int, keep_clear: Sequence = ()) -> list[dict]:
    """Paint up to `count` objects, later over earlier ones, none over the boxes `keep_clear`; their annotations."""
    annotations = []
    uncovered, pixels = [], []  # of each object: mask of what still shows, pixels in all
    for _ in range(40 * count):
        if len(annotations) == count:
            break
        category = int(rng.choice(list(CATEGORIES)))
        size = SMALLEST * (LARGEST / SMALLEST) ** (rng.random() ** 0.6)
        whole = _outline(rng, category, size, rng.uniform([0, 0], picture.size))
        outline = _clip(whole, *picture.size)
        if _area(outline) < MIN_INSIDE * _area(whole):
            continue
        box = _box(outline)
        if any(_overlap(box, other) > 0 for other in keep_clear):
            continue
        if any(_overlap(box, other["bbox"]) > MAX_OVERLAP for other in annotations):
            continue
        mask = _full_mask(outline, picture.size)
        still = [shown & ~mask for shown in uncovered]
        if any(shown.sum() < MIN_VISIBLE * total for shown, total in zip(still, pixels, strict=True)):
            continue
        uncovered, pixels = [*still, mask], [*pixels, mask.sum()]
        _paint(rng, picture, outline)
        annotations.append(_annotation(category, box, _area(outline), 0, [outline.ravel().tolist()]))
    return annotations


def _paint_crowd(rng: np.random.Generator, picture: Image.Image) -> dict:
    """Paint a tight cluster of many small shapes of one class; its single annotation."""
    category, size = int(rng.choice(list(CATEGORIES))), rng.uniform(18, 28)
    columns, rows = rng.integers(4, 7, 2)
    half = np.array([columns, rows]) * size / 2
    corner = rng.uniform(half, np.array(picture.size) - half) - half
    mask = np.zeros(picture.size[::-1], bool)
    for cell in rng.permutation(columns * rows):
        centre = corner + (np.array([cell % columns, cell // columns]) + rng.uniform(0.25, 0.75, 2)) * size
        outline = _clip(_outline(rng, category, size * rng.uniform(0.9, 1.2), centre), *picture.size)
        mask |= _full_mask(outline, picture.size)
        _paint(rng, picture, outline)
    ys, xs = np.nonzero(mask)
    box = [float(v) for v in (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)]
    return _annotation(category, box, mask.sum(), 1, _rle(mask))


def _annotation(category: int, box: list[float], area: float, iscrowd: int, segmentation: list | dict) -> dict:
    return {
        "category_id": category, "bbox": box, "area": float(area),
        "iscrowd": iscrowd, "segmentation": segmentation,
    }  # fmt: skip


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """A texture, often with soft blobs, and clutter that is no object: strokes and freckles."""
    # Muted, so that a network trained for minutes on few pictures finds the objects, which are vivid.
    canvas = _texture(rng, height, width, rng.uniform(70, 185) + rng.uniform(-18, 18, 3), variation=18)
    if rng.random() < 0.4:
        blobs = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        canvas += (np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC), np.float32) - 128) * 0.15
    canvas += rng.standard_normal((height, width, 1), dtype=np.float32) * rng.uniform(0, 8)
    picture = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    for _ in range(rng.integers(0, 10)):
        centre = rng.uniform([0, 0], [width, height])
        if rng.random() < 0.5:
            along = rng.normal(size=2) * 40
            across = np.array([-along[1], along[0]]) / np.hypot(*along) * rng.uniform(0.75, 2)
            clutter = np.array([along + across, along - across, -along - across, across - along])
        else:
            angles = np.sort(rng.uniform(0, 2 * math.pi, 7))[:, None]
            clutter = np.hstack([np.cos(angles), np.sin(angles)]) * rng.uniform(2, 6) * rng.uniform(0.6, 1, (7, 1))
        clutter = _clip(centre + clutter, width, height)
        if len(clutter) > 2:
            _paint(rng, picture, clutter)
    return picture


def _paint(rng: np.random.Generator, picture: Image.Image, outline: np.ndarray) -> None:
    """Fill an outline. Objects of every class and clutter all come here, and nothing here knows which it is."""
    window, mask = _window_and_mask(outline, picture.size)
    behind = np.asarray(picture.crop(window)).reshape(-1, 3)
    colours = _vivid(rng, 24)
    distances = np.linalg.norm(colours[:, None] - behind[:: 1 + len(behind) // 200], axis=-1)  # [24, pixels]
    too_close = (distances < MIN_CONTRAST).mean(1)
    colour = colours[np.argmax(too_close < 0.05)] if too_close.min() < 0.05 else colours[np.argmin(too_close)]
    fill = _texture(rng, window[3] - window[1], window[2] - window[0], colour).clip(0, 255).astype(np.uint8)
    picture.paste(Image.fromarray(fill), window, mask)
    if rng.random() < 0.35:
        edge = _window_and_mask(outline, picture.size, edge=int(rng.integers(1, 4)))[1]
        picture.paste(tuple(int(v) for v in _vivid(rng, 1)[0]), window, edge)


def _vivid(rng: np.random.Generator, count: int) -> np.ndarray:
    """float32 [count, 3] RGB of any hue, far from grey."""
    colours = rng.uniform(0, 1, (count, 3))
    low, high = colours.min(1, keepdims=True), colours.max(1, keepdims=True)
    return (255 * (colours - low) / (high - low) * rng.uniform(0.7, 1, (count, 1))).astype(np.float32)


def _texture(
    rng: np.random.Generator, height: int, width: int, colour: np.ndarray, variation: float = 35
) -> np.ndarray:
    """[H, W, 3] float32: plain, a gradient, stripes, checks or blotches of a colour and one near it."""
    other = rng.uniform(-variation, variation, 3).astype(np.float32)
    angle, period = rng.uniform(0, 2 * math.pi), rng.uniform(6, 24)
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    kind = rng.integers(5)
    if kind == 0:
        mix = np.zeros((height, width), np.float32)
    elif kind == 1:
        mix = (along - along.min()) / max(float(np.ptp(along)), 1)
    elif kind == 2:
        mix = np.floor(along / period) % 2
    elif kind == 3:
        mix = (np.floor(along / period) + np.floor(across / period)) % 2
    else:
        coarse = Image.fromarray(rng.integers(0, 256, (2 + height // 12, 2 + width // 12), dtype=np.uint8))
        mix = np.asarray(coarse.resize((width, height), Image.Resampling.BILINEAR), np.float32) / 255
    return np.asarray(colour, np.float32) + mix[..., None] * other


# ---- outlines: [N, 2] x, y in pixels ----

_turns = np.linspace(0, 2 * math.pi, 40, endpoint=False)
_circle = np.stack([np.sin(_turns), -np.cos(_turns)], 1)
_a = 0.34  # half the width of a cross's arm
_cross = [(-_a, -1), (_a, -1), (_a, -_a), (1, -_a), (1, _a), (_a, _a),
          (_a, 1), (-_a, 1), (-_a, _a), (-1, _a), (-1, -_a), (-_a, -_a)]  # fmt: skip
UNIT_SHAPES = {
    "disc": _circle,
    "square": np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]),
    "triangle": np.array([(0, -1), (1, 1), (-1, 1)]),
    "cross": np.array(_cross),
}


def _outline(rng: np.random.Generator, category: int, size: float, centre: np.ndarray) -> np.ndarray:
    """A shape in a box whose longest side is `size`: stretched, then turned a little. On quarter pixels, so that the
    boxes taken from it are exact in the annotations and never stick out by a rounding error."""
    shape = UNIT_SHAPES[CATEGORIES[category]]
    stretch, angle = math.exp(rng.uniform(math.log(0.6), math.log(1.6)) / 2), math.radians(rng.uniform(-20, 20))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    shape = (shape * [stretch, 1 / stretch]) @ turn
    low, high = shape.min(0), shape.max(0)
    shape = (shape - (low + high) / 2) * size / (high - low).max()
    return np.round((shape + centre) * 4) / 4


def _clip(outline: np.ndarray, width: int, height: int) -> np.ndarray:
    """The part of an outline inside the picture (Sutherland-Hodgman), possibly without points."""
    for axis, sign, limit in ((0, 1, 0), (0, -1, -width), (1, 1, 0), (1, -1, -height)):
        depth = sign * outline[:, axis] - limit  # >= 0: inside this border
        kept = []
        for i in range(len(outline)):
            if depth[i - 1] * depth[i] < 0:
                kept.append(outline[i - 1] + (outline[i] - outline[i - 1]) * depth[i - 1] / (depth[i - 1] - depth[i]))
            if depth[i] >= 0:
                kept.append(outline[i])
        outline = np.round(np.reshape(kept, (-1, 2)) * 4) / 4
    return outline


def _area(outline: np.ndarray) -> float:
    x, y = outline.T
    return abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) / 2


def _box(outline: np.ndarray) -> list[float]:
    low, high = outline.min(0), outline.max(0)
    return [*low.tolist(), *(high - low).tolist()]


def _overlap(a: list[float], b: list[float]) -> float:
    """Intersection of two xywh boxes as a share of the smaller one."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(width, 0) * max(height, 0) / min(a[2] * a[3], b[2] * b[3])


def _window_and_mask(outline: np.ndarray, size: tuple[int, int], edge: int | None = None) -> tuple[tuple, Image.Image]:
    """The window around an outline, (left, top, right, bottom), and the outline's anti-aliased mask in it;
    with `edge`, the mask of a border that many pixels wide along the inside of the outline."""
    low = np.maximum(np.floor(outline.min(0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(outline.max(0)).astype(int) + 1, size)
    mask = Image.new("L", tuple((2 * (high - low)).tolist()))  # drawn at twice the size
    points = [tuple(point) for point in ((outline - low) * 2 - 0.5).tolist()]
    if edge is None:
        ImageDraw.Draw(mask).polygon(points, fill=255)
    else:
        ImageDraw.Draw(mask).polygon(points, outline=255, width=2 * edge)
    return (*low.tolist(), *high.tolist()), mask.reduce(2)


def _full_mask(outline: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """bool [H, W]: the picture's pixels inside an outline."""
    full = Image.new("L", size)
    window, mask = _window_and_mask(outline, size)
    full.paste(mask, window)
    return np.asarray(full) > 127


def _rle(mask: np.ndarray) -> dict:
    """COCO's uncompressed run lengths: column by column, beginning with a run of zeros (perhaps empty)."""
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}


if __name__ == "__main__":
    main()
