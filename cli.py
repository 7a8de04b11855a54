"""The command line that the scripts share: Lightning's CLI, short flags for the common options, run directories.

Both habits work in any mixture, the later winning: `--trainer.accelerator cuda --config F` and `--accelerator cuda`.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from accelerators import resolve_trainer_flags
from callbacks import ClassPrecision, ImagesPerSecond, NonFiniteLossError, StopOnNonFiniteLoss
from checkpoints import CheckpointError, read_checkpoint, resume_path
from coco.annotations import AnnotationError
from coco.dataset import ImageError
from datamodule import COCODataModule, DataError
from finetune import check_backbone
from pictures import DetectionPictures, TensorBoardPictures
from pretrained import PretrainedWeightsError
from ssd.model import FEATURE_CHANNELS
from ssd_module import SSDModule, load_module

SHORT_FLAGS = {
    **{
        name: f"trainer.{name}"
        for name in ("accelerator", "devices", "num_nodes", "precision", "strategy", "max_epochs")
    },
    **{name: f"data.{name}" for name in ("data_root", "batch_size", "num_workers")},
    "seed": "seed_everything",
    "finetune_from": "model.finetune_from",
}
# What a user can mend; shown as one message without a traceback.
USER_ERRORS = (
    AnnotationError,
    CheckpointError,
    DataError,
    ImageError,
    MisconfigurationException,
    NonFiniteLossError,
    PretrainedWeightsError,
)


class _ScriptCLI(LightningCLI):
    """Lightning's CLI, which parses and builds, but neither runs nor chooses an optimiser."""

    def __init__(self, model: Any, args: Sequence[str]) -> None:
        super().__init__(
            model,
            COCODataModule,
            save_config_callback=None,
            seed_everything_default=0,
            args=list(args),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """As Lightning's, which warns whenever arguments are given by the caller."""
        self.config = parser.parse_args(args)


class FitCLI(_ScriptCLI):
    """Arguments of train.py: trainer, model and data, a run directory and a checkpoint to resume from."""

    def __init__(self, args: Sequence[str] | None = None) -> None:
        super().__init__(SSDModule, long_flags(sys.argv[1:] if args is None else args))

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add = parser.add_argument
        add("--run_dir", type=Path | None, default=None, help="Directory of the run; by default a new one below runs/.")
        resume = "Resume from this checkpoint; `last` is that of --run_dir, `auto` the same or a fresh start."
        add("--ckpt_path", type=str | None, default=None, help=resume)
        add("--keep_epochs", type=bool, default=True, help="Keep every epoch's checkpoint beside best and last.")
        parser.set_defaults({"trainer.max_epochs": 65})  # the published recipe's
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.link_arguments("data.class_names", "model.class_names", apply_on="instantiate")
        parser.link_arguments("data.category_ids", "model.category_ids", apply_on="instantiate")
        parser.link_arguments("data.class_names", "model.num_classes", compute_fn=len, apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """The checks, in the order a user can act on them: device, data, checkpoint."""
        check_device(self.config.trainer)
        if self.config.model.backbone not in FEATURE_CHANNELS:
            raise MisconfigurationException(
                f"--model.backbone {self.config.model.backbone}: expected one of {', '.join(FEATURE_CHANNELS)}"
            )
        COCODataModule(**self.config.data.as_dict()).check()
        self.ckpt_path = resume_path(self.config.ckpt_path, self.config.run_dir)
        if self.ckpt_path and "state_dict" not in read_checkpoint(self.ckpt_path):
            raise CheckpointError(f"--ckpt_path {self.ckpt_path}: no Lightning checkpoint, so no run to resume from it")
        if self.config.model.finetune_from and not self.ckpt_path:
            source = self.config.model.finetune_from
            check_backbone(source, load_module(source), self.config.model.backbone)
        self.run_dir = _claim_run_dir(self.config.run_dir, resumes=self.ckpt_path is not None)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        trainer = dict(self.config_init.trainer)
        trainer["callbacks"] = [*(trainer["callbacks"] or []), *_callbacks(self.run_dir, self.config.keep_epochs)]
        if trainer["enable_progress_bar"] is not False:
            trainer["callbacks"].append(TQDMProgressBar(refresh_rate=10))
        if trainer["logger"] is None:
            trainer["logger"] = [
                TensorBoardLogger(self.run_dir / "logs", name="tensorboard", version=""),
                CSVLogger(self.run_dir / "logs", name="csv"),
            ]
        trainer["default_root_dir"] = str(self.run_dir)
        return pl.Trainer(**{**trainer, **device_flags(trainer)})

    @rank_zero_only
    def save_config(self) -> Path:
        """Writes the resolved configuration into the run directory; a resumed run adds a numbered one."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        path, number = self.run_dir / "config.yaml", 1
        while path.exists():
            path, number = self.run_dir / f"config_{number}.yaml", number + 1
        path.write_text(self.parser.dump(self.config))
        return path


class EvaluateCLI(_ScriptCLI):
    """Arguments of evaluate.py: trainer and data; the model comes from `--ckpt_path`."""

    def __init__(self, args: Sequence[str] | None = None) -> None:
        more = {"ckpt_path": "model.path", "limit": "data.val_limit"}
        super().__init__(load_module, long_flags(sys.argv[1:] if args is None else args, more))

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add = parser.add_argument
        add("--json", type=Path | None, default=None, help="Also write the numbers to this file.")
        add(
            "--report",
            type=Path | None,
            default=None,
            help="Write tables, plots and the worst images to this directory.",
        )
        add("--pictures", type=Path | None, default=None, help="Draw 12 images' detections in this directory.")
        add("--fold_batch_norm", type=bool, default=False, help="Fewer layers, the same result up to rounding.")
        add("--compile", type=bool, default=False, help="Compile the network, with batch normalisation folded.")
        add("--score_threshold", type=float | None, default=None, help="Of detections; by default the checkpoint's.")

    def before_instantiate_classes(self) -> None:
        self._check_flags()
        check_device(self.config.trainer)
        COCODataModule(**self.config.data.as_dict()).check(("val",))

    def instantiate_classes(self) -> None:
        super().instantiate_classes()
        if self.config.fold_batch_norm or self.config.compile:
            self.model.optimise_for_inference(self.config.compile)
        if self.config.score_threshold is not None:
            self.model.hparams.score_threshold = self.config.score_threshold

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        trainer = {**self.config_init.trainer, "logger": False, "enable_checkpointing": False}
        if self.config.pictures:
            trainer["callbacks"] = [*(trainer["callbacks"] or []), DetectionPictures(self.config.pictures)]
        return pl.Trainer(**{**trainer, **device_flags(trainer)})

    def _check_flags(self) -> None:
        threshold = self.config.score_threshold
        if threshold is not None and not 0 <= threshold < 1:
            raise MisconfigurationException(
                f"--score_threshold {threshold:g}: expected a score from 0 up to, but not, 1"
            )
        for flag in ("report", "pictures"):
            path = self.config[flag]
            if path is not None and path.exists() and not path.is_dir():
                raise MisconfigurationException(f"--{flag} {path}: expected a directory, but this is a file")
        if self.config.json is not None and self.config.json.is_dir():
            raise MisconfigurationException(f"--json {self.config.json}: expected a file, but this is a directory")


def run(main: Callable[[], Any]) -> None:
    """Calls `main`; what a user can mend ends the process with its message and exit code 1, without a traceback."""
    try:
        main()
    except USER_ERRORS as error:
        sys.exit(f"error: {error}")


def long_flags(args: Sequence[str], more: dict[str, str] | None = None) -> list[str]:
    """Rewrites the short flags of `SHORT_FLAGS` to Lightning's: `--devices 8` -> `--trainer.devices 8`."""
    names = {**SHORT_FLAGS, **(more or {})}
    long = []
    for arg in args:
        flag, equals, value = arg.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        long.append(f"--{names[name]}{equals}{value}" if flag.startswith("--") and name in names else arg)
    return long


def check_device(trainer: Any) -> None:
    """`device_flags` for a configuration whose objects (strategies, plugins) are not built yet."""
    unbuilt = {"plugins": None} if isinstance(trainer["strategy"], str) else {"plugins": None, "strategy": "auto"}
    device_flags({**trainer.as_dict(), **unbuilt})


def device_flags(trainer: Any) -> dict[str, Any]:
    """The Trainer's flags that concern the device, with what an MLU needs filled in.

    Raises MisconfigurationException, before anything is loaded, if the accelerator asked for is not there.
    """
    names = ("accelerator", "devices", "num_nodes", "strategy", "precision", "plugins")
    flags = resolve_trainer_flags(**{name: trainer[name] for name in names})
    if flags["accelerator"] in ("cuda", "gpu") and not torch.cuda.is_available():
        raise MisconfigurationException(
            f"--accelerator {flags['accelerator']}: no CUDA device is visible to torch {torch.__version__}. "
            "Use --accelerator cpu, or install a torch build with CUDA and check nvidia-smi"
        )
    return flags


def _callbacks(run_dir: Path, keep_epochs: bool) -> list[pl.Callback]:
    directory = run_dir / "checkpoints"
    return [
        StopOnNonFiniteLoss(),
        ImagesPerSecond(),
        LearningRateMonitor(logging_interval="step"),
        ClassPrecision(),
        TensorBoardPictures(),
        ModelCheckpoint(directory, "best", monitor="mAP", mode="max", enable_version_counter=False),
        ModelCheckpoint(
            directory,
            "epoch{epoch:03d}",
            auto_insert_metric_name=False,
            save_top_k=-1 if keep_epochs else 0,
            save_last=True,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
    ]


def _claim_run_dir(run_dir: Path | None, resumes: bool) -> Path:
    """The run's directory. Processes that Lightning starts for further devices inherit the first one's choice."""
    if "SSD_RUN_DIR" in os.environ:
        return Path(os.environ["SSD_RUN_DIR"])
    if run_dir is None:
        numbers = [int(path.name) for path in Path("runs").glob("[0-9]*") if path.name.isdigit()]
        run_dir = Path("runs") / f"{max(numbers, default=0) + 1:04d}"
    elif not resumes and (run_dir / "checkpoints").is_dir() and any((run_dir / "checkpoints").iterdir()):
        raise CheckpointError(
            f"--run_dir {run_dir} already holds checkpoints. Resume it with --ckpt_path last, or name another one"
        )
    os.environ["SSD_RUN_DIR"] = str(run_dir)
    return run_dir
