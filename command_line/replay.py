"""Runs one step of a training run again, on two devices, and says where they part, or what is not finite.

ssd300 replay RUN --step N [--accelerator mlu] [--against cpu] [--images]

Training goes on from the nearest checkpoint before that step, in a run that keeps nothing; samples follow from (seed,
epoch, sample) alone, so the step gets the very pictures that it had. A run on several devices is replayed on one, whose
step takes the others' batches one after the other.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from accelerators.selftest.layers import first_beyond, largest
from checkpoints.files import CheckpointError, read_checkpoint, read_step
from coco.augment import normalise
from coco.names import plain
from command_line.fit_cli import FitCLI
from command_line.shared import with_home
from command_line.step_trace import compare_traces, trace_step
from prediction.devices import device_flags
from ssd_module import SSDModule
from training.pictures import draw_batch
from training.position import Position, position

DEVICES = ("cpu", "cuda", "mlu")
AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}


def main(args: Sequence[str] | None = None) -> int:
    """Parses the arguments (those of the process by default). The exit code is 0 if the devices agree and all is
    finite, else 1."""
    flags = _parser().parse_args(with_home(sys.argv[1:] if args is None else args))
    for device in (flags.accelerator, flags.against):
        device_flags(_flags_of(device))
    start, batches = _nearest(flags.run_dir, flags.step)
    cli, batches_of_step, place = _go_to(flags, start, batches)
    module, dtype = _copy(cli.model), AUTOCAST.get(str(cli.trainer.precision), torch.float32)
    origin = f"from {start.name}" if start else "from the beginning"
    print(f"step {flags.step} of {flags.run_dir}, {origin}: epoch {place.epoch}, from its sample {place.samples} on")
    agree = True
    for number, batch in enumerate(batches_of_step):
        if flags.images:
            images = normalise(batch["images"], batch["colour"])
            path = flags.run_dir / "pictures" / f"step{flags.step:06d}_{number}.png"
            draw_batch(path, {**batch, "images": images}, module, cli.datamodule.train_annotations)
            print(f"pictures: {path}")
        agree &= _compare(module, batch, flags, dtype)
    return 0 if agree else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ssd300 replay", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="directory of the run")
    parser.add_argument("--step", type=int, required=True, help="optimiser step, from 1, as messages count them")
    parser.add_argument("--accelerator", default="cpu", choices=DEVICES, help="trains up to the step (cpu)")
    parser.add_argument("--against", default="cpu", choices=DEVICES, help="in float32, to compare with (cpu)")
    allow = "a package that the run's configuration may name classes of, as in training"
    parser.add_argument("--allow_class", action="append", default=[], metavar="PACKAGE", help=allow)
    parser.add_argument("--images", action="store_true", help="draw the pictures of the step into RUN/pictures")
    return parser


def _flags_of(accelerator: str) -> dict[str, Any]:
    return {
        "accelerator": accelerator,
        "devices": 1,
        "num_nodes": 1,
        "strategy": "auto",
        "precision": None,
        "plugins": None,
    }


def _nearest(run_dir: Path, step: int) -> tuple[Path | None, int]:
    """The latest checkpoint before the step, if there is one, and how many batches the run's steps have on all devices.

    Raises:
        CheckpointError: there is no run, or it is of the published recipe.
    """
    if step < 1:
        raise MisconfigurationException(f"--step {step}: the first one is 1")
    if not (run_dir / "config.yaml").is_file():
        raise CheckpointError(f"{run_dir}: no run of this project, it has no config.yaml")
    before: list[tuple[int, Path]] = []
    for path in (run_dir / "checkpoints").glob("*.ckpt"):
        try:
            if 0 <= (found := read_step(path)) < step:
                before.append((found, path))
        except CheckpointError:
            continue
    if not before:
        record = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
        return None, int(record["devices"])
    path = max(before)[1]
    saved = read_checkpoint(path).get("COCODataModule", {}).get("geometry")
    if saved is None:
        raise CheckpointError(f"{path}: does not say on how many devices it was made")
    return path, saved["devices"] * saved["accumulated"]


class _Reached(Exception):
    """The step is about to begin."""


class _StopBefore(pl.Callback):
    def __init__(self, step: int) -> None:
        self.step = step
        self.place = Position()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if trainer.global_step + 1 == self.step:
            data = trainer.datamodule
            self.place = position(trainer, data.start, data.batch_size)
            raise _Reached


class _ReplayCLI(FitCLI):
    keeps = False


def _go_to(flags: argparse.Namespace, start: Path | None, batches: int) -> tuple[FitCLI, list[Any], Position]:
    """Trains up to the step; what it would have trained on, on the host.

    Raises:
        MisconfigurationException: the run ended before.
    """
    stop = _StopBefore(flags.step)
    args = [
        *("--config", str(flags.run_dir / "config.yaml"), "--accelerator", flags.accelerator, "--devices", "1"),
        *("--num_nodes", "1", "--strategy", "auto", "--trainer.accumulate_grad_batches", str(batches)),
        *("--trainer.limit_val_batches", "0", "--trainer.enable_progress_bar", "false"),
        *(("--ckpt_path", str(start)) if start else ()),
        *(f"--allow_class={name}" for name in flags.allow_class),
    ]
    cli = _ReplayCLI(args, [stop])
    try:
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=cli.ckpt_path, weights_only=True)
    except _Reached:
        data = cli.datamodule
        data.start, data.num_workers = stop.place, 0
        return cli, list(islice(data.train_dataloader(), batches)), stop.place
    raise MisconfigurationException(f"--step {flags.step}: the run ends after step {cli.trainer.global_step}")


def _copy(model: SSDModule) -> SSDModule:
    """The network and its loss on the CPU, without a trainer."""
    copy = SSDModule(**{**model.hparams, "backbone_weights": None})
    copy.load_state_dict(model.state_dict())
    if model.loss.class_weights is not None:
        copy.loss.class_weights = model.loss.class_weights.cpu()
    return copy


def _compare(module: SSDModule, batch: dict[str, Any], flags: argparse.Namespace, dtype: torch.dtype) -> bool:
    """Prints what a batch gives on both devices; whether they agree, and all is finite."""
    ours = trace_step(module, batch, _device(flags.accelerator), dtype)
    # In one precision, or its roundings, which statistics of the small last maps make much of, would be told for faults
    # of a device. Not in float16, which a CPU may not have.
    their_dtype = dtype if dtype == torch.bfloat16 else torch.float32
    theirs = trace_step(module, batch, _device(flags.against), their_dtype)
    name, their_name = (str(it).removeprefix("torch.") for it in (dtype, their_dtype))
    print(f"\nimages {', '.join(map(str, batch['image_ids']))}")
    for part in ("loss localisation", "loss confidence"):
        own, other = float(ours[part]), float(theirs[part])
        print(f"{part}: {flags.accelerator} {own:.6g} ({name}), {flags.against} {other:.6g} ({their_name})")
    found = compare_traces(ours, theirs, dtype)
    in_order = [each.operator for each in found if each.operator in ours]
    first, broken = first_beyond(found), [name for name in in_order if not ours[name].isfinite().all()]
    if broken:
        both = "on both" if not theirs[broken[0]].isfinite().all() else f"on {flags.accelerator} alone"
        print(f"the first that is not finite, {both}: {plain(broken[0])}")
    if first is not None:
        print(f"the first that differs: {plain(str(first)).replace('the CPU', flags.against)}")
    if not broken and first is None:
        most = largest(found)
        print(f"{len(found)} tensors agree; the largest difference is {most.relative:.2g}, of {most.operator}")
    return not broken and first is None


def _device(accelerator: str) -> torch.device:
    return torch.device("cpu") if accelerator == "cpu" else torch.device(accelerator, 0)
