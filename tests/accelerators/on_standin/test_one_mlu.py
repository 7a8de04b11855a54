"""Training on one MLU, with what Lightning offers around it."""

import copy
import logging

import pytest
import torch
from packaging.version import Version
from pytorch_lightning.callbacks import DeviceStatsMonitor, EMAWeightAveraging
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.tuner import Tuner
from torch.utils.data import DataLoader
from toy import Toy, loader, trainer, weights

import accelerators
from accelerators import MLUAccelerator, SingleMLUStrategy
from accelerators.strategies import MLUDDPStrategy


def on_mlu(**flags):
    return trainer(accelerator="mlu", devices=1, strategy=SingleMLUStrategy(), **flags)


def test_training_on_an_mlu_equals_training_on_the_cpu():
    trained = []
    for flags in ({"accelerator": "cpu"}, {"accelerator": "mlu", "devices": 1, "strategy": "mlu_single"}):
        model = Toy()
        trainer(**flags, max_epochs=2).fit(model, loader(), loader())
        trained.append(weights(model))
    assert torch.equal(*trained)


def test_validate_and_predict_run_on_the_mlu():
    model = Toy()
    (metrics,) = on_mlu().validate(model, loader(), verbose=False)
    predictions = on_mlu().predict(model, loader())
    assert metrics["validation"] > 0 and len(predictions) == 4
    assert model.seen["device"] == torch.device("mlu", 0)


def test_row_single_device_strategy_devices_1_in_a_list_means_the_second_mlu():
    model = Toy()
    run = trainer(accelerator="mlu", devices=[1], strategy="mlu_single")
    run.fit(model, loader())
    assert model.seen["device"] == torch.device("mlu", 1)
    assert run.device_ids == [1]


@pytest.mark.parametrize("device", [1, "mlu:1"])
def test_single_mlu_strategy_takes_the_device_in_any_spelling(device):
    assert SingleMLUStrategy(device).root_device == torch.device("mlu", 1)


def test_single_mlu_strategy_refuses_another_kind_of_device():
    with pytest.raises(Exception, match=r"cuda:0.*expected an MLU"):
        SingleMLUStrategy("cuda:0")


def test_row_module_device_has_an_index_and_equals_its_parameters():
    for strategy in (SingleMLUStrategy(), SingleMLUStrategy("mlu")):
        model = Toy()
        trainer(accelerator="mlu", devices=1, strategy=strategy).fit(model, loader())
        assert model.seen["own_device"] == model.seen["device"] == torch.device("mlu", 0)


def test_row_start_up_line_names_the_mlu(caplog):
    with caplog.at_level(logging.INFO):
        on_mlu().validate(Toy(), loader(), verbose=False)
    assert "MLU available: True, used: 1 x MLU stand-in" in caplog.text


def test_gradient_accumulation_and_clipping_equal_the_cpu():
    trained = []
    for flags in ({"accelerator": "cpu"}, {"accelerator": "mlu", "devices": 1, "strategy": "mlu_single"}):
        model = Toy()
        trainer(**flags, accumulate_grad_batches=2, gradient_clip_val=0.1).fit(model, loader())
        trained.append(weights(model))
    assert torch.equal(*trained)


def test_device_stats_monitor_logs_the_allocators_numbers(tmp_path):
    logger = CSVLogger(tmp_path)
    on_mlu(logger=logger, callbacks=[DeviceStatsMonitor()], log_every_n_steps=1).fit(Toy(), loader())
    header = next(tmp_path.rglob("metrics.csv")).read_text().splitlines()[0]
    assert "DeviceStatsMonitor.on_train_batch_start/allocated_bytes.all.current" in header


def test_device_stats_add_what_cnmon_says(tmp_path, monkeypatch):
    command = tmp_path / "cnmon"
    command.write_text("#!/bin/sh\nprintf 'Card 0\\n  Power\\n    Usage : 56 W\\n'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    stats = MLUAccelerator().get_device_stats(torch.device("mlu", 0))
    assert stats["power.usage (W)"] == 56 and "allocated_bytes.all.current" in stats


def test_pinned_batches_arrive_on_the_mlu():
    if Version(torch.__version__) < Version("2.5"):
        pytest.skip('torch 2.4 pins for CUDA only: write pin_memory_device="mlu" in the DataLoader')
    model = Toy()
    pinned = DataLoader(loader().dataset, batch_size=8, pin_memory=True)
    on_mlu().fit(model, pinned)
    assert model.seen["device"] == torch.device("mlu", 0)


def test_ema_weight_averaging_runs_on_the_mlu():
    model = Toy()
    plain = Toy()
    on_mlu(callbacks=[EMAWeightAveraging(decay=0.9)]).fit(model, loader())
    on_mlu().fit(plain, loader())
    assert torch.isfinite(weights(model)).all() and not torch.equal(weights(model), weights(plain))


def test_row_sanity_check_leaves_the_mlus_random_state():
    class Draws(Toy):
        def on_validation_start(self):
            torch.rand(3, device=self.device)

        def on_train_start(self):
            self.state = torch.mlu.get_rng_state(self.device)

    states = []
    for steps in (0, 2):
        model = Draws()
        on_mlu(num_sanity_val_steps=steps, max_epochs=1).fit(model, loader(), loader())
        states.append(model.state)
    assert torch.equal(*states)


@pytest.mark.parametrize("device", [0, 1])
def test_row_out_of_memory_is_recognised_by_the_batch_size_finder(device):
    class Hungry(Toy):
        def __init__(self):
            super().__init__()
            self.batch_size = 2

        def train_dataloader(self):
            return loader(64, self.batch_size)

        def val_dataloader(self):
            return loader(64, self.batch_size)

        def training_step(self, batch, batch_idx):
            if len(batch[0]) > 8:
                raise torch.OutOfMemoryError("MLU out of memory. Tried to allocate 2.00 GiB (MLU 0; ...)")
            return super().training_step(batch, batch_idx)

    run = trainer(accelerator="mlu", devices=[device], strategy="mlu_single", enable_checkpointing=True)
    model = Hungry()
    assert Tuner(run).scale_batch_size(model, steps_per_trial=1, init_val=2) == 8


def test_accelerator_is_registered_and_available():
    assert MLUAccelerator.is_available() and MLUAccelerator.auto_device_count() == 2
    assert MLUAccelerator.parse_devices("auto") == [0, 1]
    assert MLUAccelerator.get_parallel_devices([0, 1]) == [torch.device("mlu", 0), torch.device("mlu", 1)]


def test_setup_device_makes_the_device_current():
    accelerator = MLUAccelerator()
    for ordinal in (1, 0):
        accelerator.setup_device(torch.device("mlu", ordinal))
        assert torch.mlu.current_device() == ordinal


@pytest.mark.parametrize("make", [SingleMLUStrategy, MLUDDPStrategy])
def test_strategies_can_be_copied(make):
    assert type(copy.deepcopy(make())) is make


def test_flags_for_one_and_for_several_mlus():
    one = accelerators.resolve_trainer_flags(devices=1)
    assert one["accelerator"] == "mlu" and isinstance(one["strategy"], SingleMLUStrategy) and one["plugins"] is None
    all_of_them = accelerators.resolve_trainer_flags("mlu", precision="bf16-mixed", plugins=[])
    assert isinstance(all_of_them["strategy"], MLUDDPStrategy)
    assert all_of_them["precision"] is None and all_of_them["plugins"][0].precision == "bf16-mixed"
    nodes = accelerators.resolve_trainer_flags("mlu", 1, num_nodes=2, strategy="auto")
    assert isinstance(nodes["strategy"], MLUDDPStrategy)
    unused = accelerators.resolve_trainer_flags("mlu", 2, strategy="ddp_find_unused_parameters_true")["strategy"]
    assert unused._ddp_kwargs == {"find_unused_parameters": True}


def test_row_accelerator_auto_prefers_an_mlu_that_is_present():
    assert accelerators.resolve_trainer_flags()["accelerator"] == "mlu"
    assert accelerators.resolve_trainer_flags("cpu")["accelerator"] == "cpu"
