"""A run's own ModelCheckpoints, and where the files that their saved states name are when the run was moved."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from evaluation.numbers import NUMBERS

# Logged at every validation; by a loss the least is best, by all others the greatest.
BEST_BY = ("mAP", *(f"val/{name}" for name in NUMBERS), "val/loss")
OWN_KEY = "ModelCheckpoint of the run: "
PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


class RunCheckpoint(ModelCheckpoint):
    """Lightning's, for `directory/<name>.ckpt`, whose state has a key of its own: a ModelCheckpoint of the user's may
    be configured alike, and Lightning allows no two of one key."""

    def __init__(self, directory: Path, name: str, **settings: Any) -> None:
        super().__init__(directory, name, enable_version_counter=False, **settings)
        self.name = name

    @property
    def state_key(self) -> str:
        return OWN_KEY + self.name + (f" by {self.monitor!r}" if self.monitor else "")

    @property
    def older_state_key(self) -> str:
        """Lightning's own, under which runs of before saved the state."""
        when = {"every_n_train_steps": 0, "every_n_epochs": 1, "train_time_interval": None}
        return f"ModelCheckpoint{ {'monitor': self.monitor, 'mode': self.mode, **when} }"


def run_checkpoints(directory: Path, keep_epochs: int, best_by: str = "mAP") -> list[pl.Callback]:
    """`best.ckpt` by a number of `BEST_BY`, and the checkpoint of every `keep_epochs`-th epoch; 0: of none."""
    kept = {"save_top_k": -1 if keep_epochs else 0, "every_n_epochs": int(keep_epochs) or 1}
    return [
        RunCheckpoint(directory, "best", monitor=best_by, mode="min" if best_by == "val/loss" else "max"),
        RunCheckpoint(
            directory, "epoch{epoch:03d}", auto_insert_metric_name=False, save_on_train_epoch_end=True, **kept
        ),
    ]


def best_of(checkpoint: dict[str, Any]) -> tuple[str, float] | None:
    """By which number a run's best checkpoint is chosen and its best value so far, from a checkpoint of the run."""
    for key, state in checkpoint.get("callbacks", {}).items():
        older = key.startswith(ModelCheckpoint.__qualname__) and state.get("monitor") == "mAP"
        if (key.startswith(OWN_KEY + "best") or older) and state.get("best_model_score") is not None:
            return state["monitor"], float(state["best_model_score"])
    return None


def what_is_kept(model: torch.nn.Module, keep_epochs: int, max_epochs: int | None, states: int = 1) -> str:
    """Which checkpoints a run keeps, and what they take on the disk, in words.

    Args:
        max_epochs: None or -1 where the run is not bounded by epochs.
        states: numbers that the optimiser keeps of each weight; SGD the momentum.
    """
    weights, buffers = (sum(tensor.nbytes for tensor in part) for part in (model.parameters(), model.buffers()))
    size = (1 + states) * weights + buffers
    megabytes = f"{size / 1e6:.0f} MB"
    if not keep_epochs:
        return f"best and last, about {megabytes} each (--keep_epochs K also keeps every K-th epoch)"
    often = "every epoch" if int(keep_epochs) == 1 else f"one every {int(keep_epochs)} epochs"
    words = f"best, last and {often}, about {megabytes} each"
    if max_epochs is None or max_epochs < 0:
        return words
    count = 2 + max_epochs // int(keep_epochs)
    return f"{words}, {count * size / 1e9:.1f} GB in all (--keep_epochs)"


def find_states(callbacks: Iterable[pl.Callback], states: dict[str, Any]) -> None:
    """Before callbacks get their saved states: those of older runs under today's keys, and the paths in them where the
    files are now.

    Lightning forgets the best score of a run whose directory has another name than when it was saved: whatever came
    next would take the best one's place.

    Args:
        states: of a checkpoint, by key; changed in place.
    """
    for callback in callbacks:
        if isinstance(callback, RunCheckpoint) and callback.older_state_key in states:
            states.setdefault(callback.state_key, states[callback.older_state_key])
        state = states.get(callback.state_key)
        if isinstance(callback, ModelCheckpoint) and callback.dirpath and state:
            states[callback.state_key] = _moved(state, str(callback.dirpath))


def _moved(state: dict[str, Any], directory: str) -> dict[str, Any]:
    """The state as if it had been saved in `directory`; a best file that is not there is none."""
    if state.get("dirpath") in (None, directory):
        return state

    def there(path: str) -> str:
        # Of whatever system it was saved on.
        return str(Path(directory, re.split(r"[\\/]", path)[-1])) if path else path

    moved = {**state, "dirpath": directory, **{name: there(state[name]) for name in PATHS if name in state}}
    moved["best_k_models"] = {there(path): score for path, score in state.get("best_k_models", {}).items()}
    if moved.get("best_model_path") and not Path(moved["best_model_path"]).is_file():
        moved |= {"best_model_path": "", "kth_best_model_path": "", "best_model_score": None, "best_k_models": {}}
    return moved
