"""ContinuedLogs: one record of a run in its logs, however often it was stopped, killed and resumed."""

import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

from checkpoints.progress import is_left_to_validate
from training.csv_log import HPARAMS, save_hparams
from training.dllogger import DLLogger
from training.event_files import PATTERN, began_at, mend
from training.log_place import ContinuedLogger, LogPlace

EARLIER = "earlier"  # directory, with a number, for the event files of an earlier start from the beginning
AT_EVERY_START = ("hp_metric", "_hparams_/")  # what Lightning writes to TensorBoard at every start, without a step


class ContinuedLogs(pl.Callback):
    """On resume takes out of the logs what this run will log again, and what a kill left half written.

    It does so when training begins, so that a resume that is refused changes nothing. Stands before other callbacks,
    which may log from then on.
    """

    def __init__(self) -> None:
        self._made = time.time()
        self._validation_began: float | None = None  # of the last one, until training goes on
        self._place: LogPlace | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"time": self._validation_began or time.time()}

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_began = time.time()

    def on_train_batch_start(self, *args: Any) -> None:
        self._validation_began = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_began = None

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Before Resume, which may count the steps as those of other devices."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        fit_loop = checkpoint["loops"]["fit_loop"]
        step, epoch = checkpoint["global_step"], fit_loop["epoch_progress"]["current"]["processed"]
        if saved := checkpoint["callbacks"].get(self.state_key):
            self._place = LogPlace(step, epoch, saved["time"], is_left_to_validate(fit_loop))
        else:
            self._place = LogPlace(step, epoch)
        for logger in trainer.loggers:
            if isinstance(logger, DLLogger):
                logger.append = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            try:
                if isinstance(logger, TensorBoardLogger):
                    self._continue_tensorboard(logger, trainer.default_root_dir)
                elif isinstance(logger, ContinuedLogger):
                    logger.begin() if self._place is None else logger.go_on(self._place)
            except OSError as error:
                rank_zero_warn(f"logs of {type(logger).__name__}: earlier records are left as they are ({error})")
        self._place = None

    def _continue_tensorboard(self, logger: TensorBoardLogger, run_dir: str) -> None:
        directory, place = Path(logger.log_dir), self._place
        if not directory.resolve().is_relative_to(Path(run_dir).resolve()):
            return  # other runs may log there
        logger.experiment.close()  # it opens a further file with the next event
        earlier = [path for path in sorted(directory.glob(PATTERN)) if began_at(path) < self._made]
        if place is None:
            _set_aside(earlier, directory)
            return

        def keeps(step: int, at: float, tag: str) -> bool:
            return not tag.startswith(AT_EVERY_START) and place.is_before(step, at)

        for path in earlier:
            mend(path, keeps)
        save_hparams(directory / HPARAMS, logger.hparams)  # Lightning writes it once, and maybe half


def _set_aside(files: list[Path], directory: Path) -> None:
    number = 1
    while (aside := directory / f"{EARLIER}_{number}").exists():
        number += 1
    for path in files:
        aside.mkdir(exist_ok=True)
        path.rename(aside / path.name)
