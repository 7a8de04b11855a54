"""A long run of many short epochs: what its processes hold does not grow with them."""

import contextlib
import csv
import ctypes
import gc
import os
import threading
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from coco.sample import write_sample
from command_line.fit import train

EPOCHS = 30
SETTLED = 8  # epochs, from which on nothing may grow
LEAST = 20  # MB; a leak of one picture, batch or gradient in every step or checkpoint makes more in the other epochs


class Holdings(pl.Callback):
    """After each epoch: memory of this process and of its children (MB), its file descriptors, threads and children."""

    def __init__(self):
        self.rows = []

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.strategy.checkpoint_io.wait()
        gc.collect()
        with contextlib.suppress(AttributeError, OSError):  # glibc's, without which freed memory may stay with it
            ctypes.CDLL(None).malloc_trim(0)
        tasks = Path("/proc/self/task").iterdir()
        children = [child for task in tasks for child in (task / "children").read_text().split()]
        memory = own_memory("self"), sum(map(own_memory, children))
        self.rows.append((*memory, len(os.listdir("/proc/self/fd")), threading.active_count(), len(children)))


def own_memory(process):
    """MB that no file stands behind."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))) / 1e3


def check_flat(rows):
    *memories, descriptors, threads, children = zip(*rows, strict=True)
    counts = {"descriptors": descriptors, "threads": threads, "processes": children}
    for what, values in counts.items():
        assert set(values[SETTLED:]) == {values[SETTLED]}, f"{what} change: {values}"
    for whose, memory in zip(("this process", "its workers"), memories, strict=True):
        # The least of five: checkpoints and batches come and go.
        grown = min(memory[-5:]) - min(memory[SETTLED : SETTLED + 5])
        assert grown < LEAST, f"memory of {whose} grew by {grown:.0f} MB: {[round(value) for value in memory]}"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
def test_thirty_epochs_leave_memory_descriptors_threads_and_processes_flat(tmp_path):
    held = Holdings()
    soak(tmp_path, [held])
    print("\nafter epoch: MB, MB of workers, descriptors, threads, processes")
    for epoch in (5, 15, 30):
        print(epoch, *(f"{value:.0f}" for value in held.rows[epoch - 1]))
    assert len(held.rows) == EPOCHS
    check_flat(held.rows)
    with open(next((tmp_path / "run" / "logs" / "csv").rglob("metrics.csv"))) as file:
        assert len([row for row in csv.DictReader(file) if row["val/mAP"]]) == EPOCHS


class Leak(pl.Callback):
    """Keeps a megabyte of every step."""

    def __init__(self):
        self.kept = []

    def on_train_batch_end(self, *args):
        self.kept.append(torch.ones(250_000))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
def test_a_megabyte_kept_of_every_step_of_a_real_run_is_seen(tmp_path):
    held = Holdings()
    soak(tmp_path, [held, Leak()], "--model.backbone", "thin")
    with pytest.raises(AssertionError, match="memory of this process grew by"):
        check_flat(held.rows)


def soak(directory, callbacks, *more):
    """Trains with workers, validation, all loggers, and a checkpoint in every step."""
    write_sample(directory / "data", train_images=6, val_images=2)
    arguments = [
        *("--accelerator", "cpu", "--data_root", str(directory / "data"), "--run_dir", str(directory / "run")),
        *("--batch_size", "2", "--num_workers", "2", "--model.backbone", "resnet18", "--model.warmup_steps", "3"),
        *("--max_epochs", str(EPOCHS), "--save_every_n_steps", "1", "--trainer.log_every_n_steps", "1"),
        *("--trainer.enable_progress_bar", "false"),
        *more,
    ]
    train(arguments, callbacks=callbacks)


@pytest.mark.parametrize("leak", ["memory", "workers", "descriptors", "threads", "processes"])
def test_a_leak_would_be_seen(leak):
    names = ["memory", "workers", "descriptors", "threads", "processes"]
    flat = [[1000 + 30 * (epoch % 3), 500, 57, 8, 4] for epoch in range(EPOCHS)]
    check_flat(flat)
    for epoch, row in enumerate(flat):
        row[names.index(leak)] += epoch if leak in ("descriptors", "threads", "processes") else 1.5 * epoch
    with pytest.raises(AssertionError, match=r"grew by|change"):
        check_flat(flat)
