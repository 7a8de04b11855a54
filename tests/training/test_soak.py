"""A long run of many short epochs: what the process holds does not grow with them."""

import csv
import os
import threading
from pathlib import Path

import pytest
import pytorch_lightning as pl

from coco.sample import write_sample
from command_line.fit import train

EPOCHS, SETTLED = 30, 8  # epochs; from the latter on nothing may grow


class Holdings(pl.Callback):
    """After each epoch: memory (MB), file descriptors, threads and child processes of this process."""

    def __init__(self):
        self.rows = []

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.strategy.checkpoint_io.wait()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        descriptors = len(os.listdir("/proc/self/fd"))
        tasks = Path("/proc/self/task").iterdir()
        children = [child for task in tasks for child in (task / "children").read_text().split()]
        memory = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
        self.rows.append((memory, descriptors, threading.active_count(), len(children)))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
def test_thirty_epochs_leave_memory_descriptors_threads_and_processes_flat(tmp_path):
    write_sample(tmp_path / "data", train_images=6, val_images=2)
    held = Holdings()
    arguments = [
        *("--accelerator", "cpu", "--data_root", str(tmp_path / "data"), "--run_dir", str(tmp_path / "run")),
        *("--batch_size", "2", "--num_workers", "2", "--model.backbone", "resnet18", "--model.warmup_steps", "3"),
        *("--max_epochs", str(EPOCHS), "--save_every_n_steps", "1", "--trainer.log_every_n_steps", "1"),
        *("--trainer.enable_progress_bar", "false"),
    ]
    train(arguments, callbacks=[held])
    assert len(held.rows) == EPOCHS
    memory, *counts = zip(*held.rows, strict=True)
    print("MB, descriptors, threads, processes after epochs:")
    for epoch in (1, SETTLED, EPOCHS // 2, EPOCHS):
        print(epoch, *(f"{value:.0f}" for value in held.rows[epoch - 1]))
    for what, values in zip(("descriptors", "threads", "processes"), counts, strict=True):
        assert set(values[SETTLED:]) == {values[SETTLED]}, f"{what} change: {values}"
    early, late = memory[SETTLED : SETTLED + 5], memory[-5:]
    grown = sum(late) / 5 - sum(early) / 5
    # Of the batches and checkpoints that come and go some MB stay with the allocator, now more, now less.
    assert grown < 0.05 * memory[SETTLED], f"memory grew by {grown:.0f} MB: {[round(value) for value in memory]}"
    with open(next((tmp_path / "run" / "logs" / "csv").rglob("metrics.csv"))) as file:
        assert len([row for row in csv.DictReader(file) if row["val/mAP"]]) == EPOCHS
