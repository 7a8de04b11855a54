"""`ssd300 benchmark`; the published recipe's benchmark modes, which use it, are in test_published.py."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from command_line import batch_search, benchmark
from command_line.batch_search import automatic_batch, largest_batch
from command_line.benchmark import main
from ssd.model import SSD300
from training import step_cost
from training.step_cost import computing_dtype, matrix_product_rate, network_flops

SMALL = ("--model.backbone", "thin", "--batch_size", "2", "--num_workers", "0", "--accelerator", "cpu")


def test_it_measures_the_steps_after_the_warm_up_of_the_sample_and_leaves_its_figures_alone(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    main(["--mode", "training", "--warmup", "1", "--iterations", "3", "--json", "figures.json", *SMALL])
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert 0 < figures["min_img/sec"] <= figures["med_img/sec"] <= figures["max_img/sec"]
    assert (figures["mode"], figures["backbone"], figures["batch_size"], figures["devices"]) == (
        "training",
        "thin",
        2,
        1,
    )
    assert f"avg_img/sec: {figures['avg_img/sec']:.2f}" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_a_number_out_of_range_is_refused_by_its_flag():
    with pytest.raises(MisconfigurationException, match="--iterations 0"):
        main(["--iterations", "0"])


def test_the_share_of_the_matrix_product_rate_is_of_the_networks_arithmetic(sample, tmp_path, capsys):
    path = tmp_path / "figures.json"
    main(
        [
            "--mode",
            "inference",
            "--warmup",
            "0",
            "--iterations",
            "1",
            "--json",
            str(path),
            *SMALL,
            "--data_root",
            str(sample),
        ]
    )
    figures = json.loads(path.read_text())
    of_an_image = network_flops("thin", 4, trains=False) / 1e12
    assert figures["network_tflop/sec"] == pytest.approx(figures["avg_img/sec"] * of_an_image)
    assert figures["share"] == pytest.approx(figures["network_tflop/sec"] / figures["matrix_product_tflop/sec"])


def test_operations_are_those_of_the_convolutions_and_three_times_as_many_in_training():
    model, counted = SSD300("thin", 3).eval(), []

    def count(layer, inputs, output):
        counted.append(2 * layer.weight.numel() * output.shape[2] * output.shape[3])

    convolutions = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
    for layer in convolutions:
        layer.register_forward_hook(count)
    with torch.inference_mode():
        model(torch.zeros(1, 3, 300, 300))
    assert network_flops("thin", 3, trains=False) == sum(counted)
    # No gradient is taken of the pictures.
    assert network_flops("thin", 3, trains=True) == 3 * sum(counted) - counted[0]


def test_a_rate_of_matrix_products_is_measured_in_what_a_precision_computes():
    assert computing_dtype("bf16-mixed") == torch.bfloat16 and computing_dtype("16-mixed") == torch.float16
    assert computing_dtype("32-true") == torch.float32
    assert matrix_product_rate(torch.device("cpu"), torch.float32, side=64) > 1e6


def test_matrices_shrink_until_they_fit_beside_a_batch_that_fills_the_device(monkeypatch):
    tried = []

    def product_rate(device, dtype, side):
        tried.append(side)
        if side > 1024:
            raise RuntimeError("MLU out of memory. Tried to allocate 256.00 MiB")
        return 1e12

    monkeypatch.setattr(step_cost, "_product_rate", product_rate)
    assert matrix_product_rate(torch.device("cpu"), torch.float32, side=4096) == 1e12 and tried == [4096, 2048, 1024]
    monkeypatch.setattr(step_cost, "SMALLEST", 4096)
    with pytest.raises(RuntimeError, match="MLU out of memory"):
        matrix_product_rate(torch.device("cpu"), torch.float32, side=4096)


def test_a_profile_is_a_table_and_a_trace_of_steps_that_are_not_measured(sample, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(benchmark, "PROFILED", 2)
    own = ["--warmup", "0", "--iterations", "1", "--profile", "trace.json", "--json", "figures.json"]
    main([*own, *SMALL, "--data_root", str(sample)])
    out = capsys.readouterr().out
    assert "Self CPU" in out and "aten::" in out and "2 steps, all of them in trace.json" in out
    steps = [event for event in json.loads(Path("trace.json").read_text())["traceEvents"] if event.get("ph") == "X"]
    assert sum("optimizer_step" in event["name"].lower() or "Optimizer.step" in event["name"] for event in steps) == 2
    figures = json.loads(Path("figures.json").read_text())
    assert figures["min_img/sec"] == figures["max_img/sec"]  # of the one step


@pytest.mark.parametrize("flags", [["--find_batch"], ["--batch_size", "auto"]])
def test_the_largest_batch_is_not_looked_for_on_a_cpu(sample, flags):
    with pytest.raises(MisconfigurationException, match="--batch_size auto: a CPU's memory is the machine's"):
        main([*SMALL, *flags, "--data_root", str(sample)])


def test_a_run_that_is_resumed_keeps_the_batch_that_was_found(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save({"COCODataModule": {"geometry": {"batch_size": 24, "devices": 1, "accumulate": 1}}}, path)
    assert automatic_batch({"accelerator": "gpu"}, [], path) == 24


def test_a_search_runs_on_one_device_with_the_runs_own_flags_and_gives_an_even_number(monkeypatch):
    monkeypatch.delenv(batch_search.FOUND, raising=False)
    monkeypatch.setattr(batch_search.SLURMEnvironment, "detect", lambda: False)
    seen, found = [], 61

    def run(command, **how):
        seen.extend(command)
        Path(command[command.index("--search_into") + 1]).write_text(str(found))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    flags = ["--precision", "bf16-mixed", "--devices", "8", "--batch_size=auto", "--run_dir", "r1", "--ckpt_path=auto"]
    assert largest_batch(flags) == 56
    assert "--devices=1" in seen and "bf16-mixed" in seen and not {"8", "r1", "--batch_size=auto"} & {*seen}
    monkeypatch.setenv("LOCAL_RANK", "1")  # a further device's process
    assert largest_batch(flags) == 56 and seen.count("--devices=1") == 1
    monkeypatch.delenv("LOCAL_RANK")
    for fits, batch in ((15, 14), (1, 1), (33, 32)):
        found = fits
        assert largest_batch(flags) == batch
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    with pytest.raises(MisconfigurationException, match="ssd300 benchmark --find_batch"):
        largest_batch(flags)


def test_a_search_that_fails_says_so(monkeypatch):
    monkeypatch.delenv(batch_search.FOUND, raising=False)
    monkeypatch.setattr(subprocess, "run", lambda command, **how: subprocess.CompletedProcess(command, 1))
    with pytest.raises(MisconfigurationException, match="the search ended with exit status 1, see above"):
        largest_batch([])
