"""How SSD300 scales over devices: a model of a training step, not a measurement.

    python benchmarks/scaling.py                                              # A100s, nodes of 8, fp32 gradients
    python benchmarks/scaling.py --inter_node 25gbe --fp16_gradients          # a slow network, half the bytes
    python benchmarks/scaling.py --images_per_second 500 --intra_node mlu_link --json scaling.json

Only the parameters (counted on the real model) are facts. Compute and link speeds are inputs, with their sources below;
docs/scaling.md states every assumption. --json writes the table's rows: a list of objects with the fields of `Row`, in
seconds and bytes. Below the table stand the published speeds of 8 devices beside the model's.
"""

import argparse
import dataclasses
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the project is run from its checkout, not installed

from ssd.model import SSD300
from training.optimisation import REFERENCE_BATCH

TRAIN_IMAGES = 117_266  # of COCO train2017, those with annotations: the others are left out of training
VAL_IMAGES = 5000
BACKWARD_SHARE = 2 / 3  # of a step's compute: two products (inputs, weights) for the forward pass's one
FIRST_BUCKET = 2**20  # bytes; DistributedDataParallel's first bucket is small, so that communication starts early
ALERT = 0.05  # of the time of an epoch: what costs more than this is named as the limit

# The published recipe: the largest global batch with a published mAP, and the warm-up of its scripts.
LARGEST_PUBLISHED_BATCH = 1024  # 8x A100, batch 128: mAP 0.2680 +- 0.0014
PUBLISHED_WARMUP = {512: 300, 1024: 1200}  # global batch up to -> steps (V100 scripts; 8x A100 with base rate 2.7e-3)
LINEAR_RULE_LIMIT = 8192  # Goyal et al. 2017 (arXiv:1706.02677, figure 1): ImageNet's error grows beyond this batch


@dataclass(frozen=True)
class Link:
    bandwidth: float  # bytes/s that a ring gets, one direction
    latency: float  # s for one step of a ring


# NCCL plans with 235 of the 300 GB/s that an A100's NVLink has in one direction, and with these latencies of a ring's
# step (src/graph/tuning.cc, protocol Simple: NVLink, PCI, network). The same share is taken of every vendor's figure.
SHARE = 235 / 300
INTRA_NODE = {  # per device
    "nvlink3": Link(300e9 * SHARE, 3.4e-6),  # A100: 600 GB/s, both directions
    "nvlink2": Link(150e9 * SHARE, 3.4e-6),  # V100: 300 GB/s, both directions
    "mlu_link": Link(100e9 * SHARE, 5.7e-6),  # MLU370-X8: 200 GB/s, both directions; latency not published, as PCI
    "pcie4": Link(32e9 * SHARE, 5.7e-6),  # x16
}
INTER_NODE = {  # per node, all its adapters together
    "8x200g": Link(8 * 25e9 * SHARE, 14e-6),  # one adapter per device, as in a DGX A100
    "100g": Link(12.5e9 * SHARE, 14e-6),
    "25gbe": Link(3.125e9 * SHARE, 14e-6),
}
# Published training and inference speeds of one device, images/s. None is published for an MLU: --images_per_second.
DEVICES = {"a100_amp": (724, 1058), "a100_tf32": (377, 798), "v100_amp": (297, 605), "v100_fp32": (107, 312)}
PUBLISHED_8 = {
    "a100_amp": (128, "nvlink3", 5734),
    "v100_amp": (64, "nvlink2", 2520),
}  # batch per device, link, images/s


@dataclass(frozen=True)
class Cluster:
    """What is assumed of the machines and of the run."""

    images_per_second: float  # training, one device
    evaluation_images_per_second: float  # inference, one device
    batch_size: int  # per device
    intra_node: Link
    inter_node: Link
    devices_per_node: int = 8
    hierarchical: bool = True  # reduce in the node, then between nodes; else one ring through all devices
    fp16_gradients: bool = False  # the fp16_compress_hook
    bucket_bytes: float = 25 * 2**20  # DistributedDataParallel's bucket_cap_mb
    accumulate_grad_batches: int = 1
    cores_per_device: float = 8
    images_per_second_per_core: float = 218
    coco_seconds_per_image: float = 1e-4  # matching, on the process that has the image
    coco_seconds: float = 0.6  # serial: gathering, merging and COCOeval's sums on one process while the others wait
    check_val_every_n_epoch: int = 5
    learning_rate: float = 2.6e-3


@dataclass(frozen=True)
class Row:
    devices: int
    bytes_sent: float  # by each device, per optimiser step
    all_reduce_seconds: float  # all buckets, one after another
    exposed_seconds: float  # what backward does not hide
    compute_seconds: float  # per optimiser step
    input_seconds: float  # for the host to prepare the step's images
    step_seconds: float
    images_per_second: float
    efficiency: float  # of devices x one device's speed
    steps_per_epoch: int
    epoch_seconds: float  # training, and its share of an evaluation
    evaluation_seconds: float
    limit: str
    global_batch: int
    learning_rate: float
    warmup_steps: int
    warmup_epochs: float
    note: str


def parameters(backbone: str = "resnet50", num_classes: int = 80) -> int:
    with torch.device("meta"):  # shapes without memory
        return sum(parameter.numel() for parameter in SSD300(backbone, num_classes).parameters())


def gradient_bytes(parameters: int, fp16: bool) -> int:
    return parameters * (2 if fp16 else 4)


def ring_factor(devices: int) -> float:
    """Bytes that each device of a ring sends, per byte reduced."""
    return 2 * (devices - 1) / devices


def ring_seconds(size: float, devices: int, link: Link) -> float:
    return ring_factor(devices) * size / link.bandwidth + 2 * (devices - 1) * link.latency


def all_reduce_seconds(size: float, devices: int, cluster: Cluster) -> float:
    """One all-reduce of `size` bytes."""
    local = min(devices, cluster.devices_per_node)
    nodes = math.ceil(devices / cluster.devices_per_node)
    if nodes == 1:
        return ring_seconds(size, devices, cluster.intra_node)
    if cluster.hierarchical:
        # Reduce-scatter and all-gather in the node cost one ring; between nodes every device reduces its own part at
        # once, so that all of `size` goes through the node's adapters.
        return ring_seconds(size, local, cluster.intra_node) + ring_seconds(size, nodes, cluster.inter_node)
    slowest = min(cluster.intra_node.bandwidth, cluster.inter_node.bandwidth)
    between = 2 * (nodes - 1)  # of a ring's steps, those that wait for the network (as NCCL counts them)
    within = 2 * (devices - 1) - between
    latency = between * cluster.inter_node.latency + within * cluster.intra_node.latency
    return ring_factor(devices) * size / slowest + latency


def buckets(size: float, cap: float, first: float = FIRST_BUCKET) -> list[float]:
    """The sizes in which DistributedDataParallel sends gradients; compression makes the contents smaller, not fewer."""
    sizes = [min(first, cap, size)]
    while (left := size - sum(sizes)) > 0.5:
        sizes.append(min(cap, left))
    return sizes


def exposed_seconds(backward: float, sizes: list[float], times: list[float]) -> float:
    """Communication left when backward ends, if gradients become ready evenly and buckets are sent one by one."""
    ready = sent = 0.0
    for size, time in zip(sizes, times, strict=True):
        ready += backward * size / sum(sizes)
        sent = max(ready, sent) + time
    return max(0.0, sent - backward)


def warmup_steps(global_batch: int) -> int:
    """The published steps; beyond the largest published batch the same number of images, which nobody has published."""
    for largest, steps in PUBLISHED_WARMUP.items():
        if global_batch <= largest:
            return steps
    return round(PUBLISHED_WARMUP[LARGEST_PUBLISHED_BATCH] * LARGEST_PUBLISHED_BATCH / global_batch)


def learning_rate_note(global_batch: int) -> str:
    if global_batch > TRAIN_IMAGES:
        return "no step fits in an epoch"
    if global_batch > LINEAR_RULE_LIMIT:
        return "linear rule known to break"
    if global_batch > LARGEST_PUBLISHED_BATCH:
        return "batch never published"
    return ""


def scale(devices: int, cluster: Cluster, parameter_count: int) -> Row:
    """The model of one optimiser step and one epoch on that many devices."""
    sizes = buckets(4 * parameter_count, cluster.bucket_bytes)
    wire = [size / 2 if cluster.fp16_gradients else size for size in sizes]
    times = [all_reduce_seconds(size, devices, cluster) for size in wire]
    micro_step = cluster.batch_size / cluster.images_per_second
    exposed = exposed_seconds(micro_step * BACKWARD_SHARE, sizes, times)  # only the last micro-batch communicates
    compute = micro_step * cluster.accumulate_grad_batches
    images = cluster.batch_size * cluster.accumulate_grad_batches
    fed = images / (cluster.cores_per_device * cluster.images_per_second_per_core)
    step = max(compute + exposed, fed)

    global_batch = images * devices
    steps = TRAIN_IMAGES // global_batch
    per_image = 1 / cluster.evaluation_images_per_second + cluster.coco_seconds_per_image
    evaluation = math.ceil(VAL_IMAGES / devices) * per_image + cluster.coco_seconds
    costs = {  # seconds per epoch beside compute
        "communication": steps * exposed,
        "input": steps * max(0.0, fed - compute - exposed),
        "evaluation": evaluation / cluster.check_val_every_n_epoch,
    }
    epoch = steps * step + evaluation / cluster.check_val_every_n_epoch
    worst = max(costs, key=costs.get)
    limit = worst if costs[worst] > ALERT * epoch else "compute"
    if steps == 0:
        limit = "data set"
    warmup = warmup_steps(global_batch)
    return Row(
        devices=devices,
        bytes_sent=ring_factor(devices) * gradient_bytes(parameter_count, cluster.fp16_gradients),
        all_reduce_seconds=sum(times),
        exposed_seconds=exposed,
        compute_seconds=compute,
        input_seconds=fed,
        step_seconds=step,
        images_per_second=global_batch / step,
        efficiency=global_batch / step / (devices * cluster.images_per_second),
        steps_per_epoch=steps,
        epoch_seconds=epoch,
        evaluation_seconds=evaluation,
        limit=limit,
        global_batch=global_batch,
        learning_rate=cluster.learning_rate * global_batch / REFERENCE_BATCH,
        warmup_steps=warmup,
        warmup_epochs=warmup * global_batch / TRAIN_IMAGES,
        note=learning_rate_note(global_batch),
    )


def print_table(rows: list[Row]) -> None:
    columns = {  # heading (two lines) -> text of a row
        ("", "devices"): lambda r: f"{r.devices}",
        ("MB", "sent"): lambda r: f"{r.bytes_sent / 1e6:.0f}",
        ("all-red.", "ms"): lambda r: f"{r.all_reduce_seconds * 1e3:.2f}",
        ("exposed", "ms"): lambda r: f"{r.exposed_seconds * 1e3:.2f}",
        ("input", "ms"): lambda r: f"{r.input_seconds * 1e3:.0f}",
        ("step", "ms"): lambda r: f"{r.step_seconds * 1e3:.0f}",
        ("", "images/s"): lambda r: f"{r.images_per_second:.0f}",
        ("effi-", "ciency"): lambda r: f"{r.efficiency:.0%}",
        ("steps/", "epoch"): lambda r: f"{r.steps_per_epoch}",
        ("epoch", "s"): lambda r: f"{r.epoch_seconds:.1f}",
        ("eval.", "s"): lambda r: f"{r.evaluation_seconds:.1f}",
        ("", "limit"): lambda r: r.limit,
        ("learning", "rate"): lambda r: f"{r.learning_rate:.3g}",
        ("warm-up", "steps"): lambda r: f"{r.warmup_steps}",
        ("warm-up", "epochs"): lambda r: f"{r.warmup_epochs:.1f}",
        ("", ""): lambda r: r.note,
    }
    lines = [*zip(*columns, strict=True), *([text(row) for text in columns.values()] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        cells = [text.rjust(width) for text, width in zip(line[:-1], widths, strict=False)]
        print("  ".join([*cells, line[-1]]).rstrip())


def print_published(parameter_count: int) -> None:
    """What the model says of the published 8-device runs, from the published speed of one device."""
    for name, (batch_size, link, published) in PUBLISHED_8.items():
        cluster = Cluster(*DEVICES[name], batch_size, INTRA_NODE[link], INTER_NODE["8x200g"], cores_per_device=math.inf)
        model = scale(8, cluster, parameter_count).images_per_second
        ratio = model / published
        print(f"8x {name}, batch {batch_size}: model {model:.0f} images/s, published {published} ({ratio:.2f}x)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = {field.name: field.default for field in dataclasses.fields(Cluster)}
    parser.add_argument("--device", choices=DEVICES, default="a100_amp", help="published speeds of one device")
    parser.add_argument("--images_per_second", type=float, help="training, of one device; instead of --device's")
    parser.add_argument("--evaluation_images_per_second", type=float, help="inference; instead of --device's")
    parser.add_argument("--devices", type=int, nargs="+", default=[2**i for i in range(11)])
    parser.add_argument("--devices_per_node", type=int, default=default["devices_per_node"])
    parser.add_argument("--batch_size", type=int, default=128, help="per device")
    parser.add_argument("--intra_node", choices=INTRA_NODE, default="nvlink3")
    parser.add_argument("--inter_node", choices=INTER_NODE, default="100g")
    parser.add_argument("--one_ring", action="store_true", help="through all devices, instead of a ring per level")
    parser.add_argument("--fp16_gradients", action="store_true", help="fp16_compress_hook")
    parser.add_argument("--bucket_cap_mb", type=float, default=25)
    parser.add_argument("--accumulate_grad_batches", type=int, default=1)
    parser.add_argument("--cores_per_device", type=float, default=default["cores_per_device"])
    parser.add_argument("--images_per_second_per_core", type=float, default=default["images_per_second_per_core"])
    for name, what in (
        ("coco_seconds", "serial part of an evaluation"),
        ("coco_seconds_per_image", "the divided part"),
    ):
        parser.add_argument(f"--{name}", type=float, default=default[name], help=what)
    parser.add_argument("--check_val_every_n_epoch", type=int, default=default["check_val_every_n_epoch"])
    parser.add_argument("--learning_rate", type=float, default=default["learning_rate"], help="per 32 images")
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    training, inference = DEVICES[options.device]
    speed = options.images_per_second or training
    cluster = Cluster(
        images_per_second=speed,
        # Where only the training speed is given, inference is as much faster as on the device named.
        evaluation_images_per_second=options.evaluation_images_per_second or inference * speed / training,
        batch_size=options.batch_size,
        intra_node=INTRA_NODE[options.intra_node],
        inter_node=INTER_NODE[options.inter_node],
        devices_per_node=options.devices_per_node,
        hierarchical=not options.one_ring,
        fp16_gradients=options.fp16_gradients,
        bucket_bytes=options.bucket_cap_mb * 2**20,
        accumulate_grad_batches=options.accumulate_grad_batches,
        cores_per_device=options.cores_per_device,
        images_per_second_per_core=options.images_per_second_per_core,
        coco_seconds=options.coco_seconds,
        coco_seconds_per_image=options.coco_seconds_per_image,
        check_val_every_n_epoch=options.check_val_every_n_epoch,
        learning_rate=options.learning_rate,
    )
    count = parameters()
    rows = [scale(devices, cluster, count) for devices in options.devices]
    size = gradient_bytes(count, options.fp16_gradients)
    print(f"SSD300-ResNet50, 80 classes: {count:,} parameters, {size / 1e6:.1f} MB of gradients")
    print_table(rows)
    print_published(count)
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
