"""What one rank of a run saw: a callback for any configuration, the arguments of a tiny run, and what runs leave."""

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist

import tests.thin  # noqa: F401 - the backbone of `arguments`

PROJECT = Path(__file__).parent.parent.parent
# Frames that move whatever they are given; who asked them to is further out.
CARRIERS = ("apply_func.py", "contextlib.py", "device_dtype_mixin.py")

LOGGER = "pytorch_lightning/trainer/connectors/logger_connector"
# What `steps` has of a training step that does not log, with one device.
BATCH = [
    "h2d uint8 [2, 3, 300, 300] pytorch_lightning/core/hooks.py",
    "h2d float32 [2, 8, 4] pytorch_lightning/core/hooks.py",
    "h2d int64 [2, 8] pytorch_lightning/core/hooks.py",
    "h2d float32 [2, 3, 6] pytorch_lightning/core/hooks.py",
]


def arguments(data: Path, run_dir: Path, accelerator: str, *more: str) -> list[str]:
    """Of train.py: a run of 4 steps of 2 pictures an epoch, without waiting for anything it can do without."""
    return [
        *("--accelerator", accelerator, "--data_root", str(data), "--run_dir", str(run_dir)),
        *("--batch_size", "2", "--num_workers", "0", "--model.backbone", "thin", "--model.warmup_steps", "2"),
        *("--model.learning_rate", "0.002", "--max_epochs", "1", "--trainer.limit_train_batches", "4"),
        *("--trainer.num_sanity_val_steps", "0", "--trainer.log_every_n_steps", "2", "--keep_epochs", "true"),
        *("--trainer.enable_model_summary", "false", "--trainer.callbacks+", "tests.mlu_on_standin.witness.Witness"),
        *("--trainer.callbacks.directory", str(run_dir)),
        *more,
    ]


class Witness(pl.Callback):
    """Writes rank<r>.json to `directory` when training ends: who this rank was, its weights, and its transfers."""

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.strategy.root_device.type == "mlu":
            from torch_mlu.testing import record_transfers

            self._recording = record_transfers()
            self._transfers = self._recording.__enter__()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        facts = {
            "device": str(pl_module.device),
            "rank": trainer.global_rank,
            "local_rank": trainer.local_rank,
            "node_rank": trainer.node_rank,
            "world_size": trainer.world_size,
            "strategy": type(trainer.strategy).__name__,
            "environment": type(getattr(trainer.strategy, "cluster_environment", None)).__name__,
            "precision": type(trainer.precision_plugin).__name__,
            "backend": dist.get_backend() if dist.is_initialized() else None,
            "global_step": trainer.global_step,
            "weights": digest(
                pl_module.parameters()
            ),  # not the statistics, which are a rank's own until DDP forwards again
        }
        if hasattr(self, "_recording"):
            self._recording.__exit__(None, None, None)
            facts["steps"] = steps(self._transfers)
        (self.directory / f"rank{trainer.global_rank}.json").write_text(json.dumps(facts))


def digest(values: Iterable[torch.Tensor]) -> str:
    """Equal for equal tensors, to the last bit."""
    joined = hashlib.sha256()
    for value in values:
        joined.update(value.detach().cpu().contiguous().numpy().tobytes())
    return joined.hexdigest()


def steps(transfers: Sequence[Any]) -> list[list[str]]:
    """The transfers in words, cut where the next batch of pictures comes in; what came before the first is left out."""
    found: list[list[str]] = []
    for transfer in transfers:
        if transfer.direction == "h2d" and transfer.dtype == "uint8" and len(transfer.shape) == 4:
            found.append([])
        if found:
            found[-1].append(in_words(transfer))
    return found


def in_words(transfer: Any) -> str:
    """`d2h float32 [4, 200] training/detecting.py`: what moved, and the file that asked for it."""
    files = [frame.rsplit(":", 1)[0] for frame in transfer.frames]
    asked = (file for file in files if "/torch/" not in file and not file.endswith(CARRIERS))
    file = next(asked, "a thread of autograd").removeprefix(f"{PROJECT}{os.sep}").split("site-packages/")[-1]
    return f"{transfer.direction} {transfer.dtype} {list(transfer.shape)} {file}"


def ranks(run_dir: Path, count: int = 1) -> list[dict[str, Any]]:
    """What each rank's Witness wrote."""
    return [json.loads((run_dir / f"rank{rank}.json").read_text()) for rank in range(count)]


def checkpoint(run_dir: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(run_dir / "checkpoints" / f"{name}.ckpt", weights_only=True)


def logged(run_dir: Path, column: str) -> list[tuple[int, float]]:
    """(step, value) of a logged column, over all of a run's starts."""
    rows = []
    for path in sorted(run_dir.glob("logs/csv/**/metrics.csv")):
        with open(path) as file:
            rows += [(int(row["step"]), float(row[column])) for row in csv.DictReader(file) if row.get(column)]
    return sorted(rows)
