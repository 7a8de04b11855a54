"""Small objects in large pictures: mAP and time per picture, whole and tiled, and sahi with the same network.

    python benchmarks/tiles.py DATA --write [--train 8] [--val 4]
    python train.py --config configs/small_data.yaml --data_root DATA --data.tiles 600 ...
    python benchmarks/tiles.py DATA --ckpt_path CKPT [--tiles 600] [--without sahi]

Pictures are 4000x3000, made of pictures of the built-in sample, shrunk so that their objects are 20 to 60 pixels long,
on a background without any. Every picture goes through all candidates in turn, from the JPEG to detections, in one
process. sahi does as its documentation has it (slices and the whole picture, GREEDYNMM by IOS), and with plain NMS.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from coco.annotations import CocoAnnotations
from coco.sample_painting import background
from coco.sample_pictures import draw_picture
from coco.sample_shapes import CATEGORIES
from coco.whole_files import replacing, write_text
from evaluation.metric import CocoMeanAveragePrecision
from prediction import Detections, Detector

SIZE, CELL, FILLED = (4000, 3000), 500, 22  # px; px, of what holds one picture of the sample; cells with one, of 48
SHORTEST, LONGEST = 20, 60  # px, of the longer side of an object's box
SCORE_THRESHOLD = 0.05
MOST = 200  # detections of a picture


def write_data(directory: Path, train: int, val: int) -> None:
    for stream, (part, count) in enumerate({"train2017": train, "val2017": val}.items()):
        (directory / part).mkdir(parents=True, exist_ok=True)
        (directory / "annotations").mkdir(exist_ok=True)
        images, annotations = [], []
        for i in range(count):
            picture, boxes = draw_large(np.random.default_rng([7, stream, i]))
            image = {"id": i + 1, "file_name": f"{i + 1:04d}.jpg", "width": SIZE[0], "height": SIZE[1]}
            with replacing(directory / part / image["file_name"], durable=False) as file:
                picture.save(file, format="JPEG", quality=90)
            images.append(image)
            annotations += [{"id": len(annotations) + k, "image_id": i + 1, **box} for k, box in enumerate(boxes, 1)]
        categories = [{"id": i, "name": name} for i, name in CATEGORIES.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_text(directory / "annotations" / f"instances_{part}.json", json.dumps(content))
        print(f"{part}: {count} pictures, {len(annotations)} objects")


def draw_large(rng: np.random.Generator) -> tuple[Image.Image, list[dict[str, Any]]]:
    picture = background(rng, 500, 375).resize(SIZE, Image.Resampling.BILINEAR)
    columns, rows = SIZE[0] // CELL, SIZE[1] // CELL
    boxes = []
    for cell in rng.permutation(columns * rows)[:FILLED].tolist():
        part, objects, scale = draw_shrunk(rng)
        room = np.array([CELL, CELL]) - part.size
        corner = np.array([cell % columns, cell // columns]) * CELL + rng.integers(0, room + 1)
        picture.paste(part, tuple(corner.tolist()))
        for each in objects:
            x, y, width, height = (np.array(each["bbox"]) * scale + [*corner, 0, 0]).tolist()
            boxes.append({"category_id": each["category_id"], "bbox": [x, y, width, height], "iscrowd": 0})
    return picture, boxes


def draw_shrunk(rng: np.random.Generator) -> tuple[Image.Image, list[dict[str, Any]], float]:
    """A picture of the sample whose objects have the right size at some scale, at such a scale."""
    while True:
        picture, objects = draw_picture(rng)
        sides = [max(each["bbox"][2:]) for each in objects]
        if objects and not any(each["iscrowd"] for each in objects) and max(sides) / min(sides) <= LONGEST / SHORTEST:
            break
    scale = rng.uniform(SHORTEST / min(sides), min(LONGEST / max(sides), 1.0))
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0), objects, scale


def in_sahi(detector: Detector, tiles: int, overlap: float, batch_size: int) -> dict[str, Callable[[Path], Detections]]:
    """The same network behind sahi's interface, with its two ways to merge."""
    from sahi.models.base import DetectionModel
    from sahi.predict import get_sliced_prediction
    from sahi.prediction import ObjectPrediction

    class Ours(DetectionModel):
        def set_model(self, model: Any, **_: Any) -> None:
            self.model = model

        def perform_inference(self, image: np.ndarray) -> None:
            self._original_predictions = self.model([image], batch_size)

        def perform_batch_inference(self, images: list[np.ndarray]) -> None:
            self._original_predictions = self.model(images, batch_size)

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list: Any = ((0, 0),), full_shape_list: Any = None
        ) -> None:
            several = isinstance(shift_amount_list[0], (list, tuple))
            shifts = shift_amount_list if several else [shift_amount_list]
            shapes = full_shape_list if several or full_shape_list is None else [full_shape_list]
            self._object_prediction_list_per_image = [
                [
                    ObjectPrediction(
                        bbox=box,
                        category_id=int(label),
                        category_name=name,
                        score=float(score),
                        shift_amount=list(shifts[i]),
                        full_shape=None if shapes is None else list(shapes[i]),
                    )
                    for box, label, name, score in zip(
                        found.boxes.tolist(), found.labels, found.class_names, found.scores, strict=True
                    )
                ]
                for i, found in enumerate(self._original_predictions)
            ]

    model = Ours(model=detector, confidence_threshold=SCORE_THRESHOLD, device="cpu")

    def find(path: Path, how: str, metric: str) -> Detections:
        found = get_sliced_prediction(
            str(path),
            model,
            tiles,
            tiles,
            overlap,
            overlap,
            postprocess_type=how,
            postprocess_match_metric=metric,
            force_postprocess_type=True,
            batch_size=batch_size,
            verbose=0,
        ).object_prediction_list
        found = sorted(found, key=lambda each: -each.score.value)[:MOST]
        boxes = np.array([each.bbox.to_xyxy() for each in found], np.float32).reshape(-1, 4)
        scores = np.array([each.score.value for each in found], np.float32)
        return Detections(boxes, scores, np.array([each.category.id for each in found], np.int64), (), (), SIZE)

    return {
        "sahi, GREEDYNMM by IOS (its default)": partial(find, how="GREEDYNMM", metric="IOS"),
        "sahi, NMS by IOU": partial(find, how="NMS", metric="IOU"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="directory of the pictures")
    parser.add_argument("--write", action="store_true", help="write them")
    parser.add_argument("--train", type=int, default=8, help="pictures to train on")
    parser.add_argument("--val", type=int, default=4, help="pictures to evaluate")
    parser.add_argument("--ckpt_path", type=Path, help="a checkpoint that was trained on them")
    parser.add_argument("--tiles", type=int, default=600)
    parser.add_argument("--tile_overlap", type=float, default=0.2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--without", nargs="*", default=[], choices=("sahi",))
    args = parser.parse_args()
    if args.write:
        write_data(args.data, args.train, args.val)
    if args.ckpt_path is None:
        return
    common = {"accelerator": "cpu", "precision": args.precision, "score_threshold": SCORE_THRESHOLD}
    whole = Detector(args.ckpt_path, **common, tiles=0)
    tiled = Detector(args.ckpt_path, **common, tiles=args.tiles, tile_overlap=args.tile_overlap)
    candidates: dict[str, Callable[[Path], Detections]] = {
        "whole picture": lambda path: whole(path, args.batch)[0],
        f"tiles {args.tiles} and the whole": lambda path: tiled(path, args.batch)[0],
    }
    if "sahi" not in args.without:
        candidates |= in_sahi(whole, args.tiles, args.tile_overlap, args.batch)
    annotations = CocoAnnotations.load(args.data / "annotations" / "instances_val2017.json")
    paths = [args.data / "val2017" / annotations.file_name(i) for i in range(len(annotations))]
    metrics = {name: CocoMeanAveragePrecision(annotations) for name in candidates}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for image_id, path in zip(annotations.image_ids.tolist(), paths, strict=True):
        for name, find in candidates.items():
            start = time.perf_counter()
            found = find(path)
            times[name].append(time.perf_counter() - start)
            rows = (torch.from_numpy(each)[None] for each in (found.boxes, found.scores, found.labels))
            metrics[name].update([image_id], *rows)
    print(f"{len(paths)} pictures, {len(annotations.labels)} objects, {torch.get_num_threads()} threads")
    for name, metric in metrics.items():
        numbers = metric.compute()
        print(
            f"{name:<40} mAP {numbers['mAP']:.3f}  mAP_50 {numbers['mAP_50']:.3f}  AR_100 {numbers['AR_100']:.3f}  "
            f"{np.median(times[name]):6.2f} s a picture (median), {min(times[name]):.2f} (least)"
        )


if __name__ == "__main__":
    main()
