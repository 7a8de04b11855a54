"""`ssd300 benchmark`: images per second of whole steps, loading included, on any device and any number of them.

ssd300 benchmark --mode training --accelerator mlu --devices 8 --batch_size 64 --precision auto --data_root data/coco
ssd300 benchmark --mode inference --batch_size 8 --json inference.json    # of the built-in sample's pictures
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from coco.whole_files import write_text
from command_line.fit_cli import FitCLI
from prediction.devices import device_flags
from ssd_module import load_module
from training.compiled import CompileTraining
from training.ranges import Range, out_of_range
from training.run_record import device_name

RANGES = {"warmup": Range(0, whole=True), "iterations": Range(1, whole=True)}
SAMPLE_IMAGES = 64  # written where no data are given


class Rate(pl.Callback):
    """Images per second of single steps over all devices, after `warmup` of them, with the wait for their data."""

    def __init__(self, warmup: int, iterations: int) -> None:
        self.warmup, self.iterations = warmup, iterations
        self.images: list[int] = []
        self.seconds: list[float] = []
        self._since: float | None = None

    @property
    def done(self) -> bool:
        return len(self.seconds) >= self.warmup + self.iterations

    def on_train_batch_start(self, *args: Any) -> None:
        self._since = self._since or time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        device = trainer.strategy.root_device
        if device.type != "cpu":
            getattr(torch, device.type).synchronize(device)
        now = time.perf_counter()
        self.seconds.append(now - (self._since or now))
        self.images.append(len(batch["images"]) * trainer.world_size)
        self._since = now

    on_validation_batch_start, on_validation_batch_end = on_train_batch_start, on_train_batch_end

    def on_validation_start(self, *args: Any) -> None:
        self._since = None

    def figures(self) -> dict[str, float]:
        measured = slice(self.warmup, self.warmup + self.iterations)
        images, seconds = np.asarray(self.images[measured]), np.asarray(self.seconds[measured])
        rates = images / seconds
        return {
            "avg_img/sec": float(images.sum() / seconds.sum()),
            "med_img/sec": float(np.median(rates)),
            "min_img/sec": float(rates.min()),
            "max_img/sec": float(rates.max()),
        }


class BenchmarkCLI(FitCLI):
    """As for training, but nothing is logged or saved."""

    keeps = False

    def __init__(self, args: Sequence[str], rate: Rate, trains: bool) -> None:
        self.trains = trains
        super().__init__(args, [rate])

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        trainer = {**self.config_init.trainer, "logger": False, "enable_checkpointing": False}
        compiles = [CompileTraining(self.compiler)] if self.compiler else []
        trainer["callbacks"] = [*self.more_callbacks, *compiles]
        return pl.Trainer(**{**trainer, **device_flags(trainer)})


def measure(args: Sequence[str], rate: Rate, trains: bool, checkpoint: str | None = None) -> pl.Trainer:
    """Takes the steps that `rate` counts, of training or of inference (validation: detection included), with the
    arguments of train.py; returns their Trainer. Weights are those of the checkpoint, if any."""
    steps = rate.warmup + rate.iterations
    limits = [f"--trainer.max_steps={steps}", f"--trainer.limit_val_batches={0 if trains else steps}"]
    cli = BenchmarkCLI([*args, *limits], rate, trains)
    if checkpoint:
        cli.model.load_state_dict(load_module(checkpoint).state_dict())
    if trains:
        cli.trainer.fit(cli.model, cli.datamodule)
    while not rate.done:
        cli.trainer.validate(cli.model, cli.datamodule, verbose=False)
    return cli.trainer


def main(args: Sequence[str] | None = None) -> None:
    """What `ssd300 benchmark` does; flags that are not its own are train.py's."""
    own, more = _parser().parse_known_args(args)
    if told := out_of_range(vars(own), RANGES, "--"):
        raise MisconfigurationException(told)
    rate = Rate(own.warmup, own.iterations)
    with tempfile.TemporaryDirectory() as folder:
        if not any(arg.partition("=")[0] in ("--data_root", "--data.data_root") for arg in more):
            _write_sample(folder)
            more = [*more, "--data_root", folder]
        flags = ["--max_epochs=-1", "--model.milestones=[]", "--trainer.enable_progress_bar=false", *more]
        trainer = measure(flags, rate, own.mode == "training", own.checkpoint)
    if trainer.is_global_zero:
        found = {"mode": own.mode, **_setting(trainer), **rate.figures()}
        print(*(f"{name}: {_short(value)}" for name, value in found.items()), sep="\n")
        if own.json:
            write_text(own.json, json.dumps(found, indent=1) + "\n", follow=True)


def _write_sample(folder: str) -> None:
    """By its own command, which nothing imports."""
    count = str(SAMPLE_IMAGES)
    command = [sys.executable, "-m", "coco.sample", folder, "--train", count, "--val", count]
    subprocess.run(command, cwd=Path(__file__).parent.parent, check=True, stdout=subprocess.DEVNULL)


def _setting(trainer: pl.Trainer) -> dict[str, Any]:
    """What the figures were measured with, and the memory that it took."""
    root, module, data = trainer.strategy.root_device, trainer.lightning_module, trainer.datamodule
    setting = {
        "backbone": module.hparams.backbone,
        "precision": trainer.precision,
        "device": root.type if root.type == "cpu" else device_name(root),
        "devices": trainer.world_size,
        "batch_size": data.batch_size if trainer.state.fn == "fit" else data.val_batch_size,
        "threads": torch.get_num_threads(),
        "loader_workers": data.num_workers,
        "torch": torch.__version__,
    }
    if root.type != "cpu":
        setting["memory_peak_mib"] = round(getattr(torch, root.type).max_memory_allocated(root) / 2**20)
    return setting


def _short(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ssd300 benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="All flags of train.py are taken too (ssd300 train --help), --compile_training among them.",
        allow_abbrev=False,
    )
    parser.add_argument("--mode", choices=("training", "inference"), default="training")
    parser.add_argument("--warmup", type=int, default=20, help="steps before those that count (default 20)")
    parser.add_argument("--iterations", type=int, default=20, help="steps that count (default 20)")
    parser.add_argument("--checkpoint", help="weights, ours or the published recipe's; random ones by default")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser
