"""The cases of the input fuzz: one damaged file each, and what training does with it.

`prepare` makes a small valid data set; a case damages its json, the json's cache or a picture, then reads it all.
"""

import json
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from coco.annotations import AnnotationError, CocoAnnotations
from coco.dataset import EvaluationDataset, TrainingDataset
from coco.decoding import ImageError, decode
from tests.faults.caches import DamagedCache, cache_of
from tests.faults.mutations import bombs, damaged_bytes, damaged_json, damaged_picture, pictures

# A case's family is that of its number modulo ten.
FAMILIES = ("json entries",) * 3 + ("json bytes",) * 2 + ("cache",) + ("picture",) * 4
SIZES = {"a.jpg": (64, 48), "sub/b.jpg": (48, 64), "é.jpg": (33, 40), "d.jpg": (120, 64)}
PICTURE = (96, 64)  # size of the pictures that are damaged
ARRAYS = ("image_ids", "widths", "heights", "first", "bboxes", "areas", "iscrowd", "labels", "trainable")


class Violation(Exception):
    """Something was accepted that training cannot use."""


def prepare(root: Path, seed: int) -> dict[str, Any]:
    """Writes the valid data set to `root` / "data"; returns what the cases are made from."""
    rng = Random(seed)
    data = root / "data"
    (data / "annotations").mkdir(parents=True)
    (data / "images" / "sub").mkdir(parents=True)
    (root / "outside.jpg").write_bytes(pictures((64, 48))["JPEG"])
    images, annotations = [], []
    for image_id, (name, (width, height)) in zip((30, 10, 20, 7), SIZES.items(), strict=True):
        (data / "images" / name).write_bytes(pictures((width, height))["JPEG"])
        images.append({"id": image_id, "file_name": name, "width": width, "height": height, "license": 1})
        for _ in range(rng.randrange(4)):
            left, top = rng.uniform(0, width - 5), rng.uniform(0, height - 5)
            box = [round(value, 2) for value in (left, top, rng.uniform(2, width - left), rng.uniform(2, height - top))]
            more = {"iscrowd": int(rng.random() < 0.2), "area": box[2] * box[3], "segmentation": [[1, 2, 3, 4, 5, 6]]}
            entry = {"id": len(annotations), "image_id": image_id, "category_id": rng.choice((3, 7, 90)), "bbox": box}
            annotations.append(entry | (more if rng.random() < 0.8 else {}))
    categories = [
        {"id": 7, "name": "dog", "supercategory": "animal"},
        {"id": 3, "name": "cat"},
        {"id": 90, "name": "ö"},
    ]
    content = {"info": {"year": 2017}, "images": images, "annotations": annotations, "categories": categories}
    file = data / "annotations" / "clean.json"
    file.write_text(json.dumps(content))
    os.utime(file, (0, 0))  # an mtime that is trusted
    clean = CocoAnnotations.load(file)
    return {"content": content, "clean": clean, "pictures": pictures(PICTURE) | bombs(PICTURE)}


class InputCase:
    """One damaged file in the data set at `root` / "data".

    Attributes:
        path: the damaged file, or (for a cache) the json it belongs to.
        own_errors: what `use` may raise.
    """

    def __init__(self, family: str, rng: Random, root: Path, base: dict[str, Any]) -> None:
        self.rng, self.base = rng, base
        self.directory = root / "data" / "images"
        self.path = root / "data" / "annotations" / "instances.json"
        self.cache = cache_of(self.path)
        for place in (self.path, self.cache):
            remove(place)
        self.own_errors: tuple[type[Exception], ...] = (AnnotationError,)
        if family == "cache":
            self._damage_cache()
            self.use = self._use_cache
        elif family == "picture":
            self._damage_picture()
            self.use = self._use_picture
        else:
            text = json.dumps(base["content"]).encode()
            damaged = damaged_json(rng, base["content"]) if family == "json entries" else damaged_bytes(rng, text)
            self._put(self.path, damaged)
            self.use = self._use_annotations

    def _put(self, path: Path, content: bytes, kinds: int = 1000) -> None:
        """Writes the file; five in `kinds` become something else that can stand at its place."""
        remove(path)
        kind = self.rng.randrange(kinds)
        if kind == 0:
            path.mkdir()
        elif kind == 1:
            path.symlink_to(path.name + ".gone")
        elif kind == 2:
            path.symlink_to("/dev/zero")
        elif kind == 3:
            os.mkfifo(path)
        elif kind == 4:
            path.symlink_to(path.name)  # to itself
        else:
            path.write_bytes(content)

    # Annotations

    def _use_annotations(self) -> None:
        cached = self.rng.random() < 0.3
        loaded = CocoAnnotations.load(self.path, cache=cached)
        if cached:
            _expect_same(loaded, CocoAnnotations.load(self.path))
        check_annotations(loaded, self.directory)
        dataset, epoch = TrainingDataset(loaded, self.directory, seed=self.rng.randrange(1000)), self.rng.randrange(9)
        paths = [str(self.directory / loaded.file_name(index)) for index in loaded.trainable.tolist()]
        for index in loaded.trainable[:4].tolist():
            try:
                sample = dataset[epoch, index]
            except ImageError as error:  # the annotated picture is not there, or has another size
                if not any(path in str(error) for path in paths):
                    raise Violation(f"the message does not name the picture: {error}") from error
            else:
                check_sample(sample, len(loaded.class_names))

    # A cache beside a valid json

    def _damage_cache(self) -> None:
        shutil.copy2(self.base["clean"].path, self.path)
        shutil.copytree(cache_of(self.base["clean"].path), self.cache)
        damage = DamagedCache(self.rng, self.cache)
        self.believed = damage.believed
        for path, content in damage.files.items():
            self._put(path, content, kinds=6 if damage.way == "another thing" else 1000)

    def _use_cache(self) -> None:
        loaded, clean = CocoAnnotations.load(self.path), self.base["clean"]
        if not self.believed:
            _expect_same(loaded, clean)
        for index in range(min(len(loaded), 10)):
            _expect_inside(self.directory, loaded.file_name(index))

    # Pictures

    def _damage_picture(self) -> None:
        self.own_errors = (ImageError,)
        self.path = self.directory / "picture.jpg"
        remove(self.path)
        self._put(self.path, damaged_picture(self.rng, self.base["pictures"]))

    def _use_picture(self) -> None:
        try:
            check_picture(self.path, PICTURE, self.rng.randrange(9))
        finally:  # also a picture that training refuses, for its size, must decode or be refused
            picture = decode(self.path)
            expect(picture.mode == "RGB" and min(picture.size) > 0, f"decoded to {picture.mode} {picture.size}")


def check_picture(path: Path, size: tuple[int, int], epoch: int) -> None:
    """Training and evaluation on one picture, annotated with this size."""
    content = {
        "images": [{"id": 1, "file_name": path.name, "width": size[0], "height": size[1]}],
        "annotations": [
            {"image_id": 1, "category_id": 1, "bbox": [size[0] / 10, size[1] / 7, size[0] / 2, size[1] / 2]}
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    file = path.parent.parent / "annotations" / "picture.json"
    file.write_text(json.dumps(content))
    annotations = CocoAnnotations.load(file, cache=False)
    check_sample(TrainingDataset(annotations, path.parent, seed=0)[epoch, 0], 1)
    image = EvaluationDataset(annotations, path.parent)[0]["image"]
    expect(image.shape == (300, 300, 3) and image.dtype == np.uint8, f"image {image.shape} {image.dtype}")


def check_annotations(loaded: CocoAnnotations, directory: Path) -> None:
    """What the documentation of CocoAnnotations promises of any file that it accepts."""
    classes = len(loaded.class_names)
    expect((np.diff(loaded.image_ids) > 0).all(), "image ids not ascending")
    expect(np.isfinite(loaded.bboxes).all() and not np.isnan(loaded.areas).any(), "not finite")
    expect(((loaded.labels >= 1) & (loaded.labels <= classes)).all(), "a label that is no class")
    for index in range(len(loaded)):
        _expect_inside(directory, loaded.file_name(index))
        _check_boxes(*loaded.training_boxes(index), classes)


def check_sample(sample: dict[str, Any], classes: int) -> None:
    """What the loss needs of a training sample."""
    image = sample["image"]
    expect(image.shape == (300, 300, 3) and image.dtype == np.uint8, f"image {image.shape} {image.dtype}")
    expect(np.isfinite(sample["colour"]).all(), "colour not finite")
    _check_boxes(sample["boxes"], sample["labels"], classes)


def _check_boxes(boxes: np.ndarray, labels: np.ndarray, classes: int) -> None:
    expect(boxes.shape == (len(labels), 4) and boxes.dtype == np.float32, f"boxes {boxes.shape} {boxes.dtype}")
    expect(((boxes >= 0) & (boxes <= 1)).all(), f"boxes outside [0, 1] or NaN: {boxes}")
    expect((boxes[:, 2:] > boxes[:, :2]).all(), f"boxes without area, whose logarithm is -inf: {boxes}")
    expect(((labels >= 1) & (labels <= classes)).all(), f"labels {labels} of {classes} classes")


def _expect_inside(directory: Path, name: str) -> None:
    # The names are compared, not what links lead to.
    path = os.path.normpath(directory / name)
    expect(f"{path}{os.sep}".startswith(f"{directory}{os.sep}"), f"file name {name!r} leaves the image directory")


def _expect_same(loaded: CocoAnnotations, other: CocoAnnotations) -> None:
    same = all(np.array_equal(getattr(loaded, name), getattr(other, name), equal_nan=True) for name in ARRAYS)
    same = same and (loaded.category_ids, loaded.class_names) == (other.category_ids, other.class_names)
    expect(same, "the cache does not hold what the json does")


def expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Violation(otherwise)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
