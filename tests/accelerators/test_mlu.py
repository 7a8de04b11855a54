"""accelerators/ where there is no torch_mlu, which is where most people read the errors."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from pytorch_lightning import Trainer
from pytorch_lightning.accelerators import AcceleratorRegistry
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.strategies import StrategyRegistry
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import accelerators
from accelerators import MLUAccelerator, MLUDDPStrategy, MLUMixedPrecision, SingleMLUStrategy, backend

PROJECT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_torch_mlu(request):
    if backend.is_installed():
        pytest.skip("torch_mlu is installed here")


def test_importing_registers_everything_and_imports_no_torch_mlu():
    code = "import sys, accelerators; print('torch_mlu' in sys.modules, 'lightning' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]
    assert "mlu" in AcceleratorRegistry
    expected = {"mlu_single", "mlu_ddp", "mlu_ddp_find_unused_parameters_true", "mlu_ddp_spawn"}
    assert expected <= set(StrategyRegistry.available_strategies())


def test_without_torch_mlu_it_is_not_available_and_nothing_raises():
    assert MLUAccelerator.is_available() is False
    assert MLUAccelerator.auto_device_count() == 0
    assert MLUAccelerator.name() == "mlu"


@pytest.mark.parametrize(
    "ask",
    [
        lambda: Trainer(accelerator="mlu"),
        lambda: Trainer(accelerator="mlu", devices=8, strategy="mlu_ddp"),
        lambda: MLUAccelerator(),
        lambda: accelerators.resolve_trainer_flags("mlu", devices=8),
        lambda: accelerators.resolve_trainer_flags(strategy="mlu_ddp"),
        lambda: MLUMixedPrecision("16-mixed"),
        lambda: SingleMLUStrategy("mlu:0"),
    ],
)
def test_asking_for_an_mlu_says_what_is_missing_how_to_get_it_and_how_to_run_elsewhere(ask):
    with pytest.raises(MisconfigurationException) as error:
        ask()
    text = str(error.value)
    assert "torch_mlu (Cambricon's PyTorch backend) is not installed" in text
    assert "container" in text and "wheel" in text and "accelerators/README.md" in text
    assert "--accelerator cpu" in text and "--accelerator cuda" in text


def test_strategies_can_be_named_before_torch_mlu_is_there():
    assert SingleMLUStrategy().parallel_devices is None
    assert MLUDDPStrategy().process_group_backend == "cncl"


def test_a_torch_mlu_that_does_not_import_is_reported_and_not_passed_over(tmp_path, monkeypatch):
    (tmp_path / "torch_mlu.py").write_text("raise OSError('libcnrt.so: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    assert MLUAccelerator.is_available() is False
    with pytest.raises(MisconfigurationException, match=r"does not import with torch .*libcnrt.so"):
        MLUAccelerator()
    with pytest.warns(UserWarning, match="does not use an MLU although torch_mlu is here.*libcnrt"):
        assert accelerators.resolve_trainer_flags("auto")["accelerator"] == "auto"


@pytest.mark.parametrize("accelerator", ["auto", "cpu", "cuda", "gpu"])
def test_flags_of_every_other_device_come_back_unchanged(accelerator):
    flags = {
        "accelerator": accelerator,
        "devices": 2,
        "num_nodes": 3,
        "strategy": "ddp_fork",
        "precision": "16-mixed",
        "plugins": [MixedPrecision("bf16-mixed", "cpu")],
    }
    assert accelerators.resolve_trainer_flags(**flags) == flags


def test_python_m_accelerators_says_what_is_here_and_what_to_do(capsys, monkeypatch):
    """Within this process; test_on_standin.py has one of its own."""
    monkeypatch.setattr(sys, "argv", ["accelerators"])
    runpy.run_module("accelerators", run_name="__main__")
    out = capsys.readouterr().out
    for word in (
        "torch:",
        "pytorch_lightning:",
        "torch_mlu:",
        "not installed",
        "accelerator=auto:",
        "--accelerator cpu",
    ):
        assert word in out, out
