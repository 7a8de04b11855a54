"""What training watches beside Lightning's own callbacks: losses, gradients, throughput, random state, AP by class."""

import random
import time
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from pictures import tensorboard
from resuming import gathered


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message gives step, parts and images."""


class LossMonitor(pl.Callback):
    """Stops at a loss that is not finite, naming step, parts and images; logs the epoch's mean, `train/loss_epoch`.

    The losses stay on the device and are read together whenever Lightning reads scalars for the loggers anyway (every
    `log_every_n_steps`), and before validation, epoch end and every checkpoint: no sync of its own in a step, and no
    checkpoint of broken weights. The progress bar gets the latest of them. The mean is over all ranks, and goes on
    from a checkpoint in the middle of an epoch.
    """

    def __init__(self) -> None:
        self._pending: list[tuple[int, dict[str, Tensor], Any]] = []
        self._sum, self._images = 0.0, 0  # of this rank in this epoch
        self._skipped: set[int] = set()  # steps whose loss is known, and allowed, not to be finite

    def skip(self, step: int) -> None:
        """The loss of this step does not count (see `SkipNonFiniteSteps`)."""
        self._skipped.add(step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        parts = {name: value.detach() for name, value in outputs.items()}
        self._pending.append((_step(trainer, batch_idx), parts, batch["image_ids"]))
        if len(self._pending) >= trainer.log_every_n_steps:
            # From the host: what is logged for the progress bar Lightning reads again in every step.
            pl_module.log("loss", self._check()[-1], prog_bar=True, logger=False, batch_size=1)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check()
        sums, images = zip(*gathered((self._sum, self._images)), strict=True)
        pl_module.log("train/loss_epoch", torch.tensor(sum(sums) / max(sum(images), 1)), batch_size=1)
        self._sum, self._images = 0.0, 0

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._check()
        checkpoint["loss_sums"] = [list(of_rank) for of_rank in gathered((self._sum, self._images))]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        saved = checkpoint.get("loss_sums", [])
        if len(saved) != trainer.world_size:  # other devices: the first goes on with the sum of all
            total = [sum(values) for values in zip(*saved, strict=True)] or [0.0, 0]
            saved = [total] + [[0.0, 0]] * (trainer.world_size - 1)
        self._sum, self._images = saved[trainer.global_rank]

    def _check(self) -> Tensor:
        """The pending losses, on the host."""
        pending, self._pending = self._pending, []
        if not pending:
            return torch.empty(0)
        losses = torch.stack([parts["loss"] for _, parts, _ in pending]).float().cpu()
        for loss, (step, parts, image_ids) in zip(losses.tolist(), pending, strict=True):
            if step in self._skipped:
                continue
            if not np.isfinite(loss):
                values = ", ".join(f"{name} {float(value):g}" for name, value in parts.items())
                raise NonFiniteLossError(
                    f"the loss is not finite at step {step}: {values}; image ids {', '.join(map(str, image_ids))}. "
                    "The last checkpoint is from before this step. Lower --model.learning_rate or lengthen "
                    "--model.warmup_steps; if it is always the same images, look at their boxes; --max_skipped_steps K "
                    "skips up to K such steps"
                )
            self._sum += loss * len(image_ids)
            self._images += len(image_ids)
        return losses


class SkipNonFiniteSteps(pl.Callback):
    """Leaves weights, momentum and running statistics as they were in up to `max_skipped_steps` steps of a run whose
    gradients are not finite, says so, and logs their number, `train/skipped_steps`; one more is NonFiniteLossError.

    Reads the gradients' norm in every step, which waits for the device. All ranks skip together: after the reduction
    their gradients are the same.
    """

    def __init__(self, monitor: LossMonitor, max_skipped_steps: int) -> None:
        self.monitor = monitor
        self.max_skipped_steps = max_skipped_steps
        self.skipped = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise MisconfigurationException(
                "--max_skipped_steps with fp16 mixed precision: its gradient scaler already skips steps with infinite "
                "gradients and lowers the scale. Leave the flag out, or use --precision bf16-mixed or 32-true"
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._image_ids: list[int] = []
            self._statistics = [buffer.clone() for buffer in pl_module.model.buffers()]
        self._image_ids += list(batch["image_ids"])

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if gradient_norm(pl_module).isfinite():
            return
        self.skipped += 1
        images = ", ".join(map(str, self._image_ids))
        told = f"the gradients of step {trainer.global_step + 1} are not finite (image ids {images})"
        if self.skipped > self.max_skipped_steps:
            raise NonFiniteLossError(
                f"{told}; --max_skipped_steps {self.max_skipped_steps} were skipped already. Lower "
                "--model.learning_rate or lengthen --model.warmup_steps"
            )
        rank_zero_warn(f"{told}; skipped, {self.skipped} of at most {self.max_skipped_steps}")
        optimizer.zero_grad(set_to_none=True)  # parameters without gradients are left alone
        for buffer, before in zip(pl_module.model.buffers(), self._statistics, strict=True):
            buffer.copy_(before)
        self.monitor.skip(trainer.global_step + 1)
        pl_module.log("train/skipped_steps", torch.tensor(float(self.skipped)), batch_size=1)

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.skipped = state["skipped"]


class GradientNorm(pl.Callback):
    """Logs the L2 norm of all gradients before clipping, `train/gradient_norm`, in the steps that are logged."""

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if (trainer.global_step + 1) % trainer.log_every_n_steps == 0:
            pl_module.log("train/gradient_norm", gradient_norm(pl_module), batch_size=1)


class Throughput(pl.Callback):
    """Logs, over each logging interval: `train/images_per_second` of all devices; `train/data_wait`, the share of the
    time that the first process waited for its batches; on an accelerator `train/memory_peak_mib`."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restart()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restart()

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self._waited += time.perf_counter() - self._batch_ended

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += len(batch["images"]) * trainer.world_size
        self._batch_ended = time.perf_counter()
        if (batch_idx + 1) % trainer.log_every_n_steps == 0 or trainer.is_last_batch:
            passed = self._batch_ended - self._start
            # A tensor on the host: a number would be sent to the device, and read back in every step.
            pl_module.log("train/images_per_second", torch.tensor(self._images / passed), prog_bar=True, batch_size=1)
            pl_module.log("train/data_wait", torch.tensor(self._waited / passed), batch_size=1)
            device = pl_module.device
            if device.type != "cpu":
                peak = getattr(torch, device.type).max_memory_allocated(device) / 2**20
                pl_module.log("train/memory_peak_mib", torch.tensor(peak), batch_size=1)
            self._restart()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restart()  # in the middle of an epoch its time is not training's

    def _restart(self) -> None:
        self._images, self._waited = 0, 0.0
        self._start = self._batch_ended = time.perf_counter()


class EpochTime(pl.Callback):
    """Logs the seconds that an epoch's training took, `train/epoch_seconds`, without its validation; of an epoch that
    was resumed, those since then."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = self._end = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = self._end = time.perf_counter()

    def on_train_batch_end(self, *args: Any) -> None:
        self._end = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A tensor on the host: a number would be sent to the device and read back.
        pl_module.log("train/epoch_seconds", torch.tensor(self._end - self._start), rank_zero_only=True)


class RandomStates(pl.Callback):
    """Keeps every rank's random state in checkpoints: Python's, NumPy's, torch's and CUDA's (an MLU's: accelerators/).

    The input pipeline needs none of them (`coco.transforms`); a network with dropout would.
    """

    def __init__(self) -> None:
        self._saved: dict[str, Any] | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        name, keys, *rest = np.random.get_state()
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


class ClassPrecision(pl.Callback):
    """Draws the AP of every class in TensorBoard, `class_AP/<name>`, after each validation while training.

    Only there: 80 columns more would drown the rest of a table.
    """

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        logger = tensorboard(trainer)
        if logger is None or trainer.sanity_checking or not trainer.is_global_zero:
            return
        for row in pl_module.metric.per_class():
            if row["ground_truths"]:
                logger.experiment.add_scalar(f"class_AP/{row['name']}", row["AP"], trainer.global_step)


def _step(trainer: pl.Trainer, batch_idx: int) -> int:
    """The optimiser step, from 1, that a batch which has just ended is part of."""
    stepped = trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    return trainer.global_step + (not stepped)


def gradient_norm(module: torch.nn.Module) -> Tensor:
    """The L2 norm of all gradients, on their device; nothing waits for it."""
    norms = [torch.linalg.vector_norm(p.grad, dtype=torch.float32) for p in module.parameters() if p.grad is not None]
    return torch.linalg.vector_norm(torch.stack(norms))
