"""The published recipe's main.py: each of its modes by ours (published_flags.py translates the flags)."""

import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from checkpoints.files import CheckpointError
from command_line.evaluate import evaluate
from command_line.fit import print_results, train
from command_line.fit_cli import FitCLI
from command_line.published_flags import as_typed, evaluate_arguments, parameters, parse, train_arguments
from command_line.shared import USER_ERRORS
from prediction.devices import device_flags
from ssd_module import load_module
from training.dllogger import DLLogger
from training.published_saving import SavePublished


def main(argv: Sequence[str] | None = None, command: Sequence[str] = ()) -> None:
    """Runs one mode with the published flags (those of the process by default)."""
    typed = sys.argv[1:] if argv is None else argv
    try:
        _run(typed, command or (sys.executable, "main.py", *typed))
    except USER_ERRORS as error:
        error.args = (as_typed(str(error), typed),)
        raise


def _run(argv: Sequence[str], command: Sequence[str]) -> None:
    args, more = parse(argv)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.allow_tf32
    if args.mode == "training":
        _train(args, more, command)
    elif args.mode == "evaluation":
        _evaluate(args, more)
    else:
        _benchmark(args, more)


class EvaluateAt(pl.Callback):
    """Validates after the epochs given (the first is 0), and no other."""

    def __init__(self, epochs: Sequence[int]) -> None:
        self.epochs = set(epochs)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # which Lightning leaves out in an epoch that is resumed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Every epoch, or every so many that this one is not among them.
        trainer.check_val_every_n_epoch = 1 if trainer.current_epoch in self.epochs else trainer.current_epoch + 2


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


class _BenchmarkCLI(FitCLI):
    """As for training, but nothing is logged or saved."""

    keeps = False

    def __init__(self, args: Sequence[str], rate: Rate, trains: bool) -> None:
        self.trains = trains
        super().__init__(args, [rate])

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        trainer = {**self.config_init.trainer, "logger": False, "enable_checkpointing": False}
        trainer["callbacks"] = self.more_callbacks
        return pl.Trainer(**{**trainer, **device_flags(trainer)})


def _train(args: Namespace, more: Sequence[str], command: Sequence[str]) -> None:
    callbacks: list[pl.Callback] = []
    if not any(arg.partition("=")[0] == "--trainer.check_val_every_n_epoch" for arg in more):
        callbacks.append(EvaluateAt(args.evaluation))
    if args.save:
        callbacks.append(SavePublished(Path(args.save)))
    loggers = _loggers(args, appends=args.checkpoint is not None or any("--ckpt_path" in arg for arg in more))
    print_results(train(train_arguments(args, more), callbacks, loggers, command))


def _evaluate(args: Namespace, more: Sequence[str]) -> None:
    arguments = evaluate_arguments(args, more)
    found = load_module(args.checkpoint).hparams.backbone
    if args.backbone not in (None, found):
        raise CheckpointError(
            f"--backbone {args.backbone}: {args.checkpoint} is a {found}; leave the flag out, or give that"
        )
    numbers = evaluate(arguments)
    for logger in _loggers(args):
        logger.log_hyperparams({})
        logger.log_metrics({f"val/{name}": value for name, value in numbers.items()})
        logger.finalize("success")
    if rank_zero_only.rank == 0:
        print(f"Model precision {numbers['mAP']} mAP")


def _benchmark(args: Namespace, more: Sequence[str]) -> None:
    training = args.mode == "benchmark-training"
    rate = Rate(args.benchmark_warmup, args.benchmark_iterations)
    steps = rate.warmup + rate.iterations
    args.epochs, args.multistep, args.checkpoint, checkpoint = -1, [], None, args.checkpoint
    limits = [f"--trainer.max_steps={steps}", f"--trainer.limit_val_batches={0 if training else steps}"]
    cli = _BenchmarkCLI([*train_arguments(args), "--model.backbone_weights=null", *limits, *more], rate, training)
    if checkpoint:
        cli.model.load_state_dict(load_module(checkpoint).state_dict())
    if training:
        cli.trainer.fit(cli.model, cli.datamodule)
    while not rate.done:
        cli.trainer.validate(cli.model, cli.datamodule, verbose=False)
    figures = rate.figures()
    for logger in _loggers(args):
        logger.log_hyperparams({})
        logger.log((), figures)
    if cli.trainer.is_global_zero:
        print(
            f"Done benchmarking. Average images/sec: {figures['avg_img/sec']:.3f}\t"
            f"Median images/sec: {figures['med_img/sec']:.3f}"
        )


def _loggers(args: Namespace, appends: bool = False) -> list[DLLogger]:
    if not args.json_summary:
        return []
    return [DLLogger(args.json_summary, append=appends, parameters=parameters(args))]
