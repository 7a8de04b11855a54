"""Lightning's Trainer at the command line: its flags with the types they mean, and refused where they mean nothing."""

from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from training.ranges import Range, out_of_range

COUNT, NUMBER = Range(1, whole=True), Range(0)
RANGES = {
    "num_nodes": COUNT,
    "accumulate_grad_batches": COUNT,
    "check_val_every_n_epoch": COUNT,
    "log_every_n_steps": Range(0, whole=True),
    "min_epochs": Range(0, whole=True),
    "min_steps": Range(-1, whole=True),
    "num_sanity_val_steps": Range(-1, whole=True),
    "gradient_clip_val": NUMBER,
    "overfit_batches": NUMBER,
    "limit_train_batches": NUMBER,
    "limit_val_batches": NUMBER,
}


class TypedTrainer(pl.Trainer):
    """Only the signature is of use, to the parser: Lightning's own reads `1` (one batch) as 1.0 (all of them),
    and does not know the precision `auto`, which `ScriptCLI` replaces."""

    def __init__(
        self,
        *,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        val_check_interval: int | float | str | timedelta | dict[str, int] | None = None,
        precision: int | str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            overfit_batches=overfit_batches,
            val_check_interval=val_check_interval,
            precision=precision,
            **kwargs,
        )


def check_trainer_flags(trainer: Any, fits: bool) -> None:
    """Raises MisconfigurationException for flags that Lightning takes without a word and that come to nothing, or to a
    traceback, later; what Lightning refuses itself is left to it.

    Args:
        trainer: the configuration of the Trainer. fits: in train.py, not evaluate.py.
    """
    if told := out_of_range(trainer.as_dict(), RANGES, "--trainer."):
        raise MisconfigurationException(told)
    interval = trainer.val_check_interval
    if isinstance(interval, (int, float)) and not interval > 0:
        raise MisconfigurationException(
            f"--trainer.val_check_interval {interval}: expected a number of batches, a share of the epoch, or a time; "
            "without validation: --trainer.limit_val_batches 0"
        )
    used, script = ("train", "train.py") if fits else ("val", "evaluate.py")
    limit = trainer[f"limit_{used}_batches"]
    if limit is not None and limit == 0:
        raise MisconfigurationException(f"--trainer.limit_{used}_batches 0: {script} would have nothing to do")
    if fits and trainer.barebones:
        raise MisconfigurationException(
            "--trainer.barebones true: a run keeps its checkpoints and logs, which barebones forbids. To measure speed "
            "use main.py --mode benchmark-training"
        )
