"""The published recipe's main.py: each of its modes by ours (published_flags.py translates the flags)."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from checkpoints.files import CheckpointError
from command_line.benchmark import measure
from command_line.evaluate import evaluate
from command_line.fit import print_results, train
from command_line.published_flags import as_typed, evaluate_arguments, parameters, parse, train_arguments
from command_line.shared import USER_ERRORS
from ssd_module import load_module
from training.dllogger import DLLogger
from training.published_saving import SavePublished
from training.step_rate import Rate


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
    rate = Rate(args.benchmark_warmup, args.benchmark_iterations)
    args.epochs, args.multistep, args.checkpoint, checkpoint = -1, [], None, args.checkpoint
    trains = args.mode == "benchmark-training"
    trainer = measure([*train_arguments(args), "--model.backbone_weights=null", *more], rate, trains, checkpoint)
    figures = rate.figures()
    for logger in _loggers(args):
        logger.log_hyperparams({})
        logger.log((), figures)
    if trainer.is_global_zero:
        print(
            f"Done benchmarking. Average images/sec: {figures['avg_img/sec']:.3f}\t"
            f"Median images/sec: {figures['med_img/sec']:.3f}"
        )


def _loggers(args: Namespace, appends: bool = False) -> list[DLLogger]:
    if not args.json_summary:
        return []
    return [DLLogger(args.json_summary, append=appends, parameters=parameters(args))]
