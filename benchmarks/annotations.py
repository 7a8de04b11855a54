"""CocoAnnotations beside pycocotools.COCO (json.load and dicts) on a synthetic instances file of COCO train2017's size.

    python benchmarks/annotations.py --json annotations.json
    python benchmarks/annotations.py --images 10000        # quick

Every load runs in a fresh interpreter; its peak is the resident memory's high-water mark, interpreter and imports
included. A worker's memory is what it alone holds (private dirty pages) after one pass over all images, less that of a
worker without annotations. The json is in the page cache for both. Linux only (/proc).
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import random
import sys
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the project is run from its checkout, not installed

from coco.annotations import CocoAnnotations

BOXES_PER_IMAGE = 7.29  # train2017: 860,001 boxes in 118,287 images
SAMPLED_IMAGES = 20_000  # for the time per image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--polygon-points", type=int, default=25, help="per box; 25 gives about COCO's 450 MB")
    parser.add_argument("--json", type=Path, help="write the table here as [{name, ours, peer, unit, ratio}]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances_synthetic.json"
        write_instances(path, options.images, options.polygon_points)
        print(f"{options.images:,} images, {path.stat().st_size / 1e6:,.0f} MB of json", flush=True)
        rows = measure(path)
    print_table(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def measure(path: Path) -> list[dict]:
    in_fresh_interpreter(load_time_and_peak, "ours", path, cache=False)  # brings json and modules into the page cache
    first, first_peak = in_fresh_interpreter(load_time_and_peak, "ours", path)
    second, second_peak = in_fresh_interpreter(load_time_and_peak, "ours", path)
    peer, peer_peak = in_fresh_interpreter(load_time_and_peak, "peer", path)
    rows = [
        row("first load", first, peer, "s"),
        row("second load", second, peer, "s"),  # the peer keeps nothing between starts
        row("peak memory, first load", first_peak, peer_peak, "MB"),
        row("peak memory, second load", second_peak, peer_peak, "MB"),
        row("random access", *both(microseconds_per_image, path), "us/image"),
    ]
    for method in ("fork", "spawn"):
        rows.append(row(f"extra memory per worker, {method}", *both(worker_memory, path, method=method), "MB"))
    return rows


def both(function, path: Path, **options) -> tuple[float, float]:
    return tuple(in_fresh_interpreter(function, kind, path, **options) for kind in ("ours", "peer"))


def row(name: str, ours: float, peer: float, unit: str) -> dict:
    return {"name": name, "ours": ours, "peer": peer, "unit": unit, "ratio": peer / ours if ours > 0 else None}


def print_table(rows: list[dict]) -> None:
    print(f"{'':42}{'ours':>10}{'pycocotools':>12}{'ratio':>10}")
    for entry in rows:
        ratio = f"{entry['ratio']:10.1f}" if entry["ratio"] else f"{'-':>10}"
        name = f"{entry['name']} ({entry['unit']})"
        print(f"{name:42}{entry['ours']:>10.4g}{entry['peer']:>12.4g}{ratio}")


# What is measured, each in a process of its own


def in_fresh_interpreter(function, *args, **options):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args, **options).result()


def load(kind: str, path: Path, cache: bool = True):
    if kind == "ours":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that random boxes stick out of their images
            return CocoAnnotations.load(path, cache=cache)
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def load_time_and_peak(kind: str, path: Path, cache: bool = True) -> tuple[float, float]:
    start = time.perf_counter()
    load(kind, path, cache)
    return time.perf_counter() - start, kilobytes("/proc/self/status", "VmHWM:") / 1e3


def sample_reader(kind: str, annotations):
    """(all image keys, a function from a key to file name, normalised corners and labels)"""
    if kind == "ours":
        return range(len(annotations)), lambda i: (annotations.file_name(i), *annotations.training_boxes(i))
    label_of = {id: label for label, id in enumerate(sorted(annotations.getCatIds()), 1)}

    def read(image_id):
        image = annotations.imgs[image_id]
        found = annotations.loadAnns(annotations.getAnnIds(imgIds=[image_id]))
        boxes = np.array([entry["bbox"] for entry in found], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes /= np.array([image["width"], image["height"]] * 2, np.float32)
        return image["file_name"], boxes, np.array([label_of[entry["category_id"]] for entry in found])

    return sorted(annotations.getImgIds()), read


def microseconds_per_image(kind: str, path: Path) -> float:
    keys, read = sample_reader(kind, load(kind, path))
    keys = random.Random(0).choices(keys, k=SAMPLED_IMAGES)
    start = time.perf_counter()
    for key in keys:
        read(key)
    return (time.perf_counter() - start) / len(keys) * 1e6


def worker_memory(kind: str, path: Path, method: str) -> float:
    without = memory_in_worker(kind, None, method)
    return memory_in_worker(kind, load(kind, path), method) - without


def memory_in_worker(kind: str, annotations, method: str) -> float:
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    worker = context.Process(target=_read_all, args=(kind, annotations, queue))
    worker.start()
    megabytes = queue.get()
    worker.join()
    return megabytes


def _read_all(kind: str, annotations, queue) -> None:
    if annotations is not None:
        keys, read = sample_reader(kind, annotations)
        for key in keys:
            read(key)
    queue.put(kilobytes("/proc/self/smaps_rollup", "Private_Dirty:") / 1e3)


def kilobytes(file: str, key: str) -> float:
    [line] = [line for line in Path(file).read_text().splitlines() if line.startswith(key)]
    return int(line.split()[1]) * 1.024


def write_instances(
    path: Path, images: int, polygon_points: int, boxes_per_image: float = BOXES_PER_IMAGE, folder_of: int | None = None
) -> None:
    """A json with COCO's keys, in its style; seeded; written as it is made.

    Args:
        folder_of: so many images to a folder; all in one by default.
    """
    draw = random.Random(0)
    polygons = [", ".join(f"{draw.uniform(0, 640):.2f}" for _ in range(2 * polygon_points)) for _ in range(200)]
    boxes = [_box(draw) for _ in range(10_000)]
    ids = draw.sample(range(1, 5 * images + 1), images)
    with open(path, "w") as file:
        file.write('{"info": {"year": 2017}, "licenses": [], "images": [')
        for number, id in enumerate(ids):
            file.write(", " * (number > 0) + _image(id, f"{number // folder_of:04d}/" if folder_of else ""))
        file.write('], "annotations": [')
        for number in range(int(images * boxes_per_image)):
            box, polygon, image_id = draw.choice(boxes), draw.choice(polygons), draw.choice(ids)
            file.write(
                f'{", " * (number > 0)}{{"segmentation": [[{polygon}]], {box}, "iscrowd": 0, "image_id": {image_id}, '
                f'"category_id": {number % 90 + 1}, "id": {number + 1}}}'
            )
        categories = [{"supercategory": "thing", "id": id, "name": f"class {id}"} for id in range(1, 91)]
        file.write(f'], "categories": {json.dumps(categories)}}}')


def _image(id: int, folder: str) -> str:
    name = f"{folder}{id:012d}.jpg"
    return (
        f'{{"license": 3, "file_name": "{name}", "coco_url": "http://images.cocodataset.org/train2017/{name}", '
        '"height": 480, "width": 640, "date_captured": "2013-11-14 11:18:45", '
        f'"flickr_url": "http://farm9.staticflickr.com/8186/{id}_4e622c8349_z.jpg", "id": {id}}}'
    )


def _box(draw: random.Random) -> str:
    box = [round(draw.uniform(low, high), 2) for low, high in ((0, 320), (0, 240), (1, 320), (1, 240))]
    return f'"area": {box[2] * box[3] / 2:.4f}, "bbox": {box}'


if __name__ == "__main__":
    main()
