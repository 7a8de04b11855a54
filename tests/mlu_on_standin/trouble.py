"""A rank that is slow, or dies, in its third step."""

import os
import signal
import time

import pytorch_lightning as pl


class Trouble(pl.Callback):
    """kind: "slow" or "dies". rank: whose."""

    def __init__(self, kind: str, rank: int = 1) -> None:
        self.kind, self.rank = kind, rank

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: object) -> None:
        if trainer.global_rank == self.rank and trainer.global_step == 2:
            if self.kind == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(5)
