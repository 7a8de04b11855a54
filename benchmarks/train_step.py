"""A training step and its parts beside the published recipe's modules (by path) and the bound of the convolutions.

    python benchmarks/train_step.py [--parts matching loss step lightning] [--reference DIR] [--json PATH]
    taskset -c 1 env OMP_NUM_THREADS=1 python benchmarks/train_step.py ...      # one core, the steadiest

Both sides get the same normalised pictures and boxes, COCO's 7 a picture; the recipe's side matches picture by picture,
as its workers do. "convolutions alone" is the bound: every convolution of our network forward and backward, and nothing
else. Sides take turns and a ratio is the median over rounds; on the CPU seconds are the processor's, of all threads.
bf16 needs AVX512-BF16 or AMX to be worth a row. "lightning" is train.py with its callbacks and loggers beside
the same steps in a bare loop, both without a network.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from recipe import load_model, load_utils, reference_order
from side_by_side import Row, median_ratio, report, rounds
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from coco.sample import write_sample
from command_line.fit import train
from datamodule import COCODataModule
from ssd.default_boxes import NUM_DEFAULT_BOXES, ssd300_default_boxes
from ssd.loss import MultiBoxLoss
from ssd.matching import match
from ssd.parameters import parameter_groups
from ssd_module import SSDModule

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
RATE = 1e-5  # small: random targets must not let a network diverge
Calls = dict[str, Callable[[], Any]]


def matching(args: argparse.Namespace) -> list[Row]:
    """Targets of a batch; compared before they are timed."""
    rows = []
    encoder = args.utils.Encoder(args.utils.dboxes300_coco())
    order = reference_order(args.utils, ssd300_default_boxes())
    default_boxes = ssd300_default_boxes().to(args.device)
    for images in (8, 32):
        truth = truths(images)
        moved = on(args.device, truth)
        calls: Calls = {
            "ours": lambda: match(*moved, default_boxes),  # noqa: B023 - called in this iteration
            "published recipe": lambda: encode(encoder, *truth),  # noqa: B023
        }
        for mine, theirs in zip(calls["ours"](), calls["published recipe"](), strict=True):
            if not torch.equal(mine[:, order].cpu(), theirs):
                raise SystemExit("matching differs from the published recipe's")
        rows += compared(f"matching, {images} images", calls, args, 3 * args.rounds)
    return rows


def loss(args: argparse.Namespace) -> list[Row]:
    """Forward and backward, from the network's outputs; values are compared before they are timed."""
    rows = []
    boxes, labels = match(*truths(32), ssd300_default_boxes())
    order = reference_order(args.utils, ssd300_default_boxes())
    criterion = MultiBoxLoss().to(args.device)
    reference = args.model.Loss(args.utils.dboxes300_coco()).to(args.device)
    for precision in args.precision:
        generator = torch.Generator().manual_seed(0)
        outputs = [torch.randn(32, 8732, size, generator=generator) * scale for size, scale in ((4, 0.5), (81, 1.0))]
        outputs = [part.to(args.device, PRECISIONS[precision] or torch.float32) for part in outputs]
        turned = [part[:, order].transpose(1, 2).contiguous() for part in outputs]
        targets = on(args.device, (boxes, labels))
        theirs = on(args.device, (boxes[:, order].transpose(1, 2).contiguous(), labels[:, order]))
        calls = {
            "ours": with_gradients(lambda *o: sum(criterion(*o, *targets)), outputs),  # noqa: B023
            "published recipe": with_gradients(lambda *o: reference(*(p.float() for p in o), *theirs), turned),  # noqa: B023
        }
        torch.testing.assert_close(*(call().detach() for call in calls.values()), rtol=1e-4, atol=0)
        rows += compared(f"loss forward + backward, 32 images, {precision}", calls, args, args.rounds)
    return rows


def step(args: argparse.Namespace) -> list[Row]:
    """From normalised pictures to stepped weights."""
    rows = []
    boxes, labels = truths(args.batch)
    images = torch.randn(args.batch, 3, 300, 300, generator=torch.Generator().manual_seed(1)).to(args.device)
    images = images.contiguous(memory_format=torch.channels_last)
    for backbone, precision in itertools.product(args.backbone, args.precision):
        torch.manual_seed(0)
        module = SSDModule(backbone, 80).to(args.device).train()
        targets = on(args.device, (boxes, labels))
        ours = lambda: sum(module.loss(*module(images), *match(*targets, module.default_boxes)))  # noqa: B023, E731
        calls = {"ours": stepping(ours, module.model, args.device, precision)}
        if args.utils:
            encoder = args.utils.Encoder(args.utils.dboxes300_coco())
            model = args.model.SSD300(backbone=args.model.ResNet(backbone))
            model = model.to(args.device, memory_format=torch.channels_last).train()
            criterion = args.model.Loss(args.utils.dboxes300_coco()).to(args.device)

            def theirs() -> Tensor:
                aims, classes = on(args.device, encode(encoder, boxes, labels))  # noqa: B023
                offsets, logits = (part.float() for part in model(images))  # noqa: B023
                return criterion(offsets, logits, aims.transpose(1, 2).contiguous(), classes)  # noqa: B023

            calls["published recipe"] = stepping(theirs, model, args.device, precision)
        calls["convolutions alone"] = convolutions(module.model, images, PRECISIONS[precision] or torch.float32)
        rows += compared(f"step, {backbone}, {args.batch} images, {precision}", calls, args, args.rounds)
    return rows


def lightning(args: argparse.Namespace) -> list[Row]:
    """A step by train.py beside the same in a loop, loading included; the median of runs."""
    steps, warmup = 200, 30  # of one epoch
    with tempfile.TemporaryDirectory() as folder:
        write_sample(folder, train_images=5 * steps // 2, val_images=1)  # some have no objects
        by_trainer, bare = [], []
        for number in range(max(3, args.rounds // 2)):
            ends = StepEnds()
            flags = ["--data_root", folder, "--run_dir", f"{folder}/{number}", "--model.backbone", "resnet18"]
            flags += ["--batch_size", "2", "--num_workers", "0", "--accelerator", "cpu", "--save_every_minutes", "null"]
            flags += ["--trainer.limit_val_batches", "0", "--trainer.max_steps", str(steps)]
            train([*flags, "--trainer.enable_progress_bar", "false"], [ends])
            by_trainer.append(1e3 * per_step(ends.at, warmup))
            bare.append(1e3 * per_step(bare_loop(Path(folder), steps), warmup))
    ours, peer = statistics.median(by_trainer), statistics.median(bare)
    print(f"Lightning and callbacks: {statistics.median(a - b for a, b in zip(by_trainer, bare, strict=True)):.2f} ms")
    return [Row("step by train.py, without a network: bare loop", ours, peer, "ms", peer / ours)]


class Outputs(nn.Module):
    """A network that is nothing but its outputs, so that a step is short beside what is measured of it."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.offsets = nn.Parameter(torch.zeros(1, NUM_DEFAULT_BOXES, 4))
        self.logits = nn.Parameter(torch.zeros(1, NUM_DEFAULT_BOXES, num_classes + 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.offsets.expand(len(images), -1, -1), self.logits.expand(len(images), -1, -1)


class StepEnds(pl.Callback):
    """Processor seconds at which steps have ended, of `Outputs` in place of the network."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        pl_module.model = Outputs(pl_module.hparams.num_classes)

    def on_train_batch_end(self, *args: Any) -> None:
        self.at.append(time.process_time())


def per_step(ends: Sequence[float], warmup: int) -> float:
    return (ends[-1] - ends[warmup - 1]) / (len(ends) - warmup)


def bare_loop(data: Path, steps: int) -> list[float]:
    """Processor seconds at which its steps have ended."""
    loader = COCODataModule(str(data), batch_size=2, num_workers=0)
    model, criterion = Outputs(len(loader.class_names)), MultiBoxLoss()
    optimizer = torch.optim.SGD(parameter_groups(model, 5e-4), lr=RATE, momentum=0.9)
    batches = itertools.chain.from_iterable(loader.train_dataloader() for _ in itertools.count())
    ends = []
    for batch in itertools.islice(batches, steps):
        batch = loader.on_after_batch_transfer(batch, 0)
        optimizer.zero_grad()
        targets = match(batch["boxes"], batch["labels"], criterion.default_boxes)
        sum(criterion(*model(batch["images"]), *targets)).backward()
        optimizer.step()
        ends.append(time.process_time())
    return ends


def stepping(loss: Callable[[], Tensor], model: nn.Module, device: str, precision: str) -> Callable[[], None]:
    """One optimiser step; the loss, with everything before it, under autocast."""
    optimizer = torch.optim.SGD(parameter_groups(model, 5e-4), lr=RATE, momentum=0.9)
    dtype = PRECISIONS[precision]

    def run() -> None:
        with torch.autocast(device, dtype, enabled=dtype is not None):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def convolutions(model: nn.Module, images: Tensor, dtype: torch.dtype) -> Callable[[], None]:
    """Every convolution of the network, forward and backward, the first without a gradient of its input."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    seen: list[tuple[nn.Conv2d, torch.Size]] = []
    hooks = [layer.register_forward_hook(lambda layer, x, _: seen.append((layer, x[0].shape))) for layer in layers]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    format = {"dtype": dtype, "device": images.device, "memory_format": torch.channels_last}
    inputs = {shape: torch.randn(shape).to(**format).requires_grad_() for shape in {shape for _, shape in seen}}
    todo = []
    for layer, shape in seen:
        x = inputs[shape]
        weight = layer.weight.detach().to(**format).requires_grad_()
        settings = (layer.stride, layer.padding, layer.dilation, layer.groups)
        with torch.no_grad():
            out = nn.functional.conv2d(x, weight, None, *settings)
        todo.append((x, weight, settings, torch.ones_like(out), (weight,) if shape[1] == 3 else (x, weight)))

    def run() -> None:
        for x, weight, settings, gradient, wanted in todo:
            torch.autograd.grad(nn.functional.conv2d(x, weight, None, *settings), wanted, gradient)

    return run


def with_gradients(loss: Callable[..., Tensor], outputs: Sequence[Tensor]) -> Callable[[], Tensor]:
    leaves = [part.detach().requires_grad_() for part in outputs]

    def run() -> Tensor:
        for leaf in leaves:
            leaf.grad = None
        value = loss(*leaves)
        value.backward()
        return value

    return run


def encode(encoder: Any, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The recipe's targets [B, A, 4] and [B, A], in its order, picture by picture."""
    encoded = [encoder.encode(own[of > 0], of[of > 0]) for own, of in zip(boxes, labels, strict=True)]
    return tuple(torch.stack(parts) for parts in zip(*encoded, strict=True))


def truths(images: int) -> tuple[Tensor, Tensor]:
    """Boxes [B, 14, 4] and labels [B, 14] of 1 to 13 objects a picture, 7 on average."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(images, 14, 2, generator=generator) * 0.7
    boxes = torch.cat((corner, corner + torch.rand(images, 14, 2, generator=generator) * 0.3), dim=-1)
    labels = torch.randint(1, 81, (images, 14), generator=generator)
    labels[torch.arange(14) >= torch.randint(1, 14, (images, 1), generator=generator)] = 0
    return boxes * (labels > 0).unsqueeze(-1), labels


def on(device: str, tensors: Sequence[Tensor]) -> list[Tensor]:
    return [tensor.to(device) for tensor in tensors]


def compared(name: str, calls: Calls, args: argparse.Namespace, repeats: int) -> list[Row]:
    """A row for each peer of "ours"."""
    if args.device != "cpu":
        wait = getattr(torch, torch.device(args.device).type).synchronize
        calls = {key: lambda call=call: (call(), wait()) for key, call in calls.items()}
    times = rounds(calls, repeats, time.process_time if args.device == "cpu" else time.perf_counter)
    milliseconds = {key: 1e3 * statistics.median(values) for key, values in times.items()}
    ours = milliseconds.pop("ours")
    rows = [
        Row(f"{name}: {key}", ours, value, "ms", median_ratio(times, "ours", key))
        for key, value in milliseconds.items()
    ]
    print(
        *(f"{row.name}: {row.ours:.1f} ms, {row.peer:.1f} ms, {row.ratio:.2f}x" for row in rows), sep="\n", flush=True
    )
    return rows


PARTS = {part.__name__: part for part in (matching, loss, step, lightning)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="all; without --reference step and lightning")
    parser.add_argument("--reference", type=Path, help="checkout of the published recipe")
    parser.add_argument("--backbone", nargs="+", default=["resnet18", "resnet50"])
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["fp32", "bf16"])
    parser.add_argument("--batch", type=int, default=8, help="of whole steps")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not args.reference and {"matching", "loss"} & set(args.parts or ()):
        parser.error("--parts matching and loss are comparisons with the recipe: give --reference DIR")
    args.parts = args.parts or ([*PARTS] if args.reference else ["step", "lightning"])
    args.utils = load_utils(args.reference) if args.reference else None
    args.model = load_model(args.reference) if args.reference else None
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {args.device}")
    report([row for part in args.parts for row in PARTS[part](args)], args.json)


if __name__ == "__main__":
    main()
