"""Where a run is: one line that changes on a terminal, a line a minute elsewhere, and a lasting one for each epoch."""

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar
from tqdm import tqdm

BAR = "{desc} |{bar:10}| {n_fmt}/{total_fmt}{postfix}"
ON_A_TERMINAL, ELSEWHERE = 0.5, 60.0  # seconds between two refreshes


class RunProgress(ProgressBar):
    """Epoch, step, loss, images per second, and the time that epoch and run will take; in an evaluation its images.

    The time left is from the mean of the steps and validations so far, the data's wait included. Nothing is read from
    the device: loss and speed are those that were logged last. On the first process alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: tqdm | None = None
        self._steps, self._step_seconds = 0, 0.0  # of this process
        self._validations, self._validation_seconds, self._validated = 0, 0.0, False
        self._began = self._fit_began = self._told = 0.0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        self._say(" ".join(map(str, args)))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._fit_began = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = time.monotonic()
        self._open(f"epoch {trainer.current_epoch + 1}{_of(trainer.max_epochs)}", self.total_train_batches)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        self._steps, self._step_seconds, self._began = self._steps + 1, self._step_seconds + now - self._began, now
        metrics = trainer.progress_bar_metrics
        facts = [f"loss {metrics['loss']:.2f}"] if "loss" in metrics else []
        if (speed := metrics.get("train/images_per_second")) is not None:
            facts.append(f"{speed:.3g} images/s")
        mean = self._step_seconds / self._steps
        of_epoch = (self.total_train_batches - batch_idx - 1) * mean
        if of_epoch < float("inf"):
            of_run = self._left(trainer, of_epoch, mean)
            facts.append(f"left {_clock(of_epoch)}" + (f", run {_clock(of_run)}" if of_run is not None else ""))
        self._show(batch_idx + 1, facts)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()
        self._say(self._summary(trainer, f"epoch {trainer.current_epoch + 1}{_of(trainer.max_epochs)}"))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = time.monotonic()
        if not trainer.sanity_checking:
            self._close()
            what = "validation" if trainer.state.fn == "fit" else "evaluation"
            self._open(what, sum(trainer.num_val_batches))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not trainer.sanity_checking and self._bar is not None:
            mean = (time.monotonic() - self._began) / (batch_idx + 1)
            self._show(batch_idx + 1, [f"left {_clock(mean * (self._bar.total - batch_idx - 1))}"])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        now = time.monotonic()
        if not trainer.sanity_checking:
            self._validations, self._validated = self._validations + 1, True
            self._validation_seconds += now - self._began
            self._close()
            if trainer.state.fn == "fit" and not trainer.is_last_batch:  # else the epoch's line says it
                self._say(self._summary(trainer, f"step {trainer.global_step}"))
                self._open(f"epoch {trainer.current_epoch + 1}{_of(trainer.max_epochs)}", self.total_train_batches)
        self._began = now

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._close()

    def _left(self, trainer: pl.Trainer, of_epoch: float, mean: float) -> float | None:
        """Seconds to the end of the run; None where it has none."""
        if trainer.max_epochs is None or trainer.max_epochs < 0:
            return None
        epochs = trainer.max_epochs - trainer.current_epoch - 1
        seconds = of_epoch + epochs * self.total_train_batches * mean
        if trainer.max_steps > 0:
            steps = (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches
            seconds = min(seconds, steps * mean)
        validations = (epochs + 1) // (trainer.check_val_every_n_epoch or 1)
        return seconds + validations * self._validation_seconds / max(self._validations, 1)

    def _summary(self, trainer: pl.Trainer, what: str) -> str:
        """Losses, mAP and the best of it, and the minutes since the run began here."""
        metrics = trainer.callback_metrics
        names = {"train/loss_epoch": "loss {:.3f}"} if what.startswith("epoch") else {}
        names |= {"val/loss": "validation loss {:.3f}", "mAP": "mAP {:.3f}"} if self._validated else {}
        facts = [form.format(float(metrics[name])) for name, form in names.items() if name in metrics]
        for callback in trainer.checkpoint_callbacks if self._validated else ():
            if isinstance(callback, ModelCheckpoint) and callback.monitor == "mAP" and callback.best_model_score:
                facts.append(f"best {float(callback.best_model_score):.3f}")
        self._validated = False
        return f"{what}: {', '.join([*facts, f'{(time.monotonic() - self._fit_began) / 60:.1f} minutes'])}"

    def _open(self, what: str, total: float) -> None:
        self._close()
        self._told = time.monotonic()
        if self._is_shown:
            terminal = sys.stdout.isatty()
            self._bar = tqdm(
                desc=what, total=None if total == float("inf") else int(total), file=sys.stdout, leave=False,
                dynamic_ncols=True, bar_format=BAR, mininterval=0, disable=not terminal,
            )  # fmt: skip
            self._what, self._total = what, total

    def _show(self, done: int, facts: list[str]) -> None:
        now, last = time.monotonic(), self._bar is None or done == self._total
        if self._bar is None or (now - self._told < (ELSEWHERE if self._bar.disable else ON_A_TERMINAL) and not last):
            return
        if self._bar.disable:
            if not last:  # a line of its own says how it ended
                self._say(f"{self._what}: {', '.join([f'{done}/{self._total:g}', *facts])}")
        else:
            self._bar.n = done
            self._bar.set_postfix_str(", ".join(facts))
        self._told = now

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _say(self, text: str) -> None:
        if self._is_shown:
            if self._bar is not None and not self._bar.disable:
                self._bar.write(text, file=sys.stdout)
            else:
                print(text, flush=True)

    @property
    def _is_shown(self) -> bool:
        return self._enabled and self.trainer.is_global_zero


def _of(epochs: int | None) -> str:
    return f"/{epochs}" if epochs is not None and epochs > 0 else ""


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
