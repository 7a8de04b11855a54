"""`model_card.md` of a run: what its model is, what it was trained on and how, what was measured, and what was not."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint

from checkpoints.download import sha256
from coco.names import plain
from coco.whole_files import write_text
from evaluation.tables import MEANING
from training.optimisation import REFERENCE_BATCH
from training.run_record import device_name, project_version

NAMED = 20  # classes


def write_model_card(path: Path, cli: Any, whole: bool) -> None:
    """Writes the card of a fit that has ended, in Markdown; whole or not at all. It holds nothing that this run did not
    measure.

    Args:
        cli: a `command_line.fit_cli.FitCLI`. whole: False where the run was stopped before its end.

    Raises:
        OSError: it cannot be written.
    """
    parts = (_title(cli, whole), _data(cli), _recipe(cli), _numbers(cli), _limits(cli), _use(cli))
    write_text(path, "\n\n".join("\n".join(lines) for lines in parts) + "\n")


def _title(cli: Any, whole: bool) -> Iterator[str]:
    trainer, hparams = cli.trainer, cli.model.hparams
    epochs = f"{trainer.current_epoch} epochs" + (f" of {trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else "")
    state = "finished" if whole else "**stopped before its end**: the figures below are those of an unfinished run"
    names = [_cell(name) for name in cli.model.class_names[:NAMED]]
    more = len(cli.model.class_names) - len(names)
    yield f"# SSD300 v1.1, {hparams.backbone}, {len(cli.model.class_names)} classes"
    yield ""
    yield f"Finds boxes of: {', '.join(names)}{f', and {more} more' if more else ''}."
    yield ""
    yield f"Training: {state}; {epochs}, {trainer.global_step} optimiser steps."


def _data(cli: Any) -> Iterator[str]:
    data = cli.datamodule
    splits = {"training": (data.train_annotations, data.num_train_images)}
    if cli.trainer.enable_validation:
        splits["validation"] = (data.val_annotations, data.val_limit or len(data.val_annotations))
    yield "## Data"
    yield ""
    yield from _table(
        ("split", "annotations", "images used", "BLAKE2b of the annotations"),
        [(name, str(each.path), images, each.digest[:16]) for name, (each, images) in splits.items()],
    )
    chosen = {name: value for name, value in data.samples_from().items() if value not in (None, False, {}, [], ())}
    yield ""
    yield f"What training samples depend on: {_listed(chosen)}."


def _recipe(cli: Any) -> Iterator[str]:
    trainer, hparams, data = cli.trainer, cli.model.hparams, cli.datamodule
    batch = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
    start = hparams.finetune_from or hparams.backbone_weights or "random weights"
    yield "## Recipe"
    yield ""
    rows = {
        "start": start,
        "optimiser": f"{hparams.optimizer}, rate {hparams.learning_rate * batch / REFERENCE_BATCH:.4g} "
        f"after {hparams.warmup_steps} steps of warm-up, {hparams.schedule}, weight decay {hparams.weight_decay:g}",
        "batch": f"{batch} images ({trainer.world_size} device(s) x {data.batch_size} x "
        f"{trainer.accumulate_grad_batches} accumulated)",
        "precision": trainer.precision,
        "device": f"{trainer.strategy.root_device.type}, {device_name(trainer.strategy.root_device)}",
        "seed": data.seed,
        "made with": f"ssd300-lightning {project_version()}",
    }
    yield from _table(("what", "value"), list(rows.items()))
    yield ""
    yield "`config.yaml` beside this file has every setting, `run.json` versions and device; later ones are numbered."


def _numbers(cli: Any) -> Iterator[str]:
    numbers = cli.model.numbers
    yield "## Numbers"
    yield ""
    if not all(name in numbers for name in MEANING):
        yield "None: this run has measured no mAP."
        return
    yield "Of the last validation, on the validation split above; - where there was nothing to measure."
    yield ""
    yield from _table(("COCO metric", "value", "meaning"), [(n, _number(numbers[n]), m) for n, m in MEANING.items()])
    for callback in _best(cli):
        yield ""
        yield f"Best of the run: {callback.monitor} {float(callback.best_model_score):.4f}, `{_place(callback, cli)}`."


def _limits(cli: Any) -> Iterator[str]:
    yield "## Limits"
    yield ""
    if cli.model.numbers:
        yield "- The validation split also chose `best.ckpt`: on pictures that took no part in choosing, expect less."
    yield f"- One run with one seed ({cli.datamodule.seed}): how far another would differ was not measured."
    yield "- Not measured: other data, conditions or cameras than those above, groups of people, speed."
    upright = getattr(cli.datamodule.selection, "upright", False)
    exif = "" if upright else ", and EXIF orientation is ignored"
    yield f"- Pictures are shrunk to 300x300 whatever their shape{exif}."
    yield "- The licences of the data and of the weights that training started from apply; they are not recorded here."


def _use(cli: Any) -> Iterator[str]:
    yield "## Use"
    yield ""
    for callback in _best(cli):
        place = _place(callback, cli)
        yield f"`{place}`: SHA-256 `{sha256(Path(callback.best_model_path))}`."
        yield ""
        yield f"    python predict.py --ckpt_path RUN/{place} PICTURES --output predictions"
        return
    yield "    python predict.py --ckpt_path RUN/checkpoints/last.ckpt PICTURES --output predictions"


def _best(cli: Any) -> list[Any]:
    """The checkpoint that is the best by a number, if it is there."""
    return [
        callback
        for callback in cli.trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint)
        and callback.monitor
        and callback.best_model_score is not None
        and Path(callback.best_model_path).is_file()
    ][:1]


def _place(callback: Any, cli: Any) -> str:
    """A run can be moved: a path below it."""
    path = Path(callback.best_model_path).resolve()
    run_dir = cli.run_dir.resolve()
    return path.relative_to(run_dir).as_posix() if path.is_relative_to(run_dir) else str(path)


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Iterator[str]:
    for row in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(_cell(value) for value in row)} |"


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_cell(value)}" for name, value in values.items())


def _cell(value: Any) -> str:
    """A text that stays one cell, and text, whatever a class or a file is called."""
    text = plain(str(value))
    return "".join(f"\\{letter}" if letter in r"\`*_[]<>|#" else letter for letter in text)


def _number(value: float) -> str:
    return "-" if value < 0 else f"{value:.4f}"
