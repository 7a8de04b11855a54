"""Single steps measured: images per second of each, and where the time of some of them goes."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.profiler import ProfilerActivity, profile

from coco.whole_files import replacing

ROWS = 15


class Rate(pl.Callback):
    """Images per second of single steps over all devices, after `warmup` of them, with the wait for their data."""

    def __init__(self, warmup: int, iterations: int) -> None:
        self.warmup, self.iterations = warmup, iterations
        self.images: list[int] = []
        self.seconds: list[float] = []
        self._since: float | None = None

    def on_train_batch_start(self, *args: Any) -> None:
        self._since = self._since or time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        synchronise(trainer.strategy.root_device)
        now = time.perf_counter()
        self.seconds.append(now - (self._since or now))
        self.images.append(len(batch["images"]) * trainer.world_size)
        self._since = now

    on_validation_batch_start, on_validation_batch_end = on_train_batch_start, on_train_batch_end

    def on_validation_start(self, *args: Any) -> None:
        self._since = None

    def figures(self) -> dict[str, float]:
        measured = slice(self.warmup, self.warmup + self.iterations)
        images, seconds = np.asarray(self.images[measured]), np.asarray(self.seconds[measured])
        rates = images / seconds
        return {
            "avg_img/sec": float(images.sum() / seconds.sum()),
            "med_img/sec": float(np.median(rates)),
            "min_img/sec": float(rates.min()),
            "max_img/sec": float(rates.max()),
        }


class StepProfile(pl.Callback):
    """Profiles `steps` steps, after the first `after`, whose figures it leaves alone.

    What took longest by itself is in `table`, all that happened in a trace that chrome://tracing and Perfetto open.

    Args:
        path: of the trace, .json or .json.gz.
    """

    def __init__(self, path: Path, after: int, steps: int) -> None:
        self.path, self.after, self.steps = path, after, steps
        self.table = ""
        self._seen = 0
        self._profile: profile | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        device = trainer.strategy.root_device
        self._seen += 1
        if self._seen == self.after:
            synchronise(device)
            self._profile = profile(activities=[ProfilerActivity.CPU, *_activities(device)])
            self._profile.start()
        elif self._profile is not None and self._seen == self.after + self.steps:
            synchronise(device)
            self._profile.stop()
            self._write(self._profile)

    on_validation_batch_end = on_train_batch_end

    def _write(self, done: profile) -> None:
        events = done.key_averages()
        by = "device" if any(event.self_device_time_total for event in events) else "cpu"
        self.table = events.table(sort_by=f"self_{by}_time_total", row_limit=ROWS, max_name_column_width=40)
        with tempfile.TemporaryDirectory() as folder, replacing(self.path, follow=True) as file:
            trace = Path(folder) / ("trace.json" + self.path.suffix * (self.path.suffix == ".gz"))
            done.export_chrome_trace(str(trace))
            file.write(trace.read_bytes())


def _activities(device: torch.device) -> list[ProfilerActivity]:
    """The device's own, where this torch can record them."""
    own = getattr(ProfilerActivity, device.type.upper(), None)
    return [own] if own is not None and device.type != "cpu" else []


def synchronise(device: torch.device) -> None:
    """Waits for what `device` has been given."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize(device)
