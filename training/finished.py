"""A run that has nothing left to do, by its checkpoint: what it came to, and how to extend it."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Timer

from checkpoints.progress import is_left_to_validate
from training.position import Geometry, geometry
from training.run_checkpoints import best_of


def finished(checkpoint: dict[str, Any], path: str | Path, trainer: pl.Trainer, datamodule: Any) -> str | None:
    """What to tell of a run that `max_epochs`, `max_steps` or `max_time` of this trainer has ended before it begins.

    None if it has something left to do, a validation that was interrupted among it.
    """
    fit_loop, step = checkpoint["loops"]["fit_loop"], checkpoint["global_step"]
    epochs = fit_loop["epoch_progress"]["current"]["processed"]
    saved = checkpoint.get(type(datamodule).__qualname__, {}).get("geometry")
    same_steps = saved is None or Geometry(**saved) == geometry(trainer, datamodule.batch_size)
    if trainer.max_epochs not in (None, -1) and epochs >= trainer.max_epochs:
        limit, extend = f"--max_epochs {trainer.max_epochs}", f"--max_epochs N, N above {epochs}"
    elif same_steps and 0 <= trainer.max_steps <= step and not is_left_to_validate(fit_loop):
        limit, extend = f"--trainer.max_steps {trainer.max_steps}", f"--trainer.max_steps N, N above {step}"
    elif (seconds := _time_used_up(checkpoint, trainer)) is not None:
        limit, extend = "--trainer.max_time", f"--trainer.max_time DD:HH:MM:SS, more than its {seconds:.0f} s"
    else:
        return None
    last, best = checkpoint.get("last_validation", {}).get("mAP"), best_of(checkpoint)
    numbers = [] if last is None else [f"last mAP {last:.3f}"]
    numbers += [] if best is None else [f"best {best[0]} {best[1]:.3f}"]
    return (
        f"{path}: this run is finished, by {limit}: {epochs} epoch(s), {step} steps"
        f"{''.join(f', {number}' for number in numbers)}. Nothing was changed. To extend it: {extend}, after any "
        "--config; milestones stay at their epochs, counted from the beginning of the run, and a cosine is stretched"
    )


def _time_used_up(checkpoint: dict[str, Any], trainer: pl.Trainer) -> float | None:
    """The seconds that the run has trained, if there is a limit, and they have reached it."""
    for timer in (callback for callback in trainer.callbacks if isinstance(callback, Timer)):
        seconds = checkpoint.get("callbacks", {}).get(timer.state_key, {}).get("time_elapsed", {}).get("train", 0.0)
        limit = timer.time_remaining()  # before it has begun
        if limit is not None and seconds >= limit:
            return seconds
    return None
