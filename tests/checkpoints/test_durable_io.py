"""Checkpoints are whole or not there, and the step after a save cannot reach into it."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from checkpoints import durable_io
from checkpoints.durable_io import DurableCheckpointIO
from checkpoints.files import CheckpointError, remove_unfinished, write_durably


def test_a_save_in_the_background_holds_the_values_of_its_moment(tmp_path, monkeypatch):
    go = threading.Event()
    write = durable_io.write_durably
    monkeypatch.setattr(durable_io, "write_durably", lambda *args: (go.wait(10), write(*args)))
    io, weight = DurableCheckpointIO(), torch.ones(3)
    io.save_checkpoint({"state_dict": {"weight": weight}}, tmp_path / "last.ckpt")
    assert not (tmp_path / "last.ckpt").exists(), "training goes on meanwhile"
    weight.zero_()
    go.set()
    assert io.load_checkpoint(tmp_path / "last.ckpt")["state_dict"]["weight"].tolist() == [1, 1, 1]
    io.teardown()


def test_a_failed_write_names_the_file_and_leaves_the_last_one(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    write_durably({"step": 1}, path)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    io = DurableCheckpointIO()
    io.save_checkpoint({"step": 2}, path)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: .*No space left.*MB free.*before is untouched"):
        io.wait()
    io.teardown()
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_the_next_save_tells_of_the_failure_before(tmp_path):
    io = DurableCheckpointIO()
    (tmp_path / "file").touch()
    io.save_checkpoint({}, tmp_path / "file" / "last.ckpt")
    with pytest.raises(CheckpointError, match="could not be written"):
        io.save_checkpoint({}, tmp_path / "other.ckpt")


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    write_durably({}, tmp_path / "last.ckpt")
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    (tmp_path / f".last.ckpt.{killed.pid}.unfinished").write_bytes(b"half")
    (tmp_path / f".best.ckpt.{os.getpid()}.unfinished").write_bytes(b"being written")
    remove_unfinished(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"last.ckpt", f".best.ckpt.{os.getpid()}.unfinished"}


def test_removing_a_checkpoint_waits_for_the_one_that_replaces_it(tmp_path):
    io = DurableCheckpointIO()
    write_durably({"step": 1}, tmp_path / "old.ckpt")
    io.save_checkpoint({"step": 2}, tmp_path / "new.ckpt")
    io.remove_checkpoint(tmp_path / "old.ckpt")
    assert [p.name for p in tmp_path.iterdir()] == ["new.ckpt"]
    io.teardown()
