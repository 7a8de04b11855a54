"""FitCLI: the arguments of train.py, their checks, the callbacks of a run, and its directory."""

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.loggers import Logger, TensorBoardLogger
from pytorch_lightning.plugins.io import CheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from checkpoints.durable_io import DurableCheckpointIO
from checkpoints.files import CheckpointError, read_checkpoint, remove_unfinished
from checkpoints.finding import resume_path
from command_line.batch_search import automatic_batch
from command_line.configs import write_config
from command_line.shared import ScriptCLI, listed, without_flags
from command_line.trainer_flags import check_trainer_flags
from datamodule import COCODataModule, fit_stages
from prediction.devices import check_device, device_flags, training_compiler
from ssd.model import FEATURE_CHANNELS
from ssd_module import SSDModule, load_module
from training.compiled import CompileTraining
from training.continued_logs import ContinuedLogs
from training.csv_log import CSVLog, table_directory
from training.finetune import check_backbone
from training.last_checkpoint import LastCheckpoint
from training.loader_watch import LoaderWatch
from training.loggers import check_log_to, further_loggers
from training.losses import GradientNorm, LearningRate, LossMonitor, SkipNonFiniteSteps
from training.pictures import ClassPrecision, TensorBoardPictures, TrainBatch
from training.progress import RunProgress
from training.random_states import RandomStates
from training.ranges import Range, out_of_range
from training.run_checkpoints import BEST_BY, run_checkpoints
from training.run_directory import claim_run_directory, give_back
from training.run_record import write_run_record
from training.settings import ONE_IMAGE, check_settings, check_training_precision
from training.throughput import EpochTime, Throughput

RANGES = {
    "save_every_n_steps": Range(1, whole=True),
    "save_every_minutes": Range(0, above=True),
    "max_skipped_steps": Range(0, whole=True),
    "stall_seconds": Range(0, above=True),
    "keep_epochs": Range(0, whole=True),
}


class FitCLI(ScriptCLI):
    """Arguments of train.py: trainer, model and data, a run directory and a checkpoint to resume from.

    `callbacks` and `loggers` come beside those of the configuration and the standard ones.
    """

    trains = True  # False: only validation will be asked of the Trainer
    keeps = True  # False: nothing is written, so that there is no run directory to claim

    def __init__(
        self,
        args: Sequence[str] | None = None,
        callbacks: Sequence[pl.Callback] = (),
        loggers: Sequence[Logger] = (),
        command: Sequence[str] = (),
    ) -> None:
        self.more_callbacks, self.more_loggers = list(callbacks), list(loggers)
        args = sys.argv[1:] if args is None else args
        self.command = command or (sys.executable, "train.py", *args)
        self.args = args
        super().__init__(SSDModule, args)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add = parser.add_argument
        add("--run_dir", type=Path | None, default=None, help="Directory of the run; by default a new one below runs/.")
        resume = "Resume from this checkpoint; `last`: newest readable one of --run_dir; `auto`: that or a fresh start."
        add("--ckpt_path", type=str | None, default=None, help=resume)
        add("--save_every_n_steps", type=int | None, default=None, help="Optimiser steps between saves of last.ckpt.")
        minutes = "Minutes between saves of last.ckpt, beside those at every validation and epoch end."
        add("--save_every_minutes", type=float | None, default=10.0, help=minutes)
        skipped = "Steps with non-finite gradients to leave out, over the run, before it is an error."
        add("--max_skipped_steps", type=int, default=0, help=skipped)
        stall = "Report the pictures being read when no batch has come for so long; null: never."
        add("--stall_seconds", type=float | None, default=60.0, help=stall)
        kept = "Keep the checkpoint of every K-th epoch beside best and last; true: of every epoch, false: of none."
        add("--keep_epochs", type=bool | int, default=10, help=kept)
        best = (
            "The number by which best.ckpt is the best: mAP, val/mAP_50 or another of COCO's, or val/loss (the least)."
        )
        add("--best_by", type=str, default="mAP", help=best)
        compiled = "Compile what a training step computes; true, or the name of a backend of torch.compile."
        add("--compile_training", type=bool | str, default=False, help=compiled)
        loggers = "Log to these too: dllogger, mlflow or wandb, one or a list (docs/loggers.md)."
        add("--log_to", type=str | list[str], default=[], help=loggers)
        # The published recipe's epochs; and the first lines say what there is to say of the model.
        parser.set_defaults({"trainer.max_epochs": 65, "trainer.enable_model_summary": False})
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")
        parser.link_arguments("data.category_ids", "model.category_ids", apply_on="instantiate")
        parser.link_arguments("data.class_names", "model.num_classes", compute_fn=len, apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """The checks, in the order a user can act on them: settings, device, data, checkpoint."""
        self.batch_is_auto = self.config.data.batch_size == "auto"
        if self.batch_is_auto:  # at least this; what it becomes is known after the checks
            self.config.data.batch_size = 2
        self._check_settings()
        check_device(self.config.trainer)
        self.compiler = training_compiler(self.config.compile_training, self.config.trainer)
        if self.config.model.backbone not in FEATURE_CHANNELS:
            raise MisconfigurationException(
                f"--model.backbone {self.config.model.backbone}: expected one of {', '.join(FEATURE_CHANNELS)}"
            )
        COCODataModule(**self.config.data.as_dict()).check(fit_stages(self.config.trainer.limit_val_batches))
        self.ckpt_path = resume_path(self.config.ckpt_path, self.config.run_dir)
        if self.precision_is_auto and self.ckpt_path:
            self._keep_precision(self.ckpt_path)
        if self.batch_is_auto:
            self.config.data.batch_size = automatic_batch(self.config.trainer, self.args, self.ckpt_path, self.trains)
        if self.config.model.finetune_from and not self.ckpt_path:
            source = self.config.model.finetune_from
            check_backbone(source, load_module(source), self.config.model.backbone)
        # Lightning's trial of a few batches leaves nothing behind.
        self.is_trial = bool(self.config.trainer.fast_dev_run) or not self.keeps
        trial = self.config.run_dir or Path("runs")
        self.run_dir = trial if self.is_trial else claim_run_directory(self.config.run_dir, self.ckpt_path is not None)

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except BaseException:
            if self.config.run_dir is None and not self.is_trial:
                give_back(self.run_dir)
            raise

    def _keep_precision(self, ckpt_path: Path) -> None:
        """A run that resumes with `--precision auto` goes on in its own, on another device too."""
        made_with = read_checkpoint(ckpt_path).get("made_with", {})  # none in the published recipe's files
        saved = made_with.get("trainer", {}).get("precision", self.config.trainer.precision)
        if saved != self.config.trainer.precision:
            self.config.trainer.precision = saved
            check_device(self.config.trainer)

    def _check_settings(self) -> None:
        check_trainer_flags(self.config.trainer, fits=self.trains)
        numbers = {**self.config.as_dict(), "keep_epochs": int(self.config.keep_epochs)}
        if told := out_of_range(numbers, RANGES, "--"):
            raise MisconfigurationException(told)
        if self.config.best_by not in BEST_BY:
            raise MisconfigurationException(
                f"--best_by {self.config.best_by}: expected one of {', '.join(BEST_BY)}. By other logged numbers: "
                "--trainer.callbacks+=ModelCheckpoint --trainer.callbacks.monitor NAME"
            )
        self.config.log_to = listed(self.config.log_to)
        check_log_to(self.config.log_to)
        if self.trains:
            check_training_precision(self.config.trainer.precision)
            can_be_one = self.config.trainer.sync_batchnorm or "norm" in self.config.model.freeze
            if self.config.data.batch_size == 1 and not can_be_one:
                raise MisconfigurationException(ONE_IMAGE)
        try:
            check_settings(self.config.model.as_dict())
        except ValueError as error:
            raise MisconfigurationException(str(error)) from None

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        trainer = dict(self.config_init.trainer)
        first: list[pl.Callback] = [AtStart(self.save_config), ContinuedLogs()]
        if self.is_trial:
            trainer |= {"enable_checkpointing": False, "logger": False}
            first = []
        else:
            first.append(TrainBatch(self.run_dir / "pictures"))
        callbacks = [*first, *listed(trainer["callbacks"]), *self.more_callbacks, *_watchers(self.config)]
        if self.compiler:
            callbacks.append(CompileTraining(self.compiler))
        if trainer["enable_checkpointing"] is not False:
            directory = self.run_dir / "checkpoints"
            callbacks += run_checkpoints(directory, self.config.keep_epochs, self.config.best_by)
            callbacks.append(LastCheckpoint(directory, self.config.save_every_n_steps, self.config.save_every_minutes))
        if trainer["enable_progress_bar"] is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(RunProgress())
        trainer["callbacks"] = callbacks
        if trainer["logger"] in (None, True):
            trainer["logger"] = [
                TensorBoardLogger(self.run_dir / "logs", name="tensorboard", version="", default_hp_metric=False),
                CSVLog(table_directory(self.run_dir / "logs" / "csv")),
                *self.more_loggers,
            ]
        if self.config.log_to and not self.is_trial:
            further = further_loggers(self.config.log_to, self.run_dir)
            trainer["logger"] = [*listed(trainer["logger"] or None), *further]
        trainer["default_root_dir"] = None if self.is_trial else str(self.run_dir)
        plugins = listed(trainer["plugins"])
        own = [] if any(isinstance(plugin, CheckpointIO) for plugin in plugins) else [DurableCheckpointIO()]
        trainer["plugins"] = [*plugins, *own]
        return pl.Trainer(**{**trainer, **device_flags(trainer)})

    @rank_zero_only
    def make_run_directory(self) -> None:
        """What killed processes left unfinished in it goes."""
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
            for directory in (self.run_dir, self.run_dir / "checkpoints"):
                remove_unfinished(directory)
        except OSError as error:
            raise self._unwritable(error) from None

    @rank_zero_only
    def save_config(self) -> Path:
        """Writes the resolved configuration into the run directory, and beside it what else the run depends on; a
        resumed run adds numbered ones."""
        path, number = self.run_dir / "config.yaml", 1
        while path.exists():
            path, number = self.run_dir / f"config_{number}.yaml", number + 1
        try:
            write_config(path, self._dump())
            write_run_record(path.with_name(path.name.replace("config", "run")).with_suffix(".json"), self)
        except OSError as error:
            raise self._unwritable(error) from None
        return path

    def _unwritable(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"--run_dir {self.run_dir}: cannot be written ({error.strerror})")

    def _dump(self) -> str:
        """Every setting, also those set to null, but for where the run lies and what it resumes from."""
        kept = self.config.clone()
        for name in ("config", "run_dir", "ckpt_path"):
            kept.pop(name, None)
        return self.parser.dump(kept, skip_none=False)

    @property
    def resume_command(self) -> str:
        """What goes on with this run, from the same directory, once something was saved."""
        kept = without_flags(self.command, ("run_dir", "ckpt_path", "checkpoint"))
        return shlex.join([*kept, "--run_dir", str(self.run_dir), "--ckpt_path", "auto"])

    @property
    def start_command(self) -> str:
        """What starts it again in its directory, from the checkpoint that it was resumed from, if any."""
        return shlex.join([*without_flags(self.command, ("run_dir",)), "--run_dir", str(self.run_dir)])


class AtStart(pl.Callback):
    """Calls `do` when training begins: when nothing can refuse the run any more."""

    def __init__(self, do: Callable[[], Any]) -> None:
        self._do = do

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._do()


def _watchers(config: Any) -> list[pl.Callback]:
    losses = LossMonitor()
    return [
        losses,
        GradientNorm(),  # before the next but one, which drops gradients
        LearningRate(),
        *([SkipNonFiniteSteps(losses, config.max_skipped_steps)] if config.max_skipped_steps else []),
        Throughput(),
        EpochTime(),
        *([LoaderWatch(config.stall_seconds)] if config.stall_seconds else []),
        ClassPrecision(),
        TensorBoardPictures(),
        RandomStates(),
    ]
