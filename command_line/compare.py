"""Is detector B better than A? Compares two checkpoints, reports or files of COCO results on the same images.

Each of A and B is a checkpoint of ours, a .pt file of the published recipe, a directory that `evaluate.py --report`
wrote, or a JSON file of COCO results. docs/compare.md says how the intervals come about and what they tell.
"""

import argparse
import csv
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from checkpoints.fetching import FETCHED, local_file
from coco.annotations import CocoAnnotations
from coco.names import cell, plain
from coco.splits import DataError, check_same_classes
from coco.whole_files import replacing, write_text
from command_line.shared import with_home, with_selection_of
from datamodule import COCODataModule
from evaluation.changed_images import Changed, draw_changed_images
from evaluation.comparison import Comparison, Difference, class_table, compare, number_table, sentence
from evaluation.detections import Detections
from evaluation.result_files import read_results
from prediction.devices import PRECISIONS, check_score_threshold, device_flags, fast_precision
from prediction.exported import open_detector

TABLE = ("name", "a", "b", "difference", "low", "high", "beyond_noise")


def main(args: Sequence[str] | None = None) -> None:
    """Parses the arguments (those of the process by default), prints the comparison and writes what was asked for."""
    flags = _parser().parse_args(with_home(sys.argv[1:] if args is None else args))
    trainer_flags = _check(flags)
    sources = [_results_file(path) for path in (flags.a, flags.b)]
    data = _data(flags, pictures=bool(flags.output) or None in sources)
    annotations = data.val_annotations
    limits = [flags.limit, *(_images_of_report(source, annotations) for source in sources)]
    data.val_limit = min((limit for limit in limits if limit is not None), default=None)
    image_ids = annotations.image_ids[: data.val_limit]
    a, b = (
        _detect(path, data, trainer_flags) if source is None else read_results(source, annotations, image_ids)
        for path, source in zip((flags.a, flags.b), sources, strict=True)
    )
    found = compare(annotations, a, b, flags.resamples, flags.seed)
    print(f"\nA: {plain(str(flags.a))}\nB: {plain(str(flags.b))}")
    print(f"{found.images} of {len(annotations)} images of {plain(str(annotations.path))}, {found.resamples} resamples")
    print(number_table(found), class_table(found), "", sep="\n")
    if flags.output:
        changed = draw_changed_images(
            flags.output / "changed", annotations, (a, b), data.val_directory, flags.score_threshold
        )
        _write(flags, annotations, found, changed)
        where = f"images that changed most: {plain(str(flags.output / 'changed'))}" if changed else "images changed"
        print(f"{len(changed)} {where}\n")
    if found.numbers[0].beyond_noise:
        print("This is about these two detectors: trained with another seed, one may differ as much (docs/compare.md).")
    print(sentence(found))


def _data(flags: argparse.Namespace, pictures: bool) -> COCODataModule:
    """The data set, checked; pictures only where they are needed."""
    if flags.data_root is None and (flags.annotations is None or (pictures and flags.images is None)):
        raise MisconfigurationException(
            "--data_root DIR is missing, or --annotations FILE and --images DIR in its place"
        )
    given = {"val_annotations": flags.annotations, "val_images": flags.images}
    places: dict[str, Any] = {key: str(path.absolute()) for key, path in given.items() if path is not None}
    checkpoints = [path for path in (flags.a, flags.b) if _results_file(path) is None]
    settings = {"data_root": flags.data_root or ".", **places}
    if checkpoints:
        settings = with_selection_of(checkpoints[0], settings)
    data = COCODataModule(**settings, val_batch_size=flags.batch_size, num_workers=flags.num_workers)
    if pictures:
        data.check(("val",))
    return data


def _results_file(path: Path) -> Path | None:
    """The COCO results in what was named; None for a checkpoint, which has to be run."""
    if path.is_dir():
        results = path / "detections.json"
        if not (results.is_file() and (path / "report.json").is_file()):
            raise MisconfigurationException(
                f"{path}: a directory without report.json and detections.json. Expected a checkpoint, COCO results "
                "(.json), or a directory that `evaluate.py --report` wrote"
            )
        return results
    if path.name == "report.json":
        return _results_file(path.parent)
    return path if path.suffix == ".json" else None


def _images_of_report(results: Path | None, annotations: CocoAnnotations) -> int | None:
    """How many images a report beside the results is of: the first ones by id (`evaluate.py --limit`)."""
    if results is None or results.name != "detections.json":
        return None
    report = results.parent / "report.json"
    if not report.is_file():
        return None
    try:
        facts = json.loads(report.read_text(encoding="utf-8"))
        images, in_split = int(facts["images"]), int(facts["images_in_split"])
        categories = [row["category_id"] for row in facts["classes"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise MisconfigurationException(f"{report}: no report of an evaluation ({error!r})") from None
    if in_split != len(annotations) or sorted(categories) != list(annotations.category_ids):
        raise DataError(
            f"{report}: is of {in_split} images and {len(categories)} classes, but {annotations.path} has "
            f"{len(annotations)} and {len(annotations.category_ids)}. Give the data that was evaluated"
        )
    return images


def _detect(path: Path, data: COCODataModule, trainer_flags: dict[str, Any]) -> Detections:
    module = open_detector(path, trainer_flags["accelerator"], trainer_flags["precision"])
    check_same_classes(module.class_names, module.category_ids, data.val_annotations)
    data.tiling = module.tiling  # each as its own run was
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary"), False)
    trainer = pl.Trainer(**trainer_flags, **quiet)
    if trainer.world_size != 1:
        raise MisconfigurationException(
            f"--devices {trainer_flags['devices']}: compare runs on one device; give 1, or an ordinal with a comma "
            "such as '2,'. Or compare two reports, which `evaluate.py` makes on any number"
        )
    trainer.validate(module, data, verbose=False)
    assert module.metric is not None  # made when validation starts
    return module.metric.found_detections


def _check(flags: argparse.Namespace) -> dict[str, Any]:
    """The checks that need no data; returns the Trainer's flags."""
    check_score_threshold(flags.score_threshold)
    if flags.resamples < 100:
        raise MisconfigurationException(f"--resamples {flags.resamples}: expected at least 100, for 95 % intervals")
    if flags.limit is not None and flags.limit < 1:
        raise MisconfigurationException(f"--limit {flags.limit}: expected a number of images, at least 1")
    if flags.output is not None and flags.output.exists() and not flags.output.is_dir():
        raise MisconfigurationException(f"--output {flags.output}: expected a directory, but this is a file")
    precision = fast_precision(flags.accelerator) if flags.precision == "auto" else flags.precision
    asked = {"accelerator": flags.accelerator, "devices": flags.devices, "precision": precision}
    trainer_flags = device_flags({**asked, "num_nodes": 1, "strategy": "auto", "plugins": None})
    flags.a, flags.b = local_file(flags.a), local_file(flags.b)
    for name, path in (("A", flags.a), ("B", flags.b)):
        if not path.exists():
            raise MisconfigurationException(f"{name}: {path} is not there")
    return trainer_flags


def _write(
    flags: argparse.Namespace, annotations: CocoAnnotations, found: Comparison, changed: Sequence[Changed]
) -> None:
    """comparison.json, with everything (null where there is nothing to measure), and classes.csv."""
    classes = [
        {"category_id": category, **_row(row)}
        for category, row in zip(annotations.category_ids, found.classes, strict=True)
    ]
    whole = {
        **{"a": str(flags.a), "b": str(flags.b), "annotations": str(annotations.path)},
        **{"images": found.images, "resamples": found.resamples, "seed": flags.seed},
        **{"sentence": sentence(found), "numbers": [_row(row) for row in found.numbers], "classes": classes},
        **{"changed_images": [each._asdict() for each in changed]},
    }
    write_text(flags.output / "comparison.json", json.dumps(whole, indent=1))
    with replacing(flags.output / "classes.csv", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("category_id", *TABLE))
        writer.writeheader()
        writer.writerows({key: cell("" if value is None else value) for key, value in row.items()} for row in classes)


def _row(row: Difference) -> dict[str, Any]:
    values = {**asdict(row), "difference": row.b - row.a, "beyond_noise": row.beyond_noise}
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in ((key, values[key]) for key in TABLE)
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssd300 compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("a", type=Path, metavar="A", help=f"checkpoint, report directory, or COCO results; {FETCHED}")
    add("b", type=Path, metavar="B", help="the same")
    add("--data_root", metavar="DIR", help="the data set, or its yaml: its validation part")
    add("--annotations", type=Path, metavar="FILE", help="other annotations")
    add("--images", type=Path, metavar="DIR", help="other pictures; two results need none, but for --output")
    add("--limit", type=int, metavar="N", help="the first N images by id")
    add(
        "--output", type=Path, metavar="DIR", help="write comparison.json, classes.csv and the images that changed most"
    )
    add("--resamples", type=int, default=1000, metavar="N", help="of the images, for the intervals (default: 1000)")
    add("--seed", type=int, default=0, help="of the resamples (default: 0)")
    threshold = "lowest score of a detection in the pictures (default: 0.3); the numbers use all"
    add("--score_threshold", type=float, default=0.3, metavar="S", help=threshold)
    add("--accelerator", default="auto", help="for checkpoints: cpu, cuda, mlu, or auto: the best there is (default)")
    add("--devices", default="1", metavar="N", help="one device: 1, or an ordinal with a comma: 2,")
    add("--precision", choices=PRECISIONS, help="default: 32-true; auto: bf16-mixed where the device has it")
    add("--batch_size", type=int, default=8, metavar="N", help="pictures at a time on the device (default: 8)")
    add("--num_workers", type=int, metavar="N", help="loader processes (default: the cores this process may use)")
    return parser
