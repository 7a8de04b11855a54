"""A user's own script: what would run on the CPU, in accidental fp32 or crash says what to write instead."""

import sys

import pytest
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from toy import Toy, loader, trainer

from accelerators import MLUAccelerator, MLUDDPStrategy, SingleMLUStrategy, resolve_trainer_flags
from accelerators.sync_batchnorm import refuse_without_kernels


def refused(match: str):
    return pytest.raises(MisconfigurationException, match=match)


def test_row_strategy_auto_with_one_device_does_not_train_on_the_cpu():
    with refused(r"device is cpu(.|\n)*strategy=SingleMLUStrategy\(\)"):
        trainer(accelerator="mlu", devices=1).fit(Toy(), loader())


def test_row_strategy_auto_with_two_devices_is_refused_before_a_process_group():
    run = trainer(accelerator="mlu", devices=2)
    with refused(r"Lightning's own(.|\n)*strategy=MLUDDPStrategy\(\)"):
        run.strategy.setup_environment()
    assert not dist.is_initialized()


def test_stock_ddp_beside_an_accelerator_object_is_refused_before_the_model_is_wrapped(monkeypatch):
    monkeypatch.setattr(DDPStrategy, "setup_distributed", lambda self: None)
    with refused(r"got DDPStrategy(.|\n)*MLUDDPStrategy\(\)"):
        trainer(accelerator=MLUAccelerator(), devices=1, strategy=DDPStrategy(), barebones=False).fit(Toy(), loader())


@pytest.mark.parametrize("strategy", ["mlu_single", "mlu_ddp", SingleMLUStrategy, MLUDDPStrategy])
@pytest.mark.parametrize("flag", ["16-mixed", "bf16-mixed"])
def test_row_mixed_precision_by_flag_is_refused_when_the_trainer_is_made(strategy, flag):
    with refused(rf"fp32 without gradient scaling.*plugins=\[MLUMixedPrecision\('{flag}'\)\]"):
        trainer(
            accelerator="mlu", devices=1, strategy=strategy if isinstance(strategy, str) else strategy(), precision=flag
        )


def test_float64_is_refused():
    with refused("64-bit floats as 32-bit"):
        trainer(accelerator="mlu", devices=1, strategy="mlu_single", precision="64-true")


@pytest.mark.parametrize("accelerator", ["auto", "cpu"])
def test_row_accelerator_auto_our_strategies_refuse_another_accelerator(accelerator):
    with refused("runs on MLUs, but the accelerator is CPUAccelerator"):
        trainer(accelerator=accelerator, strategy=SingleMLUStrategy())


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_row_notebooks_fork_is_refused_by_the_strategy(method):
    with refused("does not survive a fork"):
        MLUDDPStrategy(start_method=method)


@pytest.mark.parametrize("name", ["ddp_fork", "ddp_notebook", "ddp_notebook_find_unused_parameters_true"])
def test_row_notebooks_fork_is_refused_by_the_flags(name):
    with refused("does not survive a fork"):
        resolve_trainer_flags("mlu", 2, strategy=name)


def test_row_notebooks_several_mlus_are_refused_by_the_flags_in_an_interactive_session(monkeypatch):
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with refused("2 MLUs in an interactive session(.|\n)*devices=1"):
        resolve_trainer_flags("mlu", "auto")
    assert isinstance(resolve_trainer_flags("mlu", 1)["strategy"], SingleMLUStrategy)


def test_processes_that_slurm_started_are_not_left_to_train_alone(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    assert isinstance(resolve_trainer_flags("mlu", 1)["strategy"], MLUDDPStrategy)


def test_row_notebooks_lightnings_forked_processes_are_refused():
    with pytest.raises(Exception, match=r"strategy=MLUDDPStrategy\(\)"):
        trainer(accelerator="mlu", devices=2, strategy="ddp_fork").fit(Toy(), loader())


def test_one_mlu_strategy_refuses_several_devices_and_nodes():
    with refused("runs on one MLU, but devices= names 2"):
        trainer(accelerator="mlu", devices=2, strategy="mlu_single")
    with refused("num_nodes=2"):
        trainer(accelerator="mlu", devices=1, num_nodes=2, strategy="mlu_single")


def test_one_mlu_strategy_refuses_several_processes_of_torchrun(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with refused("torchrun started 2 processes"):
        SingleMLUStrategy().setup_environment()
    assert isinstance(resolve_trainer_flags("mlu", 1)["strategy"], MLUDDPStrategy)


def test_model_averaging_is_refused():
    with refused("Model averaging"):
        MLUDDPStrategy(model_averaging_period=4)


@pytest.mark.parametrize("name", ["gloo", "nccl"])
def test_a_backend_that_cannot_reduce_mlu_tensors_is_refused(name):
    with refused("does not reduce MLU tensors"):
        MLUDDPStrategy(process_group_backend=name)


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed", DDPStrategy()])
def test_the_flags_refuse_a_strategy_that_has_no_mlu_form(strategy):
    with refused("SingleMLUStrategy or MLUDDPStrategy"):
        resolve_trainer_flags("mlu", 2, strategy=strategy)


def test_a_device_that_is_not_there_is_named_with_the_count():
    with refused(r"there is no MLU \[5\]: 2 are visible, ordinals 0 to 1"):
        trainer(accelerator="mlu", devices=[0, 5], strategy="mlu_ddp")
    with refused("8 MLUs were asked for, but 2 are visible"):
        trainer(accelerator="mlu", devices=8, strategy="mlu_ddp")


def test_setup_device_names_the_device_it_got():
    with refused("device is cuda:0"):
        MLUAccelerator().setup_device(torch.device("cuda", 0))


def test_hidden_mlus_are_reported_with_the_variables(monkeypatch):
    from accelerators import backend

    monkeypatch.setattr(torch.mlu, "is_available", lambda: False)
    monkeypatch.setenv("MLU_VISIBLE_DEVICES", "")
    with refused("sees no MLU(.|\n)*MLU_VISIBLE_DEVICES"):
        backend.require()
    with pytest.warns(UserWarning, match="does not use an MLU although torch_mlu is here"):
        assert resolve_trainer_flags("auto")["accelerator"] == "auto"


def test_sync_batchnorm_is_refused_where_a_kernel_is_missing(monkeypatch):
    def missing(*_):
        raise NotImplementedError("Could not run 'aten::batch_norm_elemt' with arguments from the 'mlu' backend.")

    monkeypatch.setattr(torch, "batch_norm_elemt", missing)
    device = torch.device("mlu", 0)
    refuse_without_kernels(Toy(), device)  # nothing to refuse
    with refused(r"SyncBatchNorm was asked for.*model.1(.|\n)*batch_norm_elemt: Could not run"):
        refuse_without_kernels(torch.nn.SyncBatchNorm.convert_sync_batchnorm(Toy()), device)


def test_what_an_mlu_does_otherwise_without_a_word_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_mlu.utils.gpu_migration", sys)
    run = trainer(accelerator="mlu", devices=1, strategy=SingleMLUStrategy(), deterministic=True, max_steps=1)
    try:
        with pytest.warns(UserWarning) as said:
            run.fit(Toy(), loader())
    finally:
        torch.use_deterministic_algorithms(False)
    text = "\n".join(str(warning.message) for warning in said)
    assert "an MLU's convolutions do not honour it" in text and "gpu_migration is imported" in text
