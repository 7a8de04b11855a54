"""The published entry points: what they pass on, and one of them run on the stand-in MLU."""

import os
import subprocess
import sys

import pytest
import torch

from command_line.evaluate import evaluate
from tests.conftest import PROJECT
from tests.standin.run import compile_standin, needs_standin, standin_env

TRAINING = [f"SSD300_{precision}_{count}MLU.sh" for precision in ("FP32", "AMP") for count in (1, 4, 8)]
BENCHMARKS = ["SSD300_FP32_INFERENCE_BENCHMARK.sh", "SSD300_AMP_INFERENCE_BENCHMARK.sh"]
EVALUATION = ["SSD300_FP32_EVAL.sh", "SSD300_AMP_EVAL.sh"]


def start(script, *arguments, env=None, **options):
    command = ["bash", str(PROJECT / "scripts" / script), *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, **options)


@pytest.fixture
def called(tmp_path):
    """Runs a script, from another directory, with an interpreter that only prints its arguments; returns those."""
    stub = tmp_path / "a python"
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)

    def run(script, *arguments):
        done = start(script, *arguments, env={**os.environ, "PYTHON": str(stub)}, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


@pytest.mark.parametrize("script", TRAINING)
def test_training_passes_recipe_device_and_flags_on(called, script):
    arguments = called(script, PROJECT, "my data", 0, "--save", "my models", "--bs", "2")
    expected = [str(PROJECT / "main.py"), "--data", "my data", "--device", "MLU", "--backbone", "resnet50"]
    assert arguments[:7] == expected
    assert arguments[-4:] == ["--save", "my models", "--bs", "2"], "the user's flags are last, and win"
    assert ("--amp" in arguments, "--no-amp" in arguments) == ("AMP" in script, "FP32" in script)
    count = script.split("_")[2].removesuffix("MLU.sh")
    assert ("--devices" in arguments) == (count != "1")
    if count != "1":
        assert arguments[arguments.index("--devices") + 1] == count
    assert arguments[arguments.index("--warmup") + 1] == "300"


@pytest.mark.parametrize("script", EVALUATION)
def test_evaluation_passes_the_checkpoint_and_the_device_on(called, script):
    arguments = called(script, PROJECT, "my data", "a b.pt", 1, "--limit", "5")
    assert arguments[1:9] == ["--data", "my data", "--device", "GPU", "--mode", "evaluation", "--checkpoint", "a b.pt"]
    assert arguments[-2:] == ["--limit", "5"] and "--backbone" not in arguments


@pytest.mark.parametrize("script", BENCHMARKS)
def test_the_inference_benchmark_is_that_mode(called, script):
    arguments = called(script, PROJECT, "data", 0, "--benchmark-iterations", "3")
    assert arguments[arguments.index("--mode") + 1] == "benchmark-inference"


@pytest.mark.parametrize("script", [*TRAINING, *BENCHMARKS, *EVALUATION])
def test_wrong_arguments_are_said(script):
    done = start(script, PROJECT)
    assert done.returncode == 2 and f"{script} REPO DATA" in done.stderr
    checkpoint = ["x.pt"] if script in EVALUATION else []
    done = start(script, PROJECT, "data", *checkpoint, "mlu")
    assert done.returncode == 2 and "DEVICE must be 0 (MLU) or 1 (GPU), got 'mlu'" in done.stderr
    done = start(script, "/nowhere", "data", *checkpoint, 0)
    assert done.returncode == 2 and "REPO must be the directory of main.py, got '/nowhere'" in done.stderr


@needs_standin
def test_one_mlu_trains_and_its_saved_epoch_evaluates_on_the_cpu(sample, tmp_path):
    compile_standin()
    small = ["--backbone", "resnet18", "--bs", "2", "--epochs", "1", "--iterations", "2", "--evaluation"]
    small += ["--num-workers", "0"]
    ours = ["--model.backbone_weights=null", "--trainer.num_sanity_val_steps=0", "--trainer.enable_progress_bar=false"]
    env = standin_env(1, PYTHON=sys.executable, OMP_NUM_THREADS=1)
    arguments = (PROJECT, sample, 0, "--save", "my models", *small, *ours)
    done = start("SSD300_FP32_1MLU.sh", *arguments, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    path = tmp_path / "my models" / "epoch_0.pt"
    assert torch.load(path, weights_only=True)["iteration"] == 2
    common = ["--data_root", str(sample), "--accelerator", "cpu", "--num_workers", "0", "--limit", "2"]
    assert "mAP" in evaluate(["--ckpt_path", str(path), *common])
