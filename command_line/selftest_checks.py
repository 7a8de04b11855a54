"""SSD's checks of `ssd300 selftest`: each part of a training and of an evaluation step beside the CPU's."""

import subprocess
import sys
import time
from functools import partial
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from accelerators.selftest.checks import Check, Found, NotPossible, Setting, Wrong, low_precisions
from accelerators.selftest.device import judged, judged_curve
from accelerators.selftest.layers import first_beyond, largest
from accelerators.selftest.shadow import ShadowedOperators, difference
from accelerators.selftest.tiny import trainer
from coco.augment import normalise
from coco.sample_shapes import CATEGORIES
from command_line.step_trace import compare_traces, trace_step
from datamodule import COCODataModule
from evaluation.metric import NUMBERS
from ssd.default_boxes import ssd300_default_boxes
from ssd.loss import MultiBoxLoss
from ssd.matching import match
from ssd.parameters import parameter_groups
from ssd.postprocess import detect
from ssd_module import SSDModule

COMPARED = 50  # steps of a training run that the CPU goes along
FLOAT32 = torch.float32


def data(setting: Setting, batch_size: int | None = None, **flags: Any) -> COCODataModule:
    """The built-in sample data."""
    root = setting.scratch / "sample"
    if not root.exists():
        train, val = ("8", "4") if setting.quick else ("160", "40")
        command = [sys.executable, "-m", "coco.sample", str(root), "--train", train, "--val", val]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    size = batch_size or (2 if setting.quick else 8)
    return COCODataModule(str(root), batch_size=size, **{"num_workers": 0 if setting.quick else 2, **flags})


def module(setting: Setting, **hparams: Any) -> SSDModule:
    """The same weights each time; settings with which a few steps learn."""
    torch.manual_seed(0)
    learns = {"optimizer": "adamw", "learning_rate": 4e-3, "warmup_steps": 10, "background_prior": 0.75}
    return SSDModule(
        setting.more["backbone"], len(CATEGORIES), list(CATEGORIES.values()), list(CATEGORIES), **{**learns, **hparams}
    )


def batch_of(setting: Setting) -> dict[str, Any]:
    """A training batch, on the host."""
    return next(iter(data(setting, num_workers=0).train_dataloader()))


def preparation(setting: Setting) -> Found:
    """Colour and normalisation, and matching: what they give training."""
    batch = batch_of(setting)
    ours, theirs = (
        [
            normalise(batch["images"].to(device), batch["colour"].to(device)),
            *match(batch["boxes"].to(device), batch["labels"].to(device), ssd300_default_boxes().to(device)),
        ]
        for device in (setting.device, torch.device("cpu"))
    )
    return _same(("images", "matched boxes", "matched labels"), ours, theirs, 1e-5)


def loss(setting: Setting) -> Found:
    """Both parts of the loss and their gradients, from random outputs."""
    batch = batch_of(setting)
    shape = (len(batch["images"]), len(ssd300_default_boxes()))
    outputs = torch.randn(*shape, 4), torch.randn(*shape, 5)
    targets = match(batch["boxes"], batch["labels"], ssd300_default_boxes())

    def run(device: torch.device) -> list[Tensor]:
        offsets, logits = (value.clone().to(device).detach().requires_grad_() for value in outputs)
        parts = MultiBoxLoss().to(device).in_fixed_shapes(offsets, logits, *(value.to(device) for value in targets))
        sum(parts).backward()  # type: ignore[union-attr]
        gradients = [value.grad for value in (offsets, logits) if value.grad is not None]
        return [*parts, *gradients]

    names = ("localisation", "confidence", "gradient of offsets", "gradient of logits")
    return _same(names, run(setting.device), run(torch.device("cpu")), 1e-4)


def detection(setting: Setting) -> Found:
    """Decoding, NMS and the choice of the best, from random outputs."""
    boxes = ssd300_default_boxes()
    outputs = torch.randn(2, len(boxes), 4), torch.randn(2, len(boxes), 5)
    ours, theirs = (
        [value.cpu() for value in detect(outputs[0].to(device), outputs[1].to(device), boxes.to(device))]
        for device in (setting.device, torch.device("cpu"))
    )
    equal = float((ours[2] == theirs[2]).float().mean())
    if equal < 0.98:
        raise Wrong(f"{1 - equal:.1%} of the labels differ: other boxes were kept")
    found = _same(("scores",), ours[1:2], theirs[1:2], 1e-4)
    return Found(
        f"{int((theirs[2] > 0).sum())} detections, {equal:.1%} of the labels equal; {found.words}", found.figures
    )


def step(setting: Setting) -> Found:
    """A training step, layer by layer, in float32 and under autocast."""
    model, batch = module(setting), batch_of(setting)
    words, figures = [], {}
    for dtype in (FLOAT32, *_precisions(setting)):
        own = dtype == FLOAT32
        ours, theirs = (
            trace_step(model, batch, setting.device, dtype, own),
            trace_step(model, batch, torch.device("cpu"), own_statistics=own),
        )
        found = compare_traces(ours, theirs, dtype)
        name = str(dtype).removeprefix("torch.")
        figures[name] = {each.operator: each.relative for each in found}
        if (first := first_beyond(found)) is not None:
            raise Wrong(f"the first to part from the CPU, in {name}: {first}", figures)
        words.append(f"{name} {largest(found).relative:.2g} at {largest(found).operator}")
    return Found(f"{len(found)} tensors; largest difference {', '.join(words)}", figures)


def operators(setting: Setting, dtype: torch.dtype) -> Found:
    """Every operator call of a whole step beside the CPU's: preparation to update, and detection."""
    if dtype not in (FLOAT32, *low_precisions(setting)):
        raise NotPossible(f"this device does not compute in {dtype}")
    batch, model = batch_of(setting), module(setting).to(setting.device)
    optimizer = torch.optim.SGD(parameter_groups(model.model, 5e-4), lr=1e-3, momentum=0.9)
    with ShadowedOperators(setting.device) as shadow:
        sent = {key: batch[key].to(setting.device) for key in ("images", "colour", "boxes", "labels")}
        with torch.autocast(setting.device.type, dtype=dtype, enabled=dtype != FLOAT32):
            offsets, logits = model(normalise(sent["images"], sent["colour"]))
        parts = model.loss.in_fixed_shapes(offsets, logits, *match(sent["boxes"], sent["labels"], model.default_boxes))
        sum(parts).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        if dtype == FLOAT32:
            detect(offsets.detach(), logits.detach(), model.default_boxes)
    return judged(shadow)


class _Losses(pl.Callback):
    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].detach())


def curve(setting: Setting) -> Found:
    """A training run, its first part beside the CPU's."""
    steps, compared = (4, 4) if setting.quick else (100 if setting.accelerator == "cpu" else 300, COMPARED)
    ours, theirs = (_train(setting, setting.accelerator, steps), _train(setting, "cpu", compared))
    found = judged_curve(ours[:compared], theirs, bound=0.05)
    if not setting.quick and sum(ours[-20:]) >= 0.9 * sum(ours[:20]):
        raise Wrong(f"after {steps} steps the loss has not fallen: {found.words}", {"device": ours, "cpu": theirs})
    return Found(f"{found.words}; {ours[-1]:.4f} after {steps}", {"device": ours, "cpu": theirs})


def _precisions(setting: Setting) -> list[torch.dtype]:
    """Beside float32: all of them, or the one that is most likely used."""
    return low_precisions(setting)[-1:] if setting.quick else low_precisions(setting)


def _train(setting: Setting, accelerator: str, steps: int) -> list[float]:
    losses = _Losses()
    flags: dict[str, Any] = {"max_epochs": -1, "max_steps": steps, "limit_val_batches": 0, "gradient_clip_val": 5.0}
    trainer(accelerator, callbacks=[losses], **flags).fit(module(setting), data(setting))
    return torch.stack(losses.losses).float().tolist()


def evaluation(setting: Setting) -> Found:
    """The same detector's numbers."""
    model = module(setting, background_prior=None)
    for head in model.model.logit_heads:
        torch.nn.init.normal_(head.get_parameter("weight"), std=0.02)
    found = []
    for accelerator in (setting.accelerator, "cpu"):
        trainer(accelerator).validate(model, data(setting), verbose=False)
        assert model.metric is not None
        found.append((dict(model.numbers), model.metric.found_detections))
    (ours, our_detections), (theirs, their_detections) = found
    apart = {name: abs(ours[name] - theirs[name]) for name in NUMBERS}
    name = max(apart, key=lambda key: apart[key])
    figures = {"device": ours, "cpu": theirs}
    if not apart[name] <= 5e-3:
        raise Wrong(f"{name} is {ours[name]:.5f}, the CPU's {theirs[name]:.5f}", figures)
    counts = [len(each.scores) for each in (our_detections, their_detections)]
    return Found(
        f"{counts[0]} detections, the CPU's {counts[1]}; largest difference {apart[name]:.2g} in {name}", figures
    )


def speed(setting: Setting) -> Found:
    """Images a second of training alone, the peak of memory, and what the loader gives."""
    size, steps = (2, 2) if setting.quick else (8, 5) if setting.accelerator == "cpu" else (32, 30)
    words, figures = [], {}
    for dtype in (FLOAT32, *_precisions(setting)):
        rate, memory = _throughput(setting, size, steps, dtype)
        name = str(dtype).removeprefix("torch.")
        figures[name] = {"images/s": rate, "memory peak": memory}
        words.append(f"{name} {rate:.1f}" + (f" ({memory / 2**30:.1f} GiB)" if memory else ""))
    loader = iter(data(setting, size, **({} if setting.quick else {"num_workers": None})).train_dataloader())
    next(loader)
    began = time.monotonic()
    images = sum(len(batch["images"]) for batch in islice(loader, 3))
    figures["loader"] = {"images/s": images / (time.monotonic() - began)}
    return Found(f"batch {size}, images/s: {', '.join(words)}; loader {figures['loader']['images/s']:.0f}", figures)


def _throughput(setting: Setting, size: int, steps: int, dtype: torch.dtype) -> tuple[float, int]:
    """Images a second, and bytes (0 on a CPU)."""
    device = getattr(torch, setting.accelerator) if setting.accelerator != "cpu" else None
    if device is not None:
        device.reset_peak_memory_stats()
    model = module(setting).to(setting.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    images = torch.randn(size, 3, 300, 300, device=setting.device)
    boxes, labels = torch.tensor([[[0.1, 0.1, 0.6, 0.7]]] * size), torch.ones(size, 1, dtype=torch.int64)
    boxes, labels = boxes.to(setting.device), labels.to(setting.device)
    began = 0.0
    for number in range(steps + 2):
        if number == 2:
            if device is not None:
                device.synchronize()
            began = time.monotonic()
        with torch.autocast(setting.device.type, dtype=dtype, enabled=dtype != FLOAT32):
            offsets, logits = model(images)
        optimizer.zero_grad()
        sum(model.loss(offsets, logits, *match(boxes, labels, model.default_boxes))).backward()
        optimizer.step()
    if device is not None:
        device.synchronize()
    return size * steps / (time.monotonic() - began), device.max_memory_allocated() if device is not None else 0


def _same(names: tuple[str, ...], ours: list[Tensor], theirs: list[Tensor], bound: float) -> Found:
    found = [difference(name, a, b, bound) for name, a, b in zip(names, ours, theirs, strict=True)]
    if (first := first_beyond(found)) is not None:
        raise Wrong(str(first))
    figures = {each.operator: each.relative for each in found}
    return Found(f"largest difference {largest(found).relative:.2g} in {largest(found).operator}", figures)


CHECKS = (
    Check("SSD: colour, normalisation, matching", preparation),
    Check("SSD: loss and its gradient", loss),
    Check("SSD: detect", detection),
    Check("SSD: a training step layer by layer", step),
    *(
        Check(
            f"SSD: operators of a step in {dtype}".replace("torch.", ""),
            partial(operators, dtype=dtype),
            quick=dtype != torch.float16,  # slow where the device is a stand-in; the small network's stay
        )
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
    ),
    Check("SSD: loss curve", curve, limit=1200),
    Check("SSD: evaluation", evaluation),
    Check("SSD: speed", speed, limit=600),
)
