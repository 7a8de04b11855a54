"""Cases of the input fuzz: odd names of classes and files, and everything that shows them.

The names go through annotations, training samples, the check of a data set, the report of an evaluation, TensorBoard,
the pictures of a validation, and a prediction with its tables: in none of these may a name do more than be seen, or
lead out of a directory, or get lost.
"""

import contextlib
import json
import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

from coco import check
from coco.annotations import AnnotationError, CocoAnnotations
from coco.dataset import EvaluationDataset
from coco.decoding import ImageError
from evaluation.metric import CocoMeanAveragePrecision
from evaluation.page import template
from evaluation.report import write_report
from evaluation.tables import class_table
from prediction.detector import Detections, labels_of
from prediction.files import ResultFiles
from prediction.inputs import find_inputs
from prediction.pipeline import Prediction
from tests.faults.inputs import check_annotations, expect, remove
from tests.faults.mutations import pictures
from tests.faults.odd_names import odd_file_name, odd_name
from tests.faults.shown import OBEYED, check_csv, check_page, check_shown, terminal
from training.pictures import ClassPrecision, TensorBoardPictures

# Of twenty cases; a report, the slowest, is the last.
FAMILIES = ("names: annotations",) * 4 + ("names: prediction",) * 9 + ("names: TensorBoard",) * 6 + ("names: report",)
SIZE = (64, 48)


def prepare(root: Path, seed: int) -> dict[str, Any]:
    """Draws and writes everything once, so that what that needs (fonts, modules) is loaded; but for a report, since the
    evaluator's threads do not live on in the forked processes of the cases."""
    base = {"picture": pictures(SIZE)["JPEG"]}
    for family in dict.fromkeys(FAMILIES[:-1]):
        NameCase(family, Random(seed), root, base, plain=True).use()
    CocoMeanAveragePrecision(NameCase(FAMILIES[0], Random(seed), root, base, plain=True)._annotations())
    template()
    return base


class NameCase:
    """Classes and files of odd names below `root` / "data", and outputs below `root` / "out"; attributes as
    `inputs.InputCase`."""

    def __init__(self, family: str, rng: Random, root: Path, base: dict[str, Any], plain: bool = False) -> None:
        self.rng, self.picture = rng, base["picture"]
        self.data, self.out = root / "data" / "named", root / "out"
        for directory in (self.data, self.out):
            remove(directory)
            directory.mkdir(parents=True)
        self.path, self.file = self.data, self.data / "annotations.json"
        self.own_errors = (AnnotationError, ImageError, MisconfigurationException)
        count = rng.choice((1, 2, 3, 6))
        self.classes = [f"class {i}" if plain else odd_name(rng) for i in range(count)]
        count = rng.choice((1, 1, 2, 4))
        if family == "names: prediction" or rng.random() < 0.5:
            names = {b"x.jpg"} if plain else {odd_file_name(rng) for _ in range(count)}
            self.files = [os.fsdecode(name) for name in sorted(names)]
        else:
            self.files = ["x.jpg"] if plain else [odd_name(rng) for _ in range(count)]
        if rng.random() < 0.7 and family != "names: prediction":  # most with whole characters alone, which are taken
            self.classes, self.files = (
                [re.sub("[\ud800-\udfff]", "", name) for name in names] for names in (self.classes, self.files)
            )
        self.ids = sorted(rng.sample(range(-5, 100), len(self.classes)))
        self.use = {
            "names: annotations": self._use_annotations,
            "names: prediction": self._use_prediction,
            "names: TensorBoard": self._use_tensorboard,
            "names: report": self._use_report,
        }[family]

    # The data set

    def _annotations(self) -> CocoAnnotations:
        """The annotations that name them; the files that can be made are there."""
        images = self.data / "images"
        images.mkdir()
        for name in self.files:
            with contextlib.suppress(OSError, ValueError):
                path = images / name
                if path.resolve().is_relative_to(images.resolve()):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(self.picture)
        box = [5, 5, 30, 20]
        count = max(len(self.classes), len(self.files))
        rows = [
            {"id": i, "image_id": 1 + i % len(self.files), "category_id": self.ids[i % len(self.ids)], "bbox": box}
            for i in range(count)
        ]
        content = {
            "images": [
                {"id": i, "file_name": name, "width": SIZE[0], "height": SIZE[1]}
                for i, name in enumerate(self.files, 1)
            ],
            "categories": [{"id": i, "name": name} for i, name in zip(self.ids, self.classes, strict=True)],
            "annotations": rows,
        }
        text = json.dumps(content, ensure_ascii=self.rng.random() < 0.5)
        self.file.write_bytes(text.encode(errors="surrogatepass"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = CocoAnnotations.load(self.file, cache=self.rng.random() < 0.3)
        # Two halves side by side are one character to JSON.
        names = [name.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass") for name in self.classes]
        expect(list(loaded.class_names) == names, "class names are not those of the file")
        expect([loaded.file_name(i) for i in range(len(loaded))] == self.files, "file names are not those of the file")
        check_annotations(loaded, images)
        return loaded

    def _use_annotations(self) -> None:
        loaded = self._annotations()
        arguments = [str(self.data), "--output", str(self.out / "check.png"), "--json", str(self.out / "check.json")]
        for split in ("train", "val"):
            arguments += [f"--{split}_images", "images", f"--{split}_annotations", self.file.name]
        with terminal() as shown:
            code = check.main(arguments)
        check_shown(shown())
        expect(code in (0, 1) and (self.out / "check.png").is_file(), f"exit code {code}")
        json.loads((self.out / "check.json").read_text())
        self._check_inside(1 + 1)
        dataset = EvaluationDataset(loaded, self.data / "images")
        for index, name in enumerate(self.files):
            there = _is_file(self.data / "images" / name)
            try:
                expect(dataset[index]["image"].shape == (300, 300, 3), "no picture")
            except ImageError:
                expect(not there, f"{name!r} is there, and refused")
        with contextlib.suppress(MisconfigurationException):
            labels_of([self.rng.choice((*self.classes, "x", "id:3"))], loaded.class_names, loaded.category_ids)

    # A prediction

    def _use_prediction(self) -> None:
        pictures_ = self.data / "pictures"
        pictures_.mkdir()
        for name in self.files:
            (pictures_ / name).write_bytes(self.picture)
        by_name = self.rng.random() < 0.3
        found = find_inputs([str(pictures_ / name) for name in self.files] if by_name else [str(pictures_)], self.out)
        with terminal() as shown, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with (
                ResultFiles(self.out, self.classes, self.ids) as files,
                ThreadPoolExecutor(1) as pool,
            ):
                prediction = Prediction(self._detector(), files, pool, 1, 2, self.out, True)
                prediction.predict(found)
            print(prediction.summary(found))
        check_shown(shown(), bars=True)
        self._check_tables(found, prediction)
        drawn = [each for each in found.inputs if each.path not in prediction.problems]
        for each in drawn:
            expect((self.out / each.drawn).is_file(), f"{each.drawn!r} was not drawn")
        self._check_inside(len(drawn) + 3)

    def _detector(self) -> Any:
        """One that finds the first two classes in every picture."""
        boxes = np.array([[5, 5, 30, 20], [1, 1, 60, 40]], np.float32)[: len(self.classes)]
        count = len(boxes)
        found = Detections(
            boxes,
            np.array([0.9, 0.5], np.float32)[:count],
            np.arange(1, count + 1),
            tuple(self.classes[:count]),
            tuple(self.ids[:count]),
            SIZE,
        )
        module = SimpleNamespace(class_names=tuple(self.classes), category_ids=tuple(self.ids))
        return SimpleNamespace(
            module=module,
            tiling=None,
            pictures_at_once=lambda batch_size: batch_size,
            detect=lambda samples, batch_size: [found] * len(samples),
        )

    def _check_tables(self, found: Any, prediction: Any) -> None:
        images = json.loads((self.out / "images.json").read_text(encoding="utf-8"))
        taken = [each.path.as_posix() for each in found.inputs if each.path not in prediction.problems]
        expect([image["file_name"] for image in images["images"]] == taken, "images.json names other files")
        classes = json.loads(json.dumps(self.classes))  # two halves of a character are one in JSON
        expect([category["name"] for category in images["categories"]] == classes, "images.json: other classes")
        json.loads((self.out / "detections.json").read_text(encoding="utf-8"))
        check_csv(self.out / "detections.csv", len(taken) * min(2, len(self.classes)), (0, 2))

    # TensorBoard

    def _use_tensorboard(self) -> None:
        loaded = self._annotations()
        there = [i for i in range(len(loaded)) if _is_file(self.data / "images" / loaded.file_name(i))]
        logger = TensorBoardLogger(self.out, "logs", "")
        data = SimpleNamespace(val_annotations=loaded, val_directory=self.data / "images")
        trainer = SimpleNamespace(
            is_global_zero=True, sanity_checking=False, global_step=1, datamodule=data, loggers=[logger]
        )
        rows = [
            {"name": n, "category_id": i, "ground_truths": 1, "AP": 0.5}
            for n, i in zip(self.classes, self.ids, strict=True)
        ]
        module = SimpleNamespace(
            class_names=loaded.class_names,
            category_ids=loaded.category_ids,
            metric=SimpleNamespace(per_class=lambda: rows),
        )
        shown, count = TensorBoardPictures(), len(there)
        boxes = torch.tensor([5.0, 5, 30, 20]).expand(count, 1, 4)
        outputs = boxes, torch.full((count, 1), 0.9), torch.ones(count, 1, dtype=torch.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shown.on_validation_epoch_start(trainer, module)
            shown.on_validation_batch_end(trainer, module, outputs, {"image_ids": loaded.image_ids[there]}, 0)
        ClassPrecision().on_validation_end(trainer, module)
        logger.finalize("success")
        tags = [value.tag for file in Path(logger.log_dir).iterdir() for value in _values(file)]
        expect(len(tags) == len(set(tags)) == len(rows) + min(count, shown.count), f"tags {tags}")
        for tag in tags:
            expect(tag.count("/") == 1 and not OBEYED.search(tag) and len(tag.encode()) < 255, f"tag {tag!r}")

    # A report

    def _use_report(self) -> None:
        loaded = self._annotations()
        metric = CocoMeanAveragePrecision(loaded)
        count = len(loaded)
        boxes = torch.tensor([[5.0, 5, 35, 25], [0, 0, 9, 9]]).expand(count, 2, 4)
        labels = torch.ones(count, 2, dtype=torch.int64)
        metric.update(loaded.image_ids.tolist(), boxes, torch.tensor([0.9, 0.5]).expand(count, 2), labels)
        metric.compute()
        table = class_table(metric.per_class())
        check_shown(table)
        expect(table.count("\n") == 2 + len(self.classes), "the table has other lines than classes")
        facts = {"images": count, "images_in_split": count, "score_threshold": 0.05}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            write_report(self.out, loaded, metric.found_detections, facts, self.data / "images")
        written = json.loads((self.out / "report.json").read_text(encoding="utf-8"))
        expect(sorted(row["name"] for row in written["classes"]) == sorted(self.classes), "report.json: other classes")
        check_csv(self.out / "classes.csv", len(self.classes), (0,))
        check_csv(self.out / "thresholds.csv", 2 * (len(self.classes) + 1), (1,))
        check_page(self.out / "index.html")
        self._check_inside(5)

    def _check_inside(self, files: int) -> None:
        """Nothing was written but so many files below the output directory."""
        there = [os.path.join(folder, name) for folder, _, names in os.walk(self.out) for name in names]
        expect(len(there) == files, f"{len(there)} files instead of {files}: {there}")


def _values(file: Path) -> list[Any]:
    events = (Event.FromString(raw) for raw in RawEventFileLoader(str(file)).Load())
    return [value for event in events for value in event.summary.value]


def _is_file(path: Path) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:  # a NUL, or half a character
        return False
