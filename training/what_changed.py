"""What a resumed run changes: settings, versions, data. Each takes effect and is told in a line `old -> new`, or is
refused; what cannot be told from the checkpoint (an older one's) is passed over."""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.utilities.rank_zero import rank_zero_info

from checkpoints.files import CheckpointError
from coco.names import look_alikes, told_apart
from training.run_checkpoints import RunCheckpoint, best_of
from training.run_record import package_versions, project_version

SAME_MODEL = ("backbone", "num_classes", "class_names", "category_ids")
AT_THE_START = ("backbone_weights", "finetune_from")  # where a run got its first weights
NOT_COMPARABLE = "mAP before and after are not comparable"
NOTES = {
    **dict.fromkeys(("score_threshold", "iou_threshold", "max_detections", "limit_val_batches"), NOT_COMPARABLE),
    "milestones": "epochs of the whole run",
    "max_epochs": "milestones stay at their epochs, counted from the beginning of the run; a cosine is stretched",
}
OPTIMIZER_SETTINGS = ("momentum", "betas", "weight_decay", "dampening", "nesterov")


def check_same_model(saved: dict[str, Any], hparams: dict[str, Any]) -> None:
    """Refuses the hyper-parameters `saved` of a checkpoint of another backbone or of other classes by name, before
    tensors fail to fit.

    Raises:
        CheckpointError: naming both values.
    """
    for key in SAME_MODEL:
        if key in saved and saved[key] != hparams[key]:
            alike = look_alikes(saved[key], hparams[key]) if key == "class_names" else []
            raise CheckpointError(
                f"the checkpoint has {key} = {_short(saved[key])}, this run has {_short(hparams[key])}; "
                f"resume with the data set and backbone that it was trained with.{told_apart(alike)}"
            )


def keep_first_weights(saved: dict[str, Any], hparams: dict[str, Any]) -> None:
    """What a resumed run began with stays in its hyper-parameters, `hparams`, given again or not; anything else there
    would have no effect.

    Raises:
        CheckpointError: other first weights than those in `saved`, naming both.
    """
    for key in (key for key in AT_THE_START if key in saved):
        if hparams[key] not in (None, saved[key]):
            raise CheckpointError(
                f"--model.{key} {hparams[key]}: the run to resume began with {saved[key]}, and goes on from its "
                f"checkpoint. Leave it out (--model.{key} null), or begin a new run, without --ckpt_path"
            )
        hparams[key] = saved[key]


def check_same_optimizer(saved: dict[str, Any], hparams: dict[str, Any]) -> None:
    """Raises CheckpointError where the state of the checkpoint's optimiser would mean nothing to this run's."""
    before = saved.get("optimizer", "sgd")  # older checkpoints and the published recipe's
    if before != hparams["optimizer"]:
        raise CheckpointError(
            f"--model.optimizer {hparams['optimizer']}: the run to resume has {before}. Resume with that, or begin a "
            "new run from its weights (--finetune_from CKPT, without --ckpt_path)"
        )


def check_same_parts_train(saved: dict[str, Any], hparams: dict[str, Any]) -> None:
    """Raises CheckpointError where a resumed run would train other weights: its optimiser knows nothing of them."""
    before, now = sorted(saved.get("freeze", [])), sorted(hparams["freeze"])
    if before != now:
        raise CheckpointError(
            f"--model.freeze [{','.join(now)}]: the run to resume has [{','.join(before)}]. Resume with that, or begin "
            "a new run from its weights (--finetune_from CKPT, without --ckpt_path)"
        )


def check_samples(saved: dict[str, Any], now: dict[str, Any], allowed: bool) -> None:
    """Raises CheckpointError, if not `allowed`, where training samples would depend on something else than before."""
    if saved["annotations"] != now["annotations"]:  # which pictures are looked at follows from them
        now = {name: value for name, value in now.items() if name != "pictures"}
    changes = ", ".join(_differences("", saved, now))
    if changes and not allowed:
        raise CheckpointError(
            f"the checkpoint was trained on other samples ({changes}), so the run would not go on as it "
            "began. Resume with what it had, or, if you want the change, with --data.allow_other_samples true"
        )
    if changes:
        rank_zero_info(f"Resuming on other samples than the checkpoint's: {changes}")


def drop_average(checkpoint: dict[str, Any], trainer: pl.Trainer) -> None:
    """A run resumed without its moving average, which stands in `state_dict`, goes on from the weights that were
    trained, in place."""
    averages = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)
    if "current_model_state" in checkpoint and not averages:
        checkpoint["state_dict"] = checkpoint["current_model_state"]
        rank_zero_info("Resuming without the checkpoint's moving average: it is dropped, its trained weights go on")


def made_with(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
    """What a run comes out of beside hyper-parameters and data; plain data, in every checkpoint."""
    layers = {type(layer).__name__ for layer in module.modules()}
    settings = {
        name: _plain(getattr(trainer, name))
        for name in (
            *("precision", "gradient_clip_val", "gradient_clip_algorithm", "max_epochs", "max_steps"),
            *("limit_train_batches", "limit_val_batches", "val_check_interval", "check_val_every_n_epoch"),
        )
    }
    settings["deterministic"] = {0: False, 1: "warn", 2: True}[torch.get_deterministic_debug_mode()]
    settings["sync_batchnorm"] = any("SyncBatchNorm" in name for name in layers)
    return {
        "trainer": settings,
        "device": trainer.strategy.root_device.type,
        "best_by": next((c.monitor for c in trainer.checkpoint_callbacks if isinstance(c, RunCheckpoint)), None),
        # torch's own word: the package's name leaves out for which device it was built.
        "versions": {"project": project_version(), **package_versions(), "torch": str(torch.__version__)},
    }


def changed_settings(checkpoint: dict[str, Any], now: dict[str, Any], hparams: dict[str, Any]) -> list[str]:
    """One line for each setting, version or device of a run (`made_with`, `hparams`) that is not the checkpoint's.

    Raises:
        CheckpointError: another limit_train_batches.
    """
    saved = checkpoint.get("made_with", {})
    old, new = saved.get("trainer", {}), now["trainer"]
    if old.get("limit_train_batches", new["limit_train_batches"]) != new["limit_train_batches"]:
        raise CheckpointError(
            f"--trainer.limit_train_batches {new['limit_train_batches']}: the checkpoint was made with "
            f"{old['limit_train_batches']}. Epochs of another length would move its place and the milestones: resume "
            "with what it had, or begin a new run (--finetune_from takes its weights)"
        )
    lines = _differences("model.", checkpoint.get("hyper_parameters", {}), hparams, without=AT_THE_START)
    lines += _differences("trainer.", old, new)
    lines += _differences("", {name: saved.get(name, now[name]) for name in ("device", "best_by")}, now)
    # Packages that are there on one side only (simplejpeg) matter as much: the decoder tells.
    return lines + _differences("version of ", saved.get("versions", {}), now["versions"])


def take_settings(checkpoint: dict[str, Any], trainer: pl.Trainer) -> dict[str, str]:
    """Puts the settings of this run's optimiser, as it was configured, in place of those that the checkpoint would
    restore, momenta and counters left alone. Called between the one and the other.

    Returns for each that differs (`learning_rate`, `momentum`, ...) a line, in the units of an optimiser step.
    """
    lines = {}
    states = zip(checkpoint.get("optimizer_states", []), trainer.optimizers, strict=False)
    schedules = zip(checkpoint.get("lr_schedulers", []), trainer.lr_scheduler_configs, strict=False)
    for saved, group in (pair for state, made in states for pair in _groups(state, made)):
        for name in OPTIMIZER_SETTINGS:
            if name in saved and not _close(saved[name], group[name]):
                lines[name] = f"the optimiser's {name} {saved[name]} -> {group[name]}"
                saved[name] = group[name]
    for state, scheduler in ((state, config.scheduler) for state, config in schedules):
        for old, new in zip(state["base_lrs"], scheduler.base_lrs, strict=False):
            if not _close(old, new):
                lines["learning_rate"] = f"the learning rate of a step, after warm-up, {old:g} -> {new:g}"
        if "learning_rate" in lines:
            state["base_lrs"] = list(scheduler.base_lrs)
    return lines


def changed_validation(checkpoint: dict[str, Any], saved: dict[str, Any], now: dict[str, Any] | None) -> list[str]:
    """A line, if what is validated on is not what it was."""
    if not saved or not now or saved == now:
        return []
    changes = ", ".join(_differences("", saved, now))
    best = best_of(checkpoint)
    kept = (
        "" if best is None else f"; the best checkpoint, of {best[0]} {best[1]:.3f}, stays until a validation beats it"
    )
    return [f"another validation set ({changes}): {NOT_COMPARABLE}{kept}"]


def _groups(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> Any:
    return zip(state["param_groups"], optimizer.param_groups, strict=False)


def _differences(prefix: str, old: Any, new: Any, without: tuple[str, ...] = ()) -> list[str]:
    return [
        f"{prefix}{name} {_short(old[name])} -> {_short(new[name])}" + (f" ({NOTES[name]})" if name in NOTES else "")
        for name in old
        if name in new and name not in without and old[name] != new[name]
    ]


def _close(old: Any, new: Any) -> bool:
    """The same, or the same computed otherwise."""
    return math.isclose(old, new, rel_tol=1e-6) if isinstance(old, float) else old == new


def _plain(value: Any) -> Any:
    value = getattr(value, "value", value)  # of an enumeration
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def _short(value: Any) -> str:
    return text if len(text := str(value)) <= 120 else f"{text[:117]}..."
