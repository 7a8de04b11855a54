"""A loader's workers: a stop signal leaves them alone; a stall or a death is told, with the pictures being read."""

import multiprocessing
import os
import re
import signal
import threading
import time
import warnings
import weakref
from multiprocessing import resource_tracker
from multiprocessing.util import Finalize
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from training.stop_signals import held_back, ignore

_workers: "weakref.WeakSet[Any]" = weakref.WeakSet()  # processes of all loaders, while they live
_ended_by: set[int] = set()  # pids of processes that end theirs


class SteadyLoader(DataLoader):
    """A DataLoader whose workers go on when a stop signal comes to the whole process group, from their start on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"worker_init_fn": _in_worker, **kwargs})

    def __iter__(self) -> Any:
        if not self.num_workers or self._iterator is not None:  # or its workers are there already
            return super().__iter__()
        if os.getpid() not in _ended_by:
            _ended_by.add(os.getpid())
            Finalize(None, _end_workers, exitpriority=100)
        others = set(multiprocessing.active_children())
        try:
            with held_back():
                if (self.multiprocessing_context or multiprocessing).get_start_method() != "fork":
                    resource_tracker.ensure_running()  # which lets signals through again
                with held_back():
                    return super().__iter__()
        finally:  # also where it could not start them all
            _workers.update(set(multiprocessing.active_children()) - others)


def _in_worker(worker: int) -> None:
    ignore()


def _end_workers() -> None:
    """At the end of the process kills those that are left; multiprocessing would send them SIGTERM, and wait."""
    left = [worker for worker in multiprocessing.active_children() if worker in _workers]
    if left and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # for torch it would be a death to report
    for worker in left:
        worker.kill()


class WatchedDataset(Dataset):
    """Passes keys on to `dataset`, and notes in shared memory which sample each worker is reading (-1: none)."""

    def __init__(self, dataset: Any, num_workers: int) -> None:
        self.dataset = dataset
        self.reading = torch.full((max(num_workers, 1),), -1, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        worker = get_worker_info()
        place = worker.id if worker else 0
        self.reading[place] = key[1]
        sample = self.dataset[key]
        self.reading[place] = -1
        return sample

    def files(self) -> dict[int, str]:
        """Worker -> the file that it is reading now."""
        reading = enumerate(self.reading.tolist())
        return {worker: str(self.dataset.path(index)) for worker, index in reading if index >= 0}


class LoaderWatch(pl.Callback):
    """Warns, once per stall, when training has waited `stall_seconds` for a batch, naming the files being read."""

    def __init__(self, stall_seconds: float) -> None:
        self.stall_seconds = stall_seconds
        self.warn = warnings.warn  # of every rank: only the one that stalls knows
        self._waiting_since: float | None = None
        self._finished = threading.Event()
        self._thread: threading.Thread | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        dataset = getattr(trainer.train_dataloader, "dataset", None)
        if isinstance(dataset, WatchedDataset):
            self._rank = trainer.global_rank
            self._finished.clear()
            self._waiting_since = time.monotonic()
            self._thread = threading.Thread(target=self._watch, args=(dataset,), name="loader-watch", daemon=True)
            self._thread.start()

    def on_train_batch_start(self, *args: Any) -> None:
        self._waiting_since = None

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if not trainer.is_last_batch:
            self._waiting_since = time.monotonic()

    def on_train_epoch_start(self, *args: Any) -> None:
        self._waiting_since = time.monotonic()

    def on_validation_start(self, *args: Any) -> None:
        self._waiting_since = None  # may take longer than any stall

    def on_validation_end(self, *args: Any) -> None:
        self._waiting_since = time.monotonic()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._finished.set()

    def on_exception(self, *args: Any) -> None:
        self._finished.set()

    def _watch(self, dataset: WatchedDataset) -> None:
        told = None
        while not self._finished.wait(self.stall_seconds / 4):
            since = self._waiting_since
            if since is None or since == told or time.monotonic() - since < self.stall_seconds:
                continue
            told = since
            files = ", ".join(f"worker {worker}: {file}" for worker, file in dataset.files().items())
            self.warn(
                f"rank {self._rank}: training has waited {self.stall_seconds:g} s for a batch. Being read: "
                f"{files or 'nothing'}. A slow or hanging disk, a huge picture, or too few --num_workers"
            )


_CAUSES = {  # of torch's words
    "signal: Killed": "; the system does that when memory is short: use a smaller --num_workers or --batch_size",
    "Bus error": "; shared memory was too small: enlarge /dev/shm (docker run --shm-size 8g), or use --num_workers 0",
    "Segmentation fault": "; a library crashed, maybe on a picture: `python -m coco.check DIR` looks through them",
    "exited unexpectedly": "; --num_workers 0 shows its error",
}


def loader_error(error: BaseException) -> str | None:
    """torch's error for a dead worker, said in a way that helps; None if it is another error."""
    found = re.search(r"DataLoader worker \(pid(?:\(s\))? [^)]*\) (.*)", str(error))
    if found is None:
        return None
    how = found[1].splitlines()[0]
    why = next((reason for word, reason in _CAUSES.items() if word in str(error)), "")
    return (
        f"a worker of the data loader died ({how}){why}. A training run is resumed with --run_dir DIR --ckpt_path last"
    )
