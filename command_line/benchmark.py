"""`ssd300 benchmark`: images per second of whole steps, loading included, on any device and any number of them.

ssd300 benchmark --mode training --accelerator mlu --devices 8 --batch_size 64 --precision auto --data_root data/coco
ssd300 benchmark --mode inference --batch_size 8 --json inference.json    # of the built-in sample's pictures
ssd300 benchmark --accelerator mlu --find_batch --profile trace.json      # the largest batch; where the time goes
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.tuner import Tuner
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from coco.whole_files import write_text
from command_line.fit_cli import FitCLI
from prediction.devices import device_flags
from ssd_module import load_module
from training.compiled import CompileTraining
from training.ranges import Range, out_of_range
from training.run_record import device_name
from training.step_cost import computing_dtype, matrix_product_rate, network_flops
from training.step_rate import Rate, StepProfile

RANGES = {"warmup": Range(0, whole=True), "iterations": Range(1, whole=True)}
SAMPLE_IMAGES = 64  # written where no data are given; each under many names, so that batches are filled
SAMPLE_ENTRIES = 2048
PROFILED = 5  # steps
FIRST_BATCH = 8  # that a search for the largest one tries


class BenchmarkCLI(FitCLI):
    """As for training, but nothing is logged or saved."""

    keeps = False

    def __init__(self, args: Sequence[str], callbacks: Sequence[pl.Callback], trains: bool) -> None:
        self.trains = trains
        super().__init__(args, callbacks)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        trainer = {**self.config_init.trainer, "logger": False, "enable_checkpointing": False}
        compiles = [CompileTraining(self.compiler)] if self.compiler else []
        trainer["callbacks"] = [*self.more_callbacks, *compiles]
        return pl.Trainer(**{**trainer, **device_flags(trainer)})


def measure(
    args: Sequence[str], rate: Rate, trains: bool, checkpoint: str | None = None, profiled: StepProfile | None = None
) -> pl.Trainer:
    """Takes the steps that `rate` counts, of training or of inference (validation: detection included), with the
    arguments of train.py, and then those of `profiled`; returns their Trainer. Weights are those of the checkpoint,
    if any."""
    steps = rate.warmup + rate.iterations + (profiled.steps if profiled else 0)
    limits = [f"--trainer.max_steps={steps}", f"--trainer.limit_val_batches={0 if trains else steps}"]
    cli = BenchmarkCLI([*args, *limits], [rate, *filter(None, [profiled])], trains)
    if checkpoint:
        cli.model.load_state_dict(load_module(checkpoint).state_dict())
    if trains:
        cli.trainer.fit(cli.model, cli.datamodule)
    while len(rate.seconds) < steps:
        cli.trainer.validate(cli.model, cli.datamodule, verbose=False)
    return cli.trainer


def main(args: Sequence[str] | None = None) -> None:
    """What `ssd300 benchmark` does; flags that are not its own are train.py's."""
    own, more = _parser().parse_known_args(args)
    if told := out_of_range(vars(own), RANGES, "--"):
        raise MisconfigurationException(told)
    trains = own.mode == "training"
    with tempfile.TemporaryDirectory() as folder:
        if not any(arg.partition("=")[0] in ("--data_root", "--data.data_root") for arg in more):
            _write_sample(folder)
            more = [*more, "--data_root", folder]
        flags = ["--max_epochs=-1", "--model.milestones=[]", "--trainer.enable_progress_bar=false", *more]
        if own.search_into:
            write_text(own.search_into, str(_search(flags, trains)))
            return
        if own.find_batch:
            flags += ["--batch_size=auto"]
        rate = Rate(own.warmup, own.iterations)
        profiled = StepProfile(own.profile, own.warmup + own.iterations, PROFILED) if own.profile else None
        trainer = measure(flags, rate, trains, own.checkpoint, profiled)
    if trainer.is_global_zero:
        figures = rate.figures()
        found = {"mode": own.mode, **_setting(trainer), **figures, **_of_the_device(trainer, figures["avg_img/sec"])}
        print(*(f"{name}: {_short(value)}" for name, value in found.items()), sep="\n")
        if profiled:
            print(f"\n{profiled.table}\n{profiled.steps} steps, all of them in {profiled.path}")
        if own.json:
            write_text(own.json, json.dumps(found, indent=1) + "\n", follow=True)


def _search(flags: Sequence[str], trains: bool) -> int:
    """The largest batch that Lightning's tuner gets through some steps."""
    what = "batch_size" if trains else "val_batch_size"
    # What keeps a run short would keep it from being a search.
    limits = ["--trainer.fast_dev_run=false", "--trainer.overfit_batches=0"]
    limits += ["--trainer.limit_val_batches=0", "--trainer.limit_train_batches=1.0"] if trains else []
    cli = BenchmarkCLI([*flags, *limits, f"--data.{what}={FIRST_BATCH}"], [], trains)
    found = Tuner(cli.trainer).scale_batch_size(
        cli.model,
        datamodule=cli.datamodule,
        method="fit" if trains else "validate",
        mode="binsearch",
        init_val=FIRST_BATCH,
        batch_arg_name=what,
    )
    return found


def _write_sample(folder: str) -> None:
    """By its own command, which nothing imports."""
    count = str(SAMPLE_IMAGES)
    command = [sys.executable, "-m", "coco.sample", folder, "--train", count, "--val", count]
    subprocess.run(command, cwd=Path(__file__).parent.parent, check=True, stdout=subprocess.DEVNULL)
    for path in Path(folder, "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        images, boxes = content["images"], content["annotations"]
        next_image, next_box = (1 + max(entry["id"] for entry in entries) for entries in (images, boxes))
        pictures = Path(folder, path.stem.removeprefix("instances_"))
        content["images"], content["annotations"] = images.copy(), boxes.copy()
        for again in range(1, SAMPLE_ENTRIES // SAMPLE_IMAGES):
            i, b = again * next_image, again * next_box
            for image in images:
                name = f"{again}_{image['file_name']}"
                content["images"].append({**image, "id": image["id"] + i, "file_name": name})
                os.link(pictures / image["file_name"], pictures / name)
            content["annotations"] += [{**box, "id": box["id"] + b, "image_id": box["image_id"] + i} for box in boxes]
        write_text(path, json.dumps(content))


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


def _of_the_device(trainer: pl.Trainer, images_per_second: float) -> dict[str, float]:
    """The arithmetic of the network's convolutions beside what the devices do of matrix products, measured now."""
    hparams, trains = trainer.lightning_module.hparams, trainer.state.fn == "fit"
    flops = images_per_second * network_flops(hparams.backbone, hparams.num_classes, trains)
    rate = matrix_product_rate(trainer.strategy.root_device, computing_dtype(trainer.precision)) * trainer.world_size
    return {"network_tflop/sec": flops / 1e12, "matrix_product_tflop/sec": rate / 1e12, "share": flops / rate}


def _short(value: Any) -> str:
    return str(value) if not isinstance(value, float) else f"{value:.2f}" if value >= 1 else f"{value:.3g}"


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
    parser.add_argument("--find_batch", action="store_true", help="measure with the largest batch that fits a device")
    parser.add_argument("--profile", type=Path, metavar="TRACE", help="profile 5 steps more: a table, and this trace")
    parser.add_argument("--search_into", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser
