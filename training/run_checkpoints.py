"""A run's own ModelCheckpoints, and where the files that their saved states name are when the run was moved."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")


class RunCheckpoint(ModelCheckpoint):
    """Lightning's, for `directory/<name>.ckpt`, whose state has a key of its own: a ModelCheckpoint of the user's may
    be configured alike, and Lightning allows no two of one key."""

    def __init__(self, directory: Path, name: str, **settings: Any) -> None:
        super().__init__(directory, name, enable_version_counter=False, **settings)
        self.name = name

    @property
    def state_key(self) -> str:
        return f"{self.older_state_key} of the run: {self.name}"

    @property
    def older_state_key(self) -> str:
        """Under which runs of before it had a key of its own saved its state."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)


def run_checkpoints(directory: Path, keep_epochs: bool) -> list[pl.Callback]:
    """`best.ckpt` by mAP and, if they are kept, the checkpoint of every epoch."""
    every_epoch = {"save_top_k": -1 if keep_epochs else 0, "save_on_train_epoch_end": True}
    return [
        RunCheckpoint(directory, "best", monitor="mAP", mode="max"),
        RunCheckpoint(directory, "epoch{epoch:03d}", auto_insert_metric_name=False, **every_epoch),
    ]


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
