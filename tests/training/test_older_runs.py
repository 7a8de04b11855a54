"""Run directories of earlier versions go on to the bit.

`saved/checkpoint_of_before_the_rooms.json` is last.ckpt as revision 826047b saved it after 4 of 5 steps, without what
has the size of the network: weights, momentum and random states, which the test takes from a run of today at that step,
with its backbone and the numbers of its parameters.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from command_line.fit import train
from training.last_checkpoint import Preempted

SAVED = Path(__file__).parent / "saved" / "checkpoint_of_before_the_rooms.json"


class StopInStepFour(pl.Callback):
    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)


def run(data: Path, run_dir: Path, *more: str, callbacks: tuple[pl.Callback, ...] = ()) -> None:
    common = [
        *("--accelerator", "cpu", "--data_root", str(data), "--run_dir", str(run_dir), "--batch_size", "4"),
        *("--num_workers", "0", "--model.backbone", "thin", "--model.warmup_steps", "3", "--max_epochs", "1"),
        *("--trainer.num_sanity_val_steps", "0", "--trainer.enable_progress_bar", "false"),
        *("--trainer.log_every_n_steps", "2", "--trainer.logger", "false"),
    ]
    train([*common, *more], callbacks)


def load(run_dir: Path) -> dict[str, Any]:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_run_directory_of_before_the_rooms_goes_on_to_the_bit(sample, tmp_path):
    today, older = tmp_path / "today", tmp_path / "older"
    with pytest.raises(Preempted):
        run(sample, today, callbacks=(StopInStepFour(),))
    now, saved = load(today), json.loads(SAVED.read_text())
    assert saved["global_step"] == now["global_step"] == 4
    saved["COCODataModule"]["samples_from"]["decoder"] = now["COCODataModule"]["samples_from"]["decoder"]
    saved["hyper_parameters"]["backbone"] = now["hyper_parameters"]["backbone"]
    saved["optimizer_states"][0]["state"] = now["optimizer_states"][0]["state"]
    for group, today_s in zip(*(state["optimizer_states"][0]["param_groups"] for state in (saved, now)), strict=True):
        group["params"] = today_s["params"]
    large = {key: now[key] for key in ("state_dict", "random_states", "loss_sums")}
    (older / "checkpoints").mkdir(parents=True)
    torch.save({**saved, **large}, older / "checkpoints" / "last.ckpt")

    for run_dir in (today, older):
        run(sample, run_dir, "--ckpt_path", "last")
    expected, found = load(today), load(older)
    assert found["global_step"] == expected["global_step"] == 5
    for name, weights in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], weights), name
    for index, state in expected["optimizer_states"][0]["state"].items():
        assert torch.equal(found["optimizer_states"][0]["state"][index]["momentum_buffer"], state["momentum_buffer"])
    assert found["loops"] == expected["loops"]
    for ours, theirs in zip(found["lr_schedulers"], expected["lr_schedulers"], strict=True):
        known = ours.keys() & theirs.keys()  # other versions of torch have others
        assert {name: ours[name] for name in known} == {name: theirs[name] for name in known}
        assert {"base_lrs", "last_epoch", "_last_lr"} <= known
    assert found["COCODataModule"]["position"] == expected["COCODataModule"]["position"]
