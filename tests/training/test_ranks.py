"""What two ranks do together, in two processes; whole runs are stopped in tests/faults."""

import signal
import time
from datetime import timedelta
from types import SimpleNamespace

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tests.training.test_last_checkpoint import FakeTrainer
from training.last_checkpoint import LastCheckpoint, Preempted
from training.ranks import Greatest

CPU = torch.device("cpu")


def test_ranks_agree_a_step_later_and_wait_for_nobody(tmp_path):
    method = "fork" if "fork" in mp.get_all_start_methods() else "spawn"  # the first has no imports to repeat
    mp.start_processes(agree, (tmp_path,), nprocs=2, start_method=method)


def agree(rank, directory):
    store = dist.FileStore(str(directory / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        the_first_to_ask_goes_on(rank, directory)
        both_stop_at_the_step_after(rank, directory)
        both_save_once_when_the_minutes_of_one_are_over(rank, directory)
        a_requeue_is_acted_on_once(rank, directory)
    finally:
        dist.destroy_process_group()


def the_first_to_ask_goes_on(rank, directory):
    asked, greatest = directory / "asked", Greatest()
    assert greatest.read() == 0
    if rank == 1:
        while not asked.exists():  # rank 0 asks and goes on, though this one has not asked yet
            time.sleep(0.01)
    greatest.ask(rank + 5, CPU)
    asked.touch()
    assert greatest.read() == 6 and greatest.read() == 0


def trainer_of_two():
    return FakeTrainer(world_size=2, strategy=SimpleNamespace(root_device=CPU))


def trained(callback, before):
    trainer = trainer_of_two()
    callback.on_train_start(trainer, None)
    trainer.train(callback, 8, before)
    return trainer


def both_stop_at_the_step_after(rank, directory):
    """The signal comes to one of them, in its third step."""
    callback, step = LastCheckpoint(directory, every_n_steps=2, every_minutes=None), None
    try:
        trained(callback, lambda i: signal.raise_signal(signal.SIGTERM) if (rank, i) == (1, 2) else None)
    except Preempted as stop:
        step = str(stop)
    assert step is not None and "stopped by SIGTERM after step 4; its state is in" in step
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def both_save_once_when_the_minutes_of_one_are_over(rank, directory):
    callback = LastCheckpoint(directory, every_minutes=10.0)

    def an_hour_passes(batch_idx):
        if (rank, batch_idx) == (0, 3):
            callback._saved_at -= 3600

    assert trained(callback, an_hour_passes).saved == [5]


def a_requeue_is_acted_on_once(rank, directory):
    callback, requeued = LastCheckpoint(directory, every_minutes=None), []
    callback._requeue, callback._requeue_signal = lambda *_: requeued.append(1), signal.SIGTERM
    trained(callback, lambda i: callback._note_requeue(0, None) if (rank, i) == (0, 1) else None)
    assert len(requeued) == 1
