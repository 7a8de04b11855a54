"""Fitting from the command line: parses, trains, says what came out."""

import signal
import sys
from collections.abc import Sequence

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only, rank_zero_warn

from checkpoints.durable_io import DurableCheckpointIO
from checkpoints.files import CheckpointError
from coco.cores import busy_cores, usable_cores
from command_line.fit_cli import FitCLI
from command_line.shared import FULL_DISK, USER_ERRORS
from command_line.streams import say
from datamodule import fit_stages
from evaluation.tables import metrics_table
from training.finished import finished
from training.last_checkpoint import LastCheckpoint, Preempted
from training.model_card import write_model_card
from training.optimisation import OPTIMIZER_STATES, REFERENCE_BATCH
from training.run_checkpoints import what_is_kept
from training.run_directory import held
from training.run_record import device_name


def train(
    args: Sequence[str] | None = None,
    callbacks: Sequence[pl.Callback] = (),
    loggers: Sequence[Logger] = (),
    command: Sequence[str] = (),
) -> pl.Trainer:
    """Parses the arguments (those of the process by default), trains, and returns the trainer after fitting. Of a run
    that is finished it says so, and changes nothing.

    `callbacks` and `loggers` come beside those of the configuration. `command` is what a user typed, if not train.py
    with these arguments.

    Raises:
        Preempted: stopped by a signal, after printing how to go on. Else `command_line.shared.USER_ERRORS`.
    """
    cli = FitCLI(args, callbacks, loggers, command)
    if told := _finished(cli):
        if cli.trainer.is_global_zero:
            print(told)
        return cli.trainer
    if cli.is_trial:
        _fit(cli)
        return cli.trainer
    with held(cli.run_dir):
        return _run(cli)


def _run(cli: FitCLI) -> pl.Trainer:
    cli.make_run_directory()
    if cli.trainer.is_global_zero:
        print(f"run directory: {cli.run_dir}", *_first_lines(cli), sep="\n")
        if cli.trainer.checkpoint_callbacks:
            states = OPTIMIZER_STATES[cli.model.hparams.optimizer]
            kept = what_is_kept(cli.model, cli.config.keep_epochs, cli.trainer.max_epochs, states)
            print(f"checkpoints: {kept}")
        sys.stdout.flush()
    try:
        _fit(cli)
        _write_card(cli, whole=True)
    except Preempted as stop:
        if cli.trainer.is_global_zero:
            _write_card(cli, whole=False)
            say(f"{stop}. To go on:\n{_command(cli)}")
        raise
    except (KeyboardInterrupt, SystemExit) as interrupt:
        if not (isinstance(interrupt, KeyboardInterrupt) or isinstance(interrupt.__context__, KeyboardInterrupt)):
            raise
        if cli.trainer.is_global_zero:
            say(f"interrupted at once. To go on from what was saved before:\n{_command(cli)}")
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        # In a logger's write; a checkpoint's says so itself.
        then = "The last checkpoint is whole: make room, resume" if _has_saved(cli) else "Make room, and start again"
        raise CheckpointError(f"--run_dir {cli.run_dir}: {error.strerror} for the logs. {then}") from None
    return cli.trainer


@rank_zero_only
def _write_card(cli: FitCLI, whole: bool) -> None:
    """Never the run's end: its checkpoints are there."""
    path = cli.run_dir / "model_card.md"
    try:
        write_model_card(path, cli, whole)
    except OSError as error:
        rank_zero_warn(f"{path}: cannot be written ({error.strerror})")


def _first_lines(cli: FitCLI) -> list[str]:
    """What a run is made of: device, data, model, rate."""
    trainer, data, model = cli.trainer, cli.datamodule, cli.model
    devices = f"{trainer.world_size} x " if trainer.world_size > 1 else ""
    root = trainer.strategy.root_device
    device = f"{devices}{root.type}" + (f" ({device_name(root)})" if root.type != "cpu" else "")
    auto = " (auto)" if cli.precision_is_auto else ""
    images = [f"{data.num_train_images} training images"]
    if data.tiling is not None:
        images[0] += f" in {data.num_train_samples} tiles of {data.tiling.size} pixels"
    if "val" in fit_stages(trainer.limit_val_batches):
        images.append(f"{min(len(data.val_annotations), data.val_limit or len(data.val_annotations))} for validation")
    accumulated = f" x {trainer.accumulate_grad_batches} accumulated" if trainer.accumulate_grad_batches > 1 else ""
    batch = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
    rate = model.hparams.learning_rate * batch / REFERENCE_BATCH
    shared = _shared_cores(root.type)
    weights = sum(parameter.numel() for parameter in model.model.parameters())
    return [
        f"device: {device}, {trainer.precision}{auto}, {torch.get_num_threads()} threads, "
        f"{data.num_workers} loader workers",
        *([shared] if shared else []),
        f"data: {', '.join(images)}, {len(data.class_names)} classes",
        f"model: SSD300 with {model.hparams.backbone}, {weights / 1e6:.1f} M weights",
        f"batch: {devices}{data.batch_size}{accumulated}, {model.hparams.optimizer} at rate {rate:.3g}",
    ]


def _shared_cores(device_type: str) -> str | None:
    """What to do where other work has cores that this run's threads would have: all of them wait for the slowest one.

    The number of threads is the user's to choose, since sums in other parts are other sums.
    """
    cores, threads = usable_cores(), torch.get_num_threads()
    if device_type != "cpu" or threads == 1:
        return None
    busy = round(busy_cores() or 0)
    if busy < 1 or threads + busy <= cores:
        return None
    return (
        f"load: {busy} of {cores} cores have other work now; OMP_NUM_THREADS={max(1, cores - busy)} leaves it "
        "theirs, and may be faster by far"
    )


def _fit(cli: FitCLI) -> None:
    """Raises Preempted also where the signal came after the last epoch, or ended another rank first."""
    trainer = cli.trainer
    last = next((callback for callback in trainer.callbacks if isinstance(callback, LastCheckpoint)), None)
    try:
        trainer.fit(cli.model, cli.datamodule, ckpt_path=cli.ckpt_path, weights_only=True)
    except USER_ERRORS:
        raise
    except RuntimeError as error:  # of a collective that another rank has left
        if last is None or not last.told_to_stop or trainer.world_size == 1:
            raise
        raise last.preempted(trainer) from error
    if last is not None and last.told_to_stop:
        raise last.preempted(trainer)


def _command(cli: FitCLI) -> str:
    return cli.resume_command if _has_saved(cli) else cli.start_command


def _has_saved(cli: FitCLI) -> bool:
    return any((cli.run_dir / "checkpoints").glob("*.ckpt"))


def main(args: Sequence[str] | None = None, command: Sequence[str] = ()) -> None:
    """What train.py does; see `train`."""
    print_results(train(args, command=command))


def _finished(cli: FitCLI) -> str | None:
    if cli.ckpt_path is None:
        return None
    checkpoint = DurableCheckpointIO().load_checkpoint(cli.ckpt_path)
    return finished(checkpoint, cli.ckpt_path, cli.trainer, cli.datamodule)


def print_results(trainer: pl.Trainer) -> None:
    """COCO's numbers of the last validation, and where the checkpoints are."""
    if not trainer.is_global_zero:
        return
    numbers = {key.removeprefix("val/"): float(value) for key, value in trainer.callback_metrics.items()}
    if "mAP_50" in numbers:
        print(metrics_table(numbers))
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, LastCheckpoint):
            print(f"last checkpoint: {callback.path}")
        elif isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_score is not None:
            score = f"{callback.monitor} {float(callback.best_model_score):.3f}"
            print(f"best checkpoint ({score}): {callback.best_model_path}")
