"""Lightning's loop counters as a checkpoint holds them."""

from typing import Any


def progress_after(epochs: int, steps: int) -> dict[str, Any]:
    """The `loops` of a Lightning checkpoint after `epochs` whole epochs of `steps` optimiser steps in all."""

    def progress(total: int, *stages: str, current: int = 0) -> dict[str, Any]:
        return {"total": dict.fromkeys(stages, total), "current": dict.fromkeys(stages, current)}

    every = ("ready", "started", "processed", "completed")
    fit = {
        "state_dict": {},
        "epoch_progress": progress(epochs, *every, current=epochs),
        "epoch_loop.state_dict": {"_batches_that_stepped": steps},
        "epoch_loop.batch_progress": {**progress(steps, *every), "is_last_batch": True},
        "epoch_loop.scheduler_progress": progress(steps, "ready", "completed"),
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {
                "step": progress(steps, "ready", "completed"),
                "zero_grad": progress(steps, "ready", "started", "completed"),
            }
        },
    }
    return {"fit_loop": fit, "validate_loop": {}, "test_loop": {}, "predict_loop": {}}


def epoch_is_left_to_validate(fit_loop: dict[str, Any]) -> bool:
    """Whether all batches of an epoch are trained while Lightning still counts it as running."""
    epoch = fit_loop["epoch_progress"]["current"]
    return fit_loop["epoch_loop.batch_progress"]["is_last_batch"] and epoch["processed"] < epoch["ready"]


def is_left_to_validate(fit_loop: dict[str, Any]) -> bool:
    """Whether a state was saved before a validation that a resumed run begins with (training/last_checkpoint.py)."""
    batches = fit_loop.get("epoch_loop.val_loop.batch_progress", {}).get("total", {})
    return bool(batches) and batches["started"] == batches["ready"] == batches["processed"] + 1


def epochs_trained(fit_loop: dict[str, Any]) -> int:
    """Whole epochs, one that is left to validate among them."""
    return fit_loop["epoch_progress"]["current"]["processed"] + epoch_is_left_to_validate(fit_loop)


def reopen_epoch(fit_loop: dict[str, Any]) -> None:
    """Makes an epoch that was ended before its last batch the one that a resumed run goes on in, in place: the counters
    of a state saved at the end of that batch."""
    epochs, batches = fit_loop["epoch_progress"], fit_loop["epoch_loop.batch_progress"]
    for counters in (epochs["total"], epochs["current"]):
        counters["processed"] = counters["completed"] = counters["started"] - 1
    for counters in (batches["total"], batches["current"]):
        counters["completed"] = counters["ready"] - 1
    fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
