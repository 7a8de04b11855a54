"""Checkpoints of an MLU run: readable anywhere, with the random state in them."""

import os
import warnings
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import OnExceptionCheckpoint
from pytorch_lightning.plugins import TorchCheckpointIO
from toy import Toy, loader, trainer, weights

from accelerators import MLUMixedPrecision, SingleMLUStrategy
from accelerators.rng import CHECKPOINT_KEY


def on_mlu(**flags):
    return trainer(accelerator="mlu", devices=1, strategy=SingleMLUStrategy(), **flags)


def tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from tensors(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from tensors(entry)


def saved(path: Path, **flags) -> dict:
    run = on_mlu(**flags)
    run.fit(Toy(dropout=0.5), loader())
    run.save_checkpoint(path)
    return torch.load(path, weights_only=True)


def test_row_load_from_checkpoint_every_tensor_is_saved_on_the_cpu(tmp_path):
    class SavesOnTheDevice(Toy):
        def on_train_end(self):
            self.trainer.save_checkpoint(tmp_path / "device.ckpt")

    on_mlu().fit(SavesOnTheDevice(), loader())
    kept = os.environ.get("KEEP_CHECKPOINT")  # the parent test opens it where there is no torch_mlu
    if kept:
        Path(kept).write_bytes((tmp_path / "device.ckpt").read_bytes())
    checkpoint = torch.load(tmp_path / "device.ckpt", weights_only=True)
    found = list(tensors(checkpoint))
    assert found and all(tensor.device.type == "cpu" for tensor in found)
    assert checkpoint["state_dict"]._metadata


def test_row_random_state_a_resumed_run_draws_what_the_unbroken_one_drew(tmp_path):
    class SavesAfterTheFirst(Toy):
        def on_train_epoch_end(self):
            if self.current_epoch == 0:
                self.trainer.save_checkpoint(tmp_path / "first.ckpt")

    unbroken = SavesAfterTheFirst(dropout=0.5)
    torch.manual_seed(1)
    on_mlu(max_epochs=2).fit(unbroken, loader())
    torch.manual_seed(77)
    resumed = Toy(dropout=0.5)
    on_mlu(max_epochs=2).fit(resumed, loader(), ckpt_path=tmp_path / "first.ckpt", weights_only=True)
    assert torch.equal(weights(unbroken), weights(resumed))


def test_row_checkpoint_save_a_checkpoint_plugin_of_the_users_own_writes_it(tmp_path):
    class Durable(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint, path, storage_options=None):
            self.device = checkpoint["state_dict"]["model.0.weight"].device
            torch.save(checkpoint, path)

    plugin = Durable()
    run = on_mlu(plugins=[plugin])
    run.fit(Toy(), loader())
    run.save_checkpoint(tmp_path / "durable.ckpt")
    assert plugin.device == torch.device("cpu")


def test_weights_alone_carry_no_random_state(tmp_path):
    run = on_mlu()
    run.fit(Toy(), loader())
    run.save_checkpoint(tmp_path / "weights.ckpt", weights_only=True)
    assert CHECKPOINT_KEY not in torch.load(tmp_path / "weights.ckpt", weights_only=True)


def test_a_checkpoint_of_the_cpu_resumes_on_the_mlu_and_the_other_way(tmp_path):
    for first, then in (("cpu", "mlu"), ("mlu", "cpu")):
        flags = {"cpu": {"accelerator": "cpu"}, "mlu": {"accelerator": "mlu", "devices": 1, "strategy": "mlu_single"}}
        run = trainer(**flags[first])
        run.fit(Toy(), loader())
        run.save_checkpoint(tmp_path / "one.ckpt")
        model = Toy()
        trainer(**flags[then], max_epochs=2).fit(model, loader(), ckpt_path=tmp_path / "one.ckpt", weights_only=True)
        straight = Toy()
        trainer(accelerator="cpu", max_epochs=2).fit(straight, loader())
        assert torch.equal(weights(model), weights(straight))


def test_the_scalers_state_is_saved_under_the_stock_name_and_restored(tmp_path):
    precision = MLUMixedPrecision("16-mixed")
    checkpoint = saved(tmp_path / "fp16.ckpt", plugins=[precision])
    assert (
        checkpoint["MixedPrecision"]["scale"] == precision.scaler.get_scale() and "MLUMixedPrecision" not in checkpoint
    )
    checkpoint["MixedPrecision"]["scale"] = 1024.0
    torch.save(checkpoint, tmp_path / "fp16.ckpt")
    precision = MLUMixedPrecision("16-mixed")
    run = on_mlu(plugins=[precision], max_epochs=2)
    run.fit(Toy(), loader(), ckpt_path=tmp_path / "fp16.ckpt", weights_only=True)
    assert precision.scaler.get_scale() == 1024


def test_a_rank_without_a_saved_state_says_so(tmp_path):
    checkpoint = saved(tmp_path / "a.ckpt")
    checkpoint[CHECKPOINT_KEY] = [None]
    torch.save(checkpoint, tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match="none for rank 0"):
        on_mlu(max_epochs=2).fit(Toy(), loader(), ckpt_path=tmp_path / "a.ckpt", weights_only=True)


def test_an_emergency_save_asks_no_other_rank(tmp_path):
    class Fails(Toy):
        def on_train_batch_start(self, batch, batch_idx):
            raise KeyError("broken")

    with pytest.raises(KeyError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rescue = OnExceptionCheckpoint(tmp_path, "rescue")
        on_mlu(callbacks=[rescue], enable_checkpointing=True).fit(Fails(), loader())
    states = torch.load(tmp_path / "rescue.ckpt", weights_only=True)[CHECKPOINT_KEY]
    assert len(states) == 1 and states[0] is not None
