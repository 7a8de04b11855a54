"""What a command asks of the device."""

import pytest
import torch

from command_line.fit_cli import FitCLI
from prediction.devices import fast_precision


@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "expected"),
    [(True, False, "bf16-mixed"), (False, True, "bf16-mixed"), (False, False, "32-true")],
)
def test_precision_auto_is_bf16_only_where_the_cpu_computes_it(
    monkeypatch, sample, tmp_path, avx512_bf16, amx, expected
):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    assert fast_precision("cpu") == expected
    flags = ["--accelerator", "cpu", "--precision", "auto", "--data_root", str(sample), "--num_workers", "0"]
    cli = FitCLI([*flags, "--run_dir", str(tmp_path / "run"), "--model.backbone", "thin"])
    assert cli.trainer.precision == expected
    assert cli.config.trainer.precision == expected, "config.yaml has what was used, wherever the run goes on"


@pytest.mark.parametrize(("capability", "expected"), [((8, 0), "bf16-mixed"), ((7, 5), "16-mixed")])
def test_precision_auto_on_cuda_is_bf16_from_ampere_on(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert fast_precision("cuda") == fast_precision("auto") == expected
