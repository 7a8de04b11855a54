"""RandomStates: every rank's random state in checkpoints."""

import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from training.ranks import gathered


class RandomStates(pl.Callback):
    """Keeps every rank's random state in checkpoints: Python's, NumPy's, torch's and CUDA's (an MLU's: accelerators/).

    The input pipeline needs none of them (`coco.transforms`); a network with dropout would.
    """

    def __init__(self) -> None:
        self._saved: dict[str, Any] | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        state: Any = np.random.get_state(legacy=True)
        name, keys, *rest = state
        states = {"python": random.getstate(), "numpy": [name, keys.tolist(), *rest], "torch": torch.get_rng_state()}
        if pl_module.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(pl_module.device)
        checkpoint["random_states"] = gathered(states)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        states = checkpoint.get("random_states", [])
        self._saved = states[trainer.global_rank] if trainer.global_rank < len(states) else None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        states, self._saved = self._saved, None
        if states is None:
            return
        random.setstate(states["python"])
        np.random.set_state(tuple(states["numpy"]))
        torch.set_rng_state(states["torch"])
        if "cuda" in states and pl_module.device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], pl_module.device)
