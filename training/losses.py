"""What training watches beside Lightning's own callbacks: losses, gradients, the learning rate."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from training.position import epoch_was_cut
from training.ranks import gathered
from training.replaying import advice

CHECK_EVERY_N_STEPS = 50  # where `log_every_n_steps` is 0, never; Lightning's default


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message gives step, parts and images."""


class LossMonitor(pl.Callback):
    """Stops at a loss that is not finite, naming step, parts and images; logs the epoch's mean, `train/loss_epoch`.

    The losses stay on the device and are read together whenever Lightning reads scalars for the loggers anyway (every
    `log_every_n_steps`), and before validation, epoch end and every checkpoint: no sync of its own in a step. (Weights
    can break in a step whose loss is finite: training/finite.py looks at them before they are saved.) All ranks stop
    with the message of the first one that has such a loss. The progress bar gets the latest loss. The mean is over all
    ranks, and goes on from a checkpoint in the middle of an epoch, or after a fit that ended there.
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
        if len(self._pending) >= (trainer.log_every_n_steps or CHECK_EVERY_N_STEPS):
            # From the host: what is logged for the progress bar Lightning reads again in every step.
            pl_module.log("loss", self._check(trainer)[-1], prog_bar=True, logger=False, batch_size=1)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._check(trainer)
        sums, images = zip(*gathered((self._sum, self._images)), strict=True)
        pl_module.log("train/loss_epoch", torch.tensor(sum(sums) / max(sum(images), 1)), batch_size=1)
        if not epoch_was_cut(trainer):
            self._sum, self._images = 0.0, 0

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._check(trainer)
        checkpoint["loss_sums"] = [list(of_rank) for of_rank in gathered((self._sum, self._images))]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        saved = checkpoint.get("loss_sums", [])
        if len(saved) != trainer.world_size:  # other devices: the first goes on with the sum of all
            total = [sum(values) for values in zip(*saved, strict=True)] or [0.0, 0]
            saved = [total] + [[0.0, 0]] * (trainer.world_size - 1)
        self._sum, self._images = saved[trainer.global_rank]

    def _check(self, trainer: pl.Trainer) -> Tensor:
        """The pending losses, on the host."""
        pending, self._pending = self._pending, []
        if not pending:
            return torch.empty(0)
        losses = torch.stack([parts["loss"] for _, parts, _ in pending]).float().cpu()
        told = None
        for loss, (step, parts, image_ids) in zip(losses.tolist(), pending, strict=True):
            if step in self._skipped:
                continue
            if not np.isfinite(loss):
                told = _not_finite(step, parts, image_ids) + advice(trainer, step)
                break
            self._sum += loss * len(image_ids)
            self._images += len(image_ids)
        if any(told_by_ranks := gathered(told)):
            raise NonFiniteLossError(next(filter(None, told_by_ranks)))
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
        every = trainer.log_every_n_steps
        if every and (trainer.global_step + 1) % every == 0:
            pl_module.log("train/gradient_norm", gradient_norm(pl_module), batch_size=1)


class LearningRate(pl.Callback):
    """Logs the rate of a step, `train/learning_rate`, in the steps that are logged: that of the optimiser's first
    group, as the recipe's two have the same. (Lightning's LearningRateMonitor shows each group by itself.)"""

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        # A tensor on the host: a number would be sent to the device, and read back in every step.
        pl_module.log("train/learning_rate", torch.tensor(optimizer.param_groups[0]["lr"]), batch_size=1)


def _not_finite(step: int, parts: dict[str, Tensor], image_ids: Any) -> str:
    values = ", ".join(f"{name} {float(value):g}" for name, value in parts.items())
    return (
        f"the loss is not finite at step {step}: {values}; image ids {', '.join(map(str, image_ids))}. The last "
        "checkpoint is from before this step. Lower --model.learning_rate or lengthen --model.warmup_steps; if it is "
        "always the same images, look at their boxes; --max_skipped_steps K skips up to K such steps"
    )


def _step(trainer: pl.Trainer, batch_idx: int) -> int:
    """The optimiser step, from 1, that a batch which has just ended is part of."""
    stepped = trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0
    return trainer.global_step + (not stepped)


def gradient_norm(module: torch.nn.Module) -> Tensor:
    """The L2 norm of all gradients, on their device; nothing waits for it."""
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    if hasattr(torch.nn.utils, "get_total_norm"):  # from torch 2.6 on; with few launches where the device has them
        return torch.nn.utils.get_total_norm(gradients)
    norms = [torch.linalg.vector_norm(gradient, dtype=torch.float32) for gradient in gradients]
    return torch.linalg.vector_norm(torch.stack(norms))
