"""What training watches: epoch means, gradient norms, throughput, random state, steps that are not finite, stalls."""

import csv
import random
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from command_line.fit import train
from ssd_module import SSDModule
from tests.command_line.test_fit import arguments
from training.loader_watch import LoaderWatch, WatchedDataset, loader_error
from training.losses import LossMonitor, NonFiniteLossError, SkipNonFiniteSteps, gradient_norm
from training.random_states import RandomStates


@pytest.fixture
def poisoned(monkeypatch):
    """Makes the loss of these steps (from 1) infinite."""

    def poison(*steps):
        training_step = SSDModule.training_step

        def step(self, batch, batch_idx):
            outputs = training_step(self, batch, batch_idx)
            if self.global_step + 1 in steps:
                outputs["loss"] = outputs["loss"] * float("inf")
            return outputs

        monkeypatch.setattr(SSDModule, "training_step", step)

    return poison


def rows(run_dir, column):
    with open(run_dir / "logs" / "csv" / "version_0" / "metrics.csv") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get(column)]


def test_skipped_steps_are_counted_and_leave_no_trace(sample, tmp_path, poisoned):
    poisoned(2, 4)
    quick = ("--max_epochs", "1", "--trainer.limit_val_batches", "0", "--trainer.log_every_n_steps", "1")
    with pytest.warns(UserWarning, match=r"step 2 are not finite \(image ids .*\); skipped, 1 of at most 2"):
        trainer = train(arguments(sample, tmp_path / "run", *quick, "--max_skipped_steps", "2"))
    assert trainer.global_step == 5
    assert all(value.isfinite().all() for value in trainer.lightning_module.state_dict().values())
    assert sorted(set(rows(tmp_path / "run", "train/skipped_steps"))) == [1, 2]
    assert np.isfinite(rows(tmp_path / "run", "train/loss_epoch")).all(), "skipped losses are no part of the mean"
    assert 0 <= min(rows(tmp_path / "run", "train/data_wait")) <= max(rows(tmp_path / "run", "train/data_wait")) <= 1
    assert min(rows(tmp_path / "run", "train/images_per_second")) > 0


def test_with_accumulation_a_step_is_skipped_as_a_whole_whichever_of_its_batches_is_to_blame(
    sample, tmp_path, poisoned
):
    poisoned(1)  # both batches of the first step
    quick = ("--max_epochs", "1", "--trainer.limit_val_batches", "0", "--trainer.accumulate_grad_batches", "2")
    with pytest.warns(UserWarning, match=r"step 1 are not finite \(image ids (\d+, ){7}\d+\); skipped, 1 of at most 1"):
        trainer = train(arguments(sample, tmp_path / "run", *quick, "--max_skipped_steps", "1"))
    assert trainer.global_step == 3


def test_one_step_more_than_allowed_stops(sample, tmp_path, poisoned):
    poisoned(1, 3)
    with (
        pytest.warns(UserWarning, match="skipped, 1 of at most 1"),
        pytest.raises(NonFiniteLossError, match=r"step 3 are not finite.*--max_skipped_steps 1 were skipped"),
    ):
        train(arguments(sample, tmp_path / "run", "--max_epochs", "1", "--max_skipped_steps", "1"))


def test_a_skipped_step_changes_neither_weights_nor_momentum_nor_running_statistics():
    module = SimpleNamespace(
        model=torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)), log=lambda *_, **__: None
    )
    module.parameters = module.model.parameters
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    trainer = SimpleNamespace(accumulate_grad_batches=1, global_step=0, precision_plugin=None)
    skip = SkipNonFiniteSteps(LossMonitor(), 1)
    for scale in (1.0, float("nan")):
        before = {key: value.clone() for key, value in module.model.state_dict().items()}
        momenta = [state["momentum_buffer"].clone() for state in optimizer.state.values()]
        skip.on_train_batch_start(trainer, module, {"image_ids": [7]}, 0)
        optimizer.zero_grad()
        (module.model(torch.randn(4, 3) * scale).sum() * scale).backward()
        if scale == scale:
            skip.on_before_optimizer_step(trainer, module, optimizer)
        else:
            with pytest.warns(UserWarning, match="image ids 7"):
                skip.on_before_optimizer_step(trainer, module, optimizer)
        optimizer.step()
    assert all(torch.equal(value, before[key]) for key, value in module.model.state_dict().items())
    assert all(
        torch.equal(state["momentum_buffer"], momentum)
        for state, momentum in zip(optimizer.state.values(), momenta, strict=True)
    )


def test_skipping_is_the_gradient_scalers_business_in_fp16():
    trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=object()))
    with pytest.raises(MisconfigurationException, match=r"--max_skipped_steps with fp16.*bf16-mixed"):
        SkipNonFiniteSteps(LossMonitor(), 1).setup(trainer, None, "fit")


def test_the_gradient_norm_is_that_of_all_gradients_together():
    layer = torch.nn.Linear(2, 1)
    layer.weight.grad, layer.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
    assert float(gradient_norm(layer)) == 5.0


def test_the_mean_of_an_epoch_goes_on_from_a_checkpoint_on_any_number_of_ranks():
    for saved, expected in (([[3.0, 2]], (3.0, 2)), ([[1.0, 2], [4.0, 2]], (5.0, 4)), ([], (0.0, 0))):
        monitor = LossMonitor()
        trainer = SimpleNamespace(world_size=1, global_rank=0)
        monitor.on_load_checkpoint(trainer, None, {"loss_sums": saved} if saved else {})
        assert (monitor._sum, monitor._images) == expected


def test_random_numbers_go_on_from_a_checkpoint():
    def draw():
        return random.random(), np.random.rand(), float(torch.rand(()))

    module, trainer = SimpleNamespace(device=torch.device("cpu")), SimpleNamespace(global_rank=0)
    checkpoint = {}
    RandomStates().on_save_checkpoint(trainer, module, checkpoint)
    expected = draw()
    resumed = RandomStates()
    resumed.on_load_checkpoint(trainer, module, checkpoint)
    draw()
    resumed.on_train_start(trainer, module)
    assert draw() == expected


class Slow:
    """A data set whose picture 5 hangs."""

    def __init__(self, directory):
        self.path = lambda index: directory / f"{index}.jpg"

    def __len__(self):
        return 10

    def __getitem__(self, key):
        time.sleep(1.5 if key[1] == 5 else 0)
        return torch.zeros(1)


def test_a_stall_is_told_once_with_the_workers_file(tmp_path):
    dataset = WatchedDataset(Slow(tmp_path), num_workers=1)
    loader = torch.utils.data.DataLoader(dataset, sampler=[(0, 1), (0, 5)], num_workers=1, prefetch_factor=1)
    watch = LoaderWatch(stall_seconds=0.5)
    trainer = SimpleNamespace(train_dataloader=loader, is_last_batch=False, global_rank=1)
    told = []
    watch.warn = told.append
    watch.on_train_start(trainer, None)
    for _ in loader:
        watch.on_train_batch_start()
        watch.on_train_batch_end(trainer)
    watch.teardown(trainer, None, "fit")
    assert len(told) == 1 and f"worker 0: {tmp_path / '5.jpg'}" in told[0]
    assert "rank 1: training has waited 0.5 s" in told[0]


def test_a_dead_worker_is_told_from_other_errors():
    error = loader_error(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. \nmore"))
    assert "died (is killed by signal: Killed" in str(error) and "--num_workers" in str(error)
    assert loader_error(RuntimeError("CUDA error")) is None
