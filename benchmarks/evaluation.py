"""COCO mAP of a large evaluation, ours beside pycocotools: seconds, peak memory, and that all twelve numbers agree.

    python benchmarks/evaluation.py [--images 5000] [--detections 128] [--json PATH]

Each side runs in a fresh process, from the same arrays of detections (a .npz file) and the same annotation file.
"""

import argparse
import contextlib
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from side_by_side import report, smaller_is_better

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

BATCH = 32  # images per update of the metric


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


def ours(directory: Path) -> list[float]:
    import torch

    from coco.annotations import CocoAnnotations
    from evaluation.metric import CocoMeanAveragePrecision

    found = {name: torch.from_numpy(array) for name, array in np.load(directory / "detections.npz").items()}
    metric = CocoMeanAveragePrecision(CocoAnnotations.load(directory / "truth.json"))
    start = time.perf_counter()
    for first in range(0, len(found["boxes"]), BATCH):
        rows = slice(first, first + BATCH)
        ids = range(first + 1, first + 1 + len(found["boxes"][rows]))
        metric.update(ids, found["boxes"][rows], found["scores"][rows], found["labels"][rows])
    numbers = list(metric.compute().values())
    return [time.perf_counter() - start, *numbers]


def pycocotools(directory: Path) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found = dict(np.load(directory / "detections.npz"))
    truth = COCO(str(directory / "truth.json"))
    start = time.perf_counter()
    images, detections = found["labels"].shape
    boxes = found["boxes"].astype(np.float64).reshape(-1, 4)
    boxes[:, 2:] -= boxes[:, :2]
    ids = np.repeat(np.arange(1, images + 1), detections)
    rows = np.column_stack((ids, boxes, found["scores"].ravel(), found["labels"].ravel()))
    evaluator = COCOeval(truth, truth.loadRes(rows), "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return [time.perf_counter() - start, *evaluator.stats.tolist()]


def in_process_of_its_own(side: str, directory: Path) -> tuple[float, float, list[float]]:
    """(seconds, peak megabytes on top of the imports, the twelve numbers)."""
    command = [sys.executable, __file__, "--side", side, "--directory", str(directory)]
    seconds, *numbers, megabytes = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
    )
    return seconds, megabytes, numbers


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=128)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=("ours", "pycocotools"), help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        with contextlib.redirect_stdout(io.StringIO()):
            evaluate = globals()[args.side]
            with tempfile.TemporaryDirectory() as tiny:  # brings in the imports, whose memory is not the evaluation's
                write_case(Path(tiny), 2, 2)
                evaluate(Path(tiny))
            before = peak_megabytes()
            outcome = evaluate(args.directory)
        print(json.dumps([*outcome, peak_megabytes() - before]))
        return
    with tempfile.TemporaryDirectory() as directory:
        write_case(Path(directory), args.images, args.detections)
        mine, peer = (in_process_of_its_own(side, Path(directory)) for side in ("ours", "pycocotools"))
    difference = max(abs(a - b) for a, b in zip(mine[2], peer[2], strict=True))
    if difference > 1e-9:
        raise SystemExit(f"the twelve numbers differ by up to {difference}")
    print(f"twelve numbers: largest difference {difference:.1e}; mAP {mine[2][0]:.4f}")
    name = f"{args.images} images x {args.detections} detections"
    report(
        [
            smaller_is_better(f"{name}: pycocotools", mine[0], peer[0], "s"),
            smaller_is_better(f"{name}: memory on top of imports", mine[1], peer[1], "MB"),
        ],
        args.json,
    )


if __name__ == "__main__":
    main()
