"""COCO mAP of a large evaluation, ours beside its peers: seconds, the wait at an epoch's end, memory, the same numbers.

    python benchmarks/evaluation.py [--images 5000] [--detections 128] [--without pycocotools] [--json PATH]

Each side runs in a fresh process, from one annotation file and the same arrays of detections, which are not counted
as its memory. Ours gets them a batch at a time, as in validation. faster-coco-eval takes part where it is installed.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from side_by_side import report, smaller_is_better

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

BATCH = 32  # images per update of the metric
ROUNDS = 3  # the median of these; pycocotools, which takes minutes, runs once

Found = dict[str, np.ndarray]  # boxes float32 [n, D, 4] xyxy, scores float32 [n, D], labels int64 [n, D]


class Outcome(NamedTuple):
    """What one side took."""

    seconds: float
    wait: float  # s, the part of it after the last batch
    megabytes: float  # peak on top of imports and detections
    numbers: list[float]  # COCO's twelve


def write_case(directory: Path, images: int, detections: int, classes: int = 80) -> None:
    """Annotations like COCO's (7 boxes an image, 1 % crowds) and detections, half near a box, half anywhere."""
    rng = np.random.default_rng(0)
    truth = {
        "images": [{"id": i + 1, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(images)],
        "categories": [{"id": c + 1, "name": f"class {c}"} for c in range(classes)],
        "annotations": [],
    }
    boxes = np.zeros((images, detections, 4), np.float32)
    labels = rng.integers(1, classes + 1, (images, detections))
    scores = np.sort(rng.random((images, detections), dtype=np.float32), axis=1)[:, ::-1]
    for image in range(images):
        count = rng.poisson(7)
        low, size = rng.uniform(0, (400, 300), (count, 2)), np.exp(rng.uniform(2, 5.1, (count, 2)))
        own = rng.integers(1, classes + 1, count)
        for box, label in zip(np.concatenate((low, size), axis=1), own, strict=True):
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image + 1,
                    "category_id": int(label),
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3] * 0.7),
                    "iscrowd": int(rng.random() < 0.01),
                }
            )
        corners = rng.uniform(0, (400, 300), (detections, 2))
        boxes[image] = np.concatenate((corners, corners + np.exp(rng.uniform(2, 5.1, (detections, 2)))), axis=1)
        if count:
            near, which = slice(0, detections // 2), rng.integers(0, count, detections // 2)
            exact = np.concatenate((low, low + size), axis=1)[which]
            boxes[image, near] = exact + rng.normal(0, 0.1, exact.shape) * np.tile(size[which], 2)
            labels[image, near] = own[which]
    (directory / "truth.json").write_text(json.dumps(truth))
    np.savez(directory / "detections.npz", boxes=boxes, scores=scores, labels=labels)


def ours(truth: Path, found: Found) -> tuple[float, float, list[float]]:
    """Seconds, those after the last batch, and the twelve numbers."""
    import torch

    from coco.annotations import CocoAnnotations
    from evaluation.metric import CocoMeanAveragePrecision

    metric = CocoMeanAveragePrecision(CocoAnnotations.load(truth))
    start = time.perf_counter()
    for first in range(0, len(found["labels"]), BATCH):
        rows = slice(first, first + BATCH)
        ids = range(first + 1, first + 1 + len(found["labels"][rows]))
        metric.update(ids, *(torch.from_numpy(found[name][rows]) for name in ("boxes", "scores", "labels")))
    last = time.perf_counter()
    numbers = list(metric.compute().values())
    end = time.perf_counter()
    return end - start, end - last, numbers


def peer(coco: Callable[[str], Any], evaluation: type) -> Callable[[Path, Found], tuple[float, float, list[float]]]:
    """The same for a COCO and a COCOeval, which take all detections at once."""

    def run(truth: Path, found: Found) -> tuple[float, float, list[float]]:
        annotations = coco(str(truth))
        start = time.perf_counter()
        images, detections = found["labels"].shape
        boxes = found["boxes"].astype(np.float64).reshape(-1, 4)
        boxes[:, 2:] -= boxes[:, :2]
        ids = np.repeat(np.arange(1, images + 1), detections)
        rows = np.column_stack((ids, boxes, found["scores"].ravel(), found["labels"].ravel()))
        evaluator = evaluation(annotations, annotations.loadRes(rows), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
        seconds = time.perf_counter() - start
        return seconds, seconds, [float(number) for number in evaluator.stats[:12]]

    return run


def side(name: str) -> Callable[[Path, Found], tuple[float, float, list[float]]]:
    if name == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        return peer(COCO, COCOeval)
    if name == "faster_coco_eval":
        from faster_coco_eval import COCO, COCOeval_faster

        return peer(COCO, COCOeval_faster)
    if name == "hotcoco":
        import hotcoco

        return peer(hotcoco.COCO, hotcoco.COCOeval)
    return ours


PEERS = ("pycocotools", "faster_coco_eval", "hotcoco")


def in_process_of_its_own(name: str, directory: Path) -> Outcome:
    command = [sys.executable, __file__, "--side", name, "--directory", str(directory)]
    return Outcome(*json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def run_side(name: str, directory: Path) -> Outcome:
    evaluate = side(name)
    with tempfile.TemporaryDirectory() as tiny:  # brings in the imports, whose memory is not the evaluation's
        write_case(Path(tiny), 2, 2)
        evaluate(Path(tiny) / "truth.json", dict(np.load(Path(tiny) / "detections.npz")))
    found = dict(np.load(directory / "detections.npz"))
    before = peak_megabytes()
    seconds, wait, numbers = evaluate(directory / "truth.json", found)
    return Outcome(seconds, wait, peak_megabytes() - before, numbers)


def medians(outcomes: list[Outcome]) -> Outcome:
    first = outcomes[0]
    return Outcome(*(statistics.median(each[i] for each in outcomes) for i in range(3)), first.numbers)


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=128)
    parser.add_argument("--without", nargs="+", choices=PEERS, default=(), help="leave out these peers")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=("ours", *PEERS), help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        with contextlib.redirect_stdout(io.StringIO()):
            outcome = run_side(args.side, args.directory)
        print(json.dumps(outcome))
        return
    peers = [name for name in PEERS if name not in args.without and importlib.util.find_spec(name)]
    outcomes: dict[str, list[Outcome]] = {name: [] for name in ("ours", *peers)}
    with tempfile.TemporaryDirectory() as directory:
        write_case(Path(directory), args.images, args.detections)
        for turn in range(ROUNDS):  # in turns, so that a busy machine slows them alike
            for name, own in outcomes.items():
                if turn == 0 or name != "pycocotools":
                    own.append(in_process_of_its_own(name, Path(directory)))
    found = {name: medians(own) for name, own in outcomes.items()}
    mine, rows, case = found["ours"], [], f"{args.images} images x {args.detections}"
    for name in peers:
        theirs = found[name]
        difference = max(abs(a - b) for a, b in zip(mine.numbers, theirs.numbers, strict=True))
        if difference > 1e-12:
            raise SystemExit(f"the twelve numbers differ from those of {name} by up to {difference}")
        print(f"twelve numbers: largest difference from {name} {difference:.1e}")
        rows += [
            smaller_is_better(f"{case}: {name}", mine.seconds, theirs.seconds, "s"),
            smaller_is_better(f"{case}: {name}, wait at the end", mine.wait, theirs.wait, "s"),
            smaller_is_better(f"{case}: {name}, memory on top of imports", mine.megabytes, theirs.megabytes, "MB"),
        ]
    report(rows, args.json)


if __name__ == "__main__":
    main()
