"""When last.ckpt is saved, and what a signal does; whole runs are resumed in test_resuming.py and tests/faults."""

import signal
from types import SimpleNamespace

import pytest

from training.last_checkpoint import LastCheckpoint, Preempted


class FakeTrainer(SimpleNamespace):
    """As much of a Trainer as steps of training need; `saved` lists the steps that were saved."""

    def __init__(self, accumulated=1, world_size=1, **more):
        super().__init__(
            accumulate_grad_batches=accumulated, world_size=world_size, global_step=0, is_last_batch=False,
            current_epoch=0, check_val_every_n_epoch=1, val_check_batch=100, enable_validation=True, saved=[], **more,
        )  # fmt: skip

    def save_checkpoint(self, path):
        assert path.name == "last.ckpt"
        self.saved.append(self.global_step)

    def train(self, callback, batches, before=lambda batch_idx: None):
        for batch_idx in range(batches):
            callback.on_train_batch_start(self)
            before(batch_idx)
            self.global_step = (batch_idx + 1) // self.accumulate_grad_batches
            callback.on_train_batch_end(self, None, None, None, batch_idx)


@pytest.fixture
def start(tmp_path):
    """Makes a callback that trains; the process gets its own handlers back afterwards."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
    handlers = {number: signal.getsignal(number) for number in numbers}

    def make(trainer, before=lambda: None, **options):
        callback = LastCheckpoint(tmp_path, **{"every_minutes": None, **options})
        before()
        callback.on_train_start(trainer, None)
        return callback

    yield make
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_it_saves_in_steps_and_in_minutes_and_never_while_gradients_accumulate(start, monkeypatch):
    trainer = FakeTrainer(accumulated=3)
    trainer.train(start(trainer, every_n_steps=2), 18)
    assert trainer.saved == [2, 4, 6]
    clock = [0.0]
    monkeypatch.setattr("training.last_checkpoint.time.monotonic", lambda: clock[0])
    trainer = FakeTrainer(accumulated=2)
    callback = start(trainer, every_minutes=1.0)
    trainer.train(callback, 8, before=lambda batch_idx: clock.__setitem__(0, clock[0] + 25))  # 25 s a batch
    assert trainer.saved == [2, 4], "the first step after 60 s, which are over within a step"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_saves_at_the_end_of_the_step_and_stops_before_the_next(start, number):
    trainer = FakeTrainer(accumulated=2)
    callback = start(trainer)
    with pytest.raises(Preempted, match=rf"stopped by {number.name} after step 2; its state is in .*last\.ckpt"):
        trainer.train(callback, 8, before=lambda batch_idx: signal.raise_signal(number) if batch_idx == 2 else None)
    assert trainer.saved == [2]


def test_a_signal_that_was_ignored_when_the_run_was_made_is_ignored(start):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    trainer = FakeTrainer()
    callback = start(trainer, before=lambda: signal.signal(signal.SIGTERM, lambda *_: None))  # Lightning takes it
    for number in (signal.SIGHUP, signal.SIGTERM):
        trainer.train(callback, 2, before=lambda batch_idx, number=number: signal.raise_signal(number))
    assert not callback.told_to_stop and not trainer.saved


def test_torchrun_passing_on_the_same_interrupt_is_not_a_second_one(start, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    clock = [0.0]
    monkeypatch.setattr("training.last_checkpoint.time.monotonic", lambda: clock[0])
    start(FakeTrainer())
    signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    clock[0] = 2.0
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_stop_before_the_first_new_step_names_the_checkpoint_that_the_run_was_resumed_from(start):
    trainer = FakeTrainer()
    trainer.global_step, trainer.ckpt_path = 7, "old/last.ckpt"
    assert "its state is in old/last.ckpt" in str(start(trainer).preempted(trainer))
    trainer.global_step, trainer.ckpt_path = 0, None
    assert "before there was anything to save" in str(start(trainer).preempted(trainer))


def test_a_second_interrupt_does_not_wait(start):
    start(FakeTrainer())
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_under_slurm_lightnings_requeue_waits_for_the_end_of_the_step_and_sigterm_stays_lightnings(
    start, monkeypatch, number
):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "ssd")
    trainer, requeued = FakeTrainer(accumulated=2), []
    signal.signal(number, lambda *_: requeued.append(trainer.global_step))
    terminate = signal.getsignal(signal.SIGTERM)
    callback = start(trainer)
    trainer.train(callback, 6, before=lambda batch_idx: signal.raise_signal(number) if batch_idx == 2 else None)
    assert requeued == trainer.saved == [2] and trainer.global_step == 3, "training goes on until SLURM ends it"
    assert signal.getsignal(signal.SIGTERM) is terminate


def test_a_save_leaves_the_validation_that_follows_a_batch_to_be_done(start):
    trainer = FakeTrainer()
    trainer.val_check_batch = 2
    trainer.train(start(trainer, every_n_steps=1), 4)
    assert trainer.saved == [1, 3], "after 2 and 4 on_validation_start saves"
