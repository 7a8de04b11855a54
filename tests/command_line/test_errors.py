"""What a user can mend is one message, whoever raises it; a fault of the program keeps its traceback."""

import errno
import importlib.util
import re

import pytest
import pytorch_lightning as pl
import torch

from command_line.errors import user_message
from command_line.fit_cli import FitCLI
from command_line.shared import run


def raised(function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except Exception as error:
        return error
    pytest.fail("nothing was raised")


def fail(error):
    raise error


def test_what_lightning_refuses_on_purpose_is_told():
    refused = raised(pl.Trainer, accelerator="cpu", devices=-1)
    assert "devices" in user_message(refused)
    refused = raised(pl.Trainer, accelerator="cpu", strategy="nonsense", logger=False)
    assert "invalid strategy name" in user_message(refused)


def test_accidents_are_no_refusals():
    for accident in (lambda: {}["x"], lambda: 1 + "x", lambda: int("x"), lambda: None.x, lambda: torch.ones(2) @ 3):
        assert user_message(raised(accident)) is None
        assert user_message(raised(accident), building=True) is None
    assert user_message(raised(fail, ValueError("ours"))) is None, "an error of our own code while it runs"
    assert user_message(raised(fail, ValueError("ours")), building=True) == "ours"
    assert user_message(raised(fail, AssertionError("x")), building=True) is None


def test_missing_packages_are_named_but_not_our_own_modules():
    assert "pip install" in user_message(raised(fail, ModuleNotFoundError("Try `pip install -U wandb`")))
    assert user_message(raised(fail, ModuleNotFoundError("No module named 'ssd.x'", name="ssd.x"))) is None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "out of memory .*--batch_size"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory .*--batch_size.*--precision"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory .*--num_workers"),
        (RuntimeError("\"conv\" not implemented for 'Half'"), "cannot compute in this --precision .*32-true"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "^/x/y: Permission denied$"),
        (torch.distributed.DistNetworkError("port: 29500, EADDRINUSE"), "port: 29500.*MASTER_PORT"),
    ],
)
def test_what_the_machine_lacks_is_told_with_what_to_do(error, message):
    assert re.search(message, user_message(raised(fail, error)))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trainer.logger", "WandbLogger"], r"WandbLogger: Requirement 'wandb"),
        (["--trainer.accelerator", "nonsense"], "accelerator"),
        (["--trainer.strategy", "nonsense"], "invalid strategy name"),
        (["--devices", "-1"], "devices"),
        (["--trainer.profiler", "nonsense"], "profiler"),
        (["--seed", "-1"], "--seed -1: expected a whole number"),
        (["--trainer.callbacks", "Nonsense"], "trainer.callbacks"),
        (["--trainer.max_time", "1"], "DD:HH:MM:SS"),
    ],
)
def test_settings_that_cannot_become_what_they_name_end_as_one_message(sample, tmp_path, capsys, flags, message):
    if "WandbLogger" in flags and importlib.util.find_spec("wandb"):
        pytest.skip("wandb is here")
    common = ["--data_root", str(sample), "--num_workers", "0", "--run_dir", str(tmp_path / "run")]
    common += ["--accelerator", "cpu", "--model.backbone", "thin"]
    with pytest.raises(SystemExit) as stop:
        run(lambda: FitCLI([*common, *flags]))
    told = str(stop.value.code) if isinstance(stop.value.code, str) else capsys.readouterr().err
    assert re.search(message, told.removeprefix("error: "))


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)
    with pytest.raises(ValueError, match="ours"):
        run(lambda: fail(ValueError("ours")))
