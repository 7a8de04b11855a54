"""`ssd300 replay`: a step of a run again, with its pictures and losses, and where two devices part."""

import os
import re
import subprocess
import sys

import pytest
import torch
from PIL import Image
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from checkpoints.files import CheckpointError
from coco.sample import write_sample
from command_line import replay
from tests.conftest import PROJECT
from tests.standin.run import compile_standin, needs_standin, standin_env
from tests.training.test_resuming import logged, run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A run of two epochs of three steps, with checkpoints of steps 3 and 6."""
    data, run_dir = tmp_path_factory.mktemp("small"), tmp_path_factory.mktemp("runs") / "run"
    write_sample(data, train_images=8, val_images=2)
    run(data, run_dir, "--trainer.limit_val_batches", "0", "--save_every_n_steps", "null")
    return run_dir


def parts(output: str) -> list[float]:
    """The parts of the loss, of each batch."""
    return [float(value) for value in re.findall(r"^loss .*: cpu (\S+) \(float32\)", output, re.MULTILINE)]


@pytest.mark.parametrize(("step", "origin"), [(5, "from epoch000.ckpt"), (2, "from the beginning")])
def test_a_step_has_the_losses_that_it_had(run_dir, capsys, step, origin):
    assert replay.main([str(run_dir), "--step", str(step)]) == 0
    output = capsys.readouterr().out
    loss = float(logged(run_dir)["train/loss_step", step - 1])
    assert origin in output and "tensors agree" in output
    assert sum(parts(output)) == pytest.approx(loss, rel=1e-5)


def test_a_bf16_run_is_held_against_bf16_so_that_a_sound_device_agrees(run_dir, tmp_path, capsys):
    short = ("--precision", "bf16-mixed", "--trainer.limit_val_batches", "0", "--max_epochs", "1")
    run(_data_of(run_dir), tmp_path / "run", *short)
    assert replay.main([str(tmp_path / "run"), "--step", "2"]) == 0
    output = capsys.readouterr().out
    assert "(bfloat16), cpu" in output and "(float32)" not in output and "the largest difference is 0," in output


def test_all_batches_of_an_accumulated_step_are_looked_at_and_drawn(run_dir, tmp_path, capsys):
    accumulated = tmp_path / "run"
    run(_data_of(run_dir), accumulated, "--trainer.accumulate_grad_batches", "3", "--trainer.limit_val_batches", "0")
    assert replay.main([str(accumulated), "--step", "2", "--images"]) == 0
    output = capsys.readouterr().out
    assert len(parts(output)) == 2 * 3 and "epoch 1, from its sample 0" in output
    images = re.findall(r"^images (.+)$", output, re.MULTILINE)
    assert len({image for line in images for image in line.split(", ")}) == 6
    with Image.open(accumulated / "pictures" / "step000002_2.png") as sheet:
        assert min(sheet.size) > 100


def test_what_is_not_finite_is_named_in_the_order_of_the_step(run_dir, capsys, monkeypatch):
    copy = replay._copy

    def broken(model):
        model = copy(model)
        torch.nn.init.constant_(model.model.logit_heads[1].bias, torch.nan)
        return model

    monkeypatch.setattr(replay, "_copy", broken)
    assert replay.main([str(run_dir), "--step", "4"]) == 1
    assert "the first that is not finite, on both: layer logit_heads.1" in capsys.readouterr().out


@needs_standin
def test_a_device_that_differs_is_found_at_the_first_tensor_that_does(run_dir):
    compile_standin()
    wanted = standin_env(devices=1, OMP_NUM_THREADS=1, STANDIN_MLU_WRONG="_log_softmax")
    wanted["PYTHONPATH"] = f"{wanted['PYTHONPATH']}{os.pathsep}{PROJECT}"
    code = "import sys, tests.thin; from command_line.replay import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(run_dir), "--step", "5", "--accelerator", "mlu"],
        **{"env": wanted, "cwd": PROJECT, "timeout": 300, "text": True},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "the first that differs: loss confidence in float32 is off by 0.0" in done.stdout, done.stdout
    assert "loss localisation: mlu" in done.stdout


@pytest.mark.slow
def test_a_step_of_two_devices_is_replayed_with_the_batches_of_both(run_dir, tmp_path, capsys):
    two = tmp_path / "run"
    flags = ("--data_root", str(_data_of(run_dir)), "--run_dir", str(two), "--accelerator", "cpu", "--devices", "2")
    more = ("--batch_size", "1", "--model.freeze", "[norm]", "--model.backbone", "thin", "--max_epochs", "2")
    known = ("--trainer.callbacks+=tests.thin.Known", "--trainer.limit_val_batches", "0", "--num_workers", "0")
    subprocess.run([sys.executable, "train.py", *flags, *more, *known], cwd=PROJECT, check=True, timeout=600)
    assert replay.main([str(two), "--step", "5", "--allow_class", "tests"]) == 0
    assert len(parts(capsys.readouterr().out)) == 2 * 2


def test_a_step_that_cannot_be_replayed_is_told_of(run_dir, tmp_path):
    with pytest.raises(MisconfigurationException, match="--step 0: the first one is 1"):
        replay.main([str(run_dir), "--step", "0"])
    with pytest.raises(MisconfigurationException, match="--step 9: the run ends after step 6"):
        replay.main([str(run_dir), "--step", "9"])
    with pytest.raises(CheckpointError, match=r"no run of this project, it has no config\.yaml"):
        replay.main([str(tmp_path), "--step", "1"])
    assert not list(tmp_path.iterdir())


def _data_of(run_dir):
    """Where the run's data lies."""
    return re.search(r"data_root: (.+)", (run_dir / "config.yaml").read_text())[1].strip("'\"")
