"""Data sets of a million images and ten million boxes: what starts cost in time, memory and calls of the file system.

    python benchmarks/large_sets.py --images 100000 1000000
    python benchmarks/large_sets.py --images 200000 --images_per_folder 200000    # all in one folder

Seconds are of processor time. Every row is measured in an interpreter of its own; peaks include that and its imports.
The pictures are links to one of 640x480, and the validation part is 5000 images of its own. Files and json are in the
page cache. Linux only (/proc).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
from annotations import in_fresh_interpreter, kilobytes, load, worker_memory, write_instances
from PIL import Image

BOXES_PER_IMAGE = 10
VAL_IMAGES = 5000
MOST_LINKS = 50_000  # to one file; ext4 allows 65,000
COUNTED = ("stat", "lstat", "listdir", "scandir", "open")
# Runs a command and says its peak; what is imported late, in functions, would be in the peaks of the others.
TIMED = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
TIMED += "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_utime + used.ru_stime, used.ru_maxrss)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--images_per_folder", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where the data set is written, 2 GB for a million images")
    parser.add_argument("--json", type=Path, help="write the table here")
    options = parser.parse_args()
    table = []
    for images in options.images:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            root = write_data_set(Path(folder), images, options.images_per_folder)
            rows = {"images": images, **measure(root)}
        table.append(rows)
        print(*(f"{name}: {value:,.4g}" for name, value in rows.items()), "", sep="\n", flush=True)
    if options.json:
        options.json.write_text(json.dumps(table, indent=1) + "\n")


def measure(root: Path) -> dict[str, float]:
    path = root / "annotations" / "instances_train2017.json"
    rows = {"json, MB": path.stat().st_size / 1e6}
    for which in ("first", "second"):
        rows[f"{which} load, s"], rows[f"{which} load, peak MB"] = in_fresh_interpreter(load_cost, path)
    for method in ("fork", "spawn"):
        rows[f"own memory of a worker, {method}, MB"] = in_fresh_interpreter(worker_memory, "ours", path, method)
    rows |= {**in_fresh_interpreter(sampler_start, path), **in_fresh_interpreter(start_of_a_run, root)}
    command = [sys.executable, "-m", "coco.check", str(root), "--fast", "--output", str(root / "check.png")]
    run = subprocess.run([sys.executable, "-c", TIMED, *command], capture_output=True, text=True, check=True)
    seconds, kilobytes_used = run.stdout.splitlines()[-1].split()
    return {**rows, "coco.check --fast, s": float(seconds), "coco.check --fast, peak MB": int(kilobytes_used) / 1e3}


def load_cost(path: Path) -> tuple[float, float]:
    began = time.process_time()
    load("ours", path)
    return time.process_time() - began, kilobytes("/proc/self/status", "VmHWM:") / 1e3


def sampler_start(path: Path) -> dict[str, float]:
    """From a loader's wish for an epoch to its first sample, in one of one process, and what that takes."""
    from coco.sampler import TrainingSampler

    annotations = load("ours", path)
    sampler = TrainingSampler(annotations.trainable, 32, 0)
    next(iter(sampler))  # what the first call alone costs: imports of the random generators
    tracemalloc.start()
    began = time.process_time()
    samples = iter(sampler)
    next(samples)
    return {
        "sampler, first sample of an epoch, s": time.process_time() - began,
        "sampler, peak MB": tracemalloc.get_traced_memory()[1] / 1e6,
    }


def start_of_a_run(root: Path) -> dict[str, float]:
    """Everything that the data cost before the first batch, the cache being there, and its calls of the file system."""
    from datamodule import COCODataModule

    calls = dict.fromkeys(COUNTED, 0)

    def counted(name: str, call):
        def counting(*args, **options):
            calls[name] += 1
            return call(*args, **options)

        return counting

    for name in COUNTED:
        setattr(os, name, counted(name, getattr(os, name)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.process_time()
        data = COCODataModule(str(root), num_workers=0)
        data.check()
        data.setup("fit")
        iter(data.train_dataloader().sampler)
        data.samples_from()
        took = time.process_time() - began
    return {
        "start of a run, s": took,
        "start of a run, peak MB": kilobytes("/proc/self/status", "VmHWM:") / 1e3,
        **{f"start of a run, os.{name}": calls[name] for name in COUNTED},
    }


def write_data_set(root: Path, images: int, images_per_folder: int) -> Path:
    (root / "annotations").mkdir()
    train = root / "annotations" / "instances_train2017.json"
    write_instances(train, images, 0, BOXES_PER_IMAGE, images_per_folder)
    write_instances(root / "annotations" / "instances_val2017.json", VAL_IMAGES, 0, BOXES_PER_IMAGE)
    for split in ("train", "val"):
        annotations = load("ours", root / "annotations" / f"instances_{split}2017.json", cache=False)
        link_pictures(root / f"{split}2017", [annotations.file_name(i) for i in range(len(annotations))])
    return root


def link_pictures(folder: Path, names: list[str]) -> None:
    picture = None
    for number, name in enumerate(names):
        path = folder / name
        if number % 10_000 == 0 or not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
        if number % MOST_LINKS == 0:
            pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
            Image.fromarray(pixels).save(path)
            picture = path
        else:
            os.link(picture, path)


if __name__ == "__main__":
    main()
