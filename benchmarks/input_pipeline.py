"""The input pipeline beside the published recipe's (by path), DALI's and plain Pillow's, on one pinned core.

    python benchmarks/input_pipeline.py [--images DIR] [--reference DIR] [--rounds N] [--json PATH]

Pictures are 640x480 JPEGs of about 143 KB with 7 boxes each, made from those in DIR or from the built-in sample's. The
sides take turns; a ratio is the median over the rounds, so that a busy machine slows both. Per core means seconds of
processor time, of all threads. DALI (`pip install
nvidia-dali-cuda120`; its CPU part needs no GPU) is left out where it is not installed. Linux only.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from input_peers import (
    dali_pipeline,
    per_image_colour,
    pixels_alone,
    reference_pipeline,
    torchvision_pipeline,
)
from PIL import Image, ImageOps
from recipe import load_utils
from side_by_side import Row, median_ratio, report, rounds, smaller_is_better

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from coco.annotations import CocoAnnotations
from coco.augment import normalise
from coco.dataset import TrainingDataset, collate_training
from coco.sample import write_sample
from coco.transforms import colour_matrices, generator
from datamodule import COCODataModule
from ssd.matching import match
from ssd_module import SSDModule

BYTES, SIZE = 143_000, (640, 480)  # COCO's usual picture, at a good quality
BOXES = 7  # per picture on average, as in COCO's train2017
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a directory of photographs; by default the built-in sample's")
    parser.add_argument("--reference", type=Path, help="checkout of the published recipe")
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    cores = os.sched_getaffinity(0)
    torch.set_num_threads(1)
    utils = load_utils(args.reference) if args.reference else None
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_data(data, args.images, args.pictures)
        os.sched_setaffinity(0, {max(cores)})
        rows = host_part(data, utils, args.rounds) + [colour(args.rounds)]
        os.sched_setaffinity(0, cores)
        rows += [first_batch(data), *loaders(data), worker_memory(data), waiting(data)]
    report(rows, args.json)


def host_part(data: Path, utils, repeats: int) -> list[Row]:
    """Images per second of processor time from files to a batch, and the difference from Pillow's pixels.

    "Whole" is a worker's work, random numbers, boxes and collating included. "Pixels alone" decodes, crops, resizes and
    flips with the same crops given ready, as DALI gets them.
    """
    annotations = CocoAnnotations.load(data / "annotations" / "instances_train2017.json")

    def pictures(decoder: str):
        dataset = TrainingDataset(annotations, data / "train2017", seed=0, decoder=decoder)
        keys = [(0, index) for index in annotations.trainable.tolist()]
        return lambda: collate_training([dataset[key] for key in keys])["images"].permute(0, 2, 3, 1).numpy()

    peers = {
        "published recipe, whole worker": utils and reference_pipeline(utils, data),
        "DALI, CPU, pixels alone": dali_pipeline(annotations, data),
        "Pillow": pictures("pillow"),
        "torchvision decode, same resize": torchvision_pipeline(annotations, data),
    }
    for name in [name for name, peer in peers.items() if not peer]:
        print(f"not measured: {name} (give --reference DIR, or pip install nvidia-dali-cuda120)")
        del peers[name]
    plain, count = peers["Pillow"]().astype(int), len(annotations.trainable)
    for name, path in {"ours": pictures("auto"), **peers}.items():
        made = path()
        if made is not None:
            print(f"mean pixel difference from Pillow: {np.abs(made - plain).mean():.3f} ({name})")
    ours = {"whole": pictures("auto"), "pixels alone": pixels_alone(annotations, data)}
    times = rounds({**ours, **peers}, repeats, time.process_time)
    rate = {name: count / statistics.median(values) for name, values in times.items()}
    return [
        Row(f"{own}: {name}", rate[own], rate[name], "img/s", median_ratio(times, own, name))
        for own in ours
        for name in peers
    ]


def colour(repeats: int) -> Row:
    """Colour and normalisation of a batch on the CPU, beside picture by picture as the recipe does it."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (BATCH, 300, 300, 3), dtype=torch.uint8, generator=random)
    matrices = torch.from_numpy(np.stack([colour_matrices(generator(0, 0, i)) for i in range(BATCH)]))
    pictures = [Image.fromarray(image.numpy()) for image in images]
    calls = {
        "ours": lambda: normalise(images.permute(0, 3, 1, 2), matrices),
        "recipe": lambda: per_image_colour(pictures),
    }
    times = rounds(calls, repeats, time.process_time)
    ours, peer = (1e3 * statistics.median(values) for values in times.values())
    return Row(f"colour, {BATCH} images", ours, peer, "ms", median_ratio(times, "ours", "recipe"))


def loaders(data: Path) -> list[Row]:
    """Images per second of the whole loader over two epochs, on all cores, with the decoder chosen and with Pillow."""
    rows = []
    for workers in (0, 1, 2):
        calls = {}
        for decoder in ("auto", "pillow"):
            loader = _module(data, workers, decoder).train_dataloader()
            calls[decoder] = lambda loader=loader: sum(len(batch["images"]) for _ in range(2) for batch in loader)
        images = calls["auto"]()
        times = rounds(calls, 3)
        rate = {name: images / statistics.median(values) for name, values in times.items()}
        ratio = median_ratio(times, "auto", "pillow")
        rows.append(Row(f"loader, {workers} workers: Pillow", rate["auto"], rate["pillow"], "img/s", ratio))
    return rows


def first_batch(data: Path) -> Row:
    """Seconds from the annotation file to the first batch of two workers: with its index, and (peer) building it."""

    def start() -> float:
        begin = time.perf_counter()
        next(iter(_module(data, 2).train_dataloader()))
        return time.perf_counter() - begin

    for index in (data / "annotations").glob("*.index"):
        shutil.rmtree(index)
    first, second = start(), start()
    return smaller_is_better("time to first batch, 2 workers: second start beside first", second, first, "s")


def worker_memory(data: Path) -> Row:
    """A worker's own memory (private pages) after the first and, as the peer, after the tenth epoch."""
    loader = _module(data, 1).train_dataloader()
    megabytes = []
    for epoch in range(10):
        loader.sampler.set_epoch(epoch)
        for _ in loader:
            pass
        (worker,) = loader._iterator._workers
        lines = Path(f"/proc/{worker.pid}/smaps_rollup").read_text().splitlines()
        megabytes += [int(line.split()[1]) / 1e3 for line in lines if line.startswith("Private_Dirty")]
    return smaller_is_better("worker's memory: 1st epoch beside 10th", megabytes[0], megabytes[-1], "MB")


def waiting(data: Path) -> Row:
    """Share of training steps (ResNet-18, batch 8, fp32, this CPU) spent waiting for one worker; the peer has none."""
    shares = []
    for workers in (1, 0):
        module = SSDModule("resnet18", 4)
        optimiser = torch.optim.SGD(module.parameters(), lr=1e-3)
        data_module = _module(data, workers, batch_size=8)
        waited, start = 0.0, 0.0
        loader = data_module.train_dataloader()
        batches = (batch for _ in range(7) for batch in loader)
        for step in range(7):
            begin = time.perf_counter()
            batch = data_module.on_after_batch_transfer(next(batches), 0)
            arrived = time.perf_counter()
            if step == 1:  # the first batch is the start, measured above
                waited, start = 0.0, begin
            waited += arrived - begin
            targets = match(batch["boxes"], batch["labels"], module.default_boxes)
            optimiser.zero_grad()
            sum(module.loss(*module(batch["images"]), *targets)).backward()
            optimiser.step()
        shares.append(100 * waited / (time.perf_counter() - start))
    return smaller_is_better("training step waits for data: 1 worker beside none", *shares, "%")


def write_data(data: Path, photographs: Path | None, count: int) -> None:
    """A data set of `count` pictures of SIZE and about BYTES each, with random boxes; seeded."""
    grain = 0.0
    if photographs is None:
        photographs, grain = data / "sample" / "train2017", 6.0  # drawn pictures lack the detail of photographs
        write_sample(data / "sample", train_images=count, val_images=1)
    sources = sorted(photographs.glob("*.jpg"))
    random = np.random.default_rng(0)
    (data / "train2017").mkdir()
    (data / "annotations").mkdir()
    images, annotations = [], []
    for i in range(count):
        picture = ImageOps.fit(Image.open(sources[i % len(sources)]).convert("RGB"), SIZE)
        if i // len(sources) % 2:
            picture = ImageOps.mirror(picture)
        noise = random.normal(0, grain, (SIZE[1], SIZE[0], 1))
        picture = Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))
        path = data / "train2017" / f"{i:012d}.jpg"
        for quality in range(40, 101):
            picture.save(path, quality=quality)
            if path.stat().st_size >= 0.95 * BYTES:
                break
        images.append({"id": i, "file_name": path.name, "width": SIZE[0], "height": SIZE[1]})
        for _ in range(random.integers(1, 2 * BOXES)):
            box = random.random(4) * [0.6, 0.6, 0.4, 0.4] * (SIZE * 2)
            annotations.append({"id": len(annotations), "image_id": i, "category_id": 1, "bbox": box.tolist()})
    sizes = [path.stat().st_size for path in (data / "train2017").iterdir()]
    print(f"{count} pictures of {SIZE[0]}x{SIZE[1]}, {np.mean(sizes) / 1e3:.0f} KB on average")
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (data / "annotations" / "instances_train2017.json").write_text(json.dumps(content))


def _module(data: Path, workers: int, decoder: str = "auto", batch_size: int = BATCH) -> COCODataModule:
    return COCODataModule(str(data), num_workers=workers, decoder=decoder, batch_size=batch_size)


if __name__ == "__main__":
    main()
