"""Finding the checkpoint to resume from, and refusing what is none."""

import os

import pytest
import torch

from checkpoints.files import CheckpointError, read_checkpoint, read_step
from checkpoints.finding import resume_path

STATE = {"state_dict": {}, "optimizer_states": []}


@pytest.fixture
def run_dir(tmp_path):
    """A run with an older and a newer checkpoint."""
    (tmp_path / "checkpoints").mkdir()
    for age, name in ((20, "epoch000.ckpt"), (10, "last.ckpt")):
        path = tmp_path / "checkpoints" / name
        torch.save(STATE, path)
        os.utime(path, (1e9 - age, 1e9 - age))
    return tmp_path


def test_last_and_auto_are_the_newest_checkpoint_of_the_run(run_dir):
    assert resume_path("last", run_dir) == resume_path("auto", run_dir) == run_dir / "checkpoints" / "last.ckpt"
    requeued = run_dir / "hpc_ckpt_1.ckpt"
    torch.save(STATE, requeued)
    assert resume_path("last", run_dir) == requeued, "what SLURM's requeue saved last"


def test_a_torn_last_checkpoint_is_passed_over_and_said_so(run_dir):
    last = run_dir / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:200])
    os.utime(last, (1e9, 1e9))
    with pytest.warns(UserWarning, match=r"passing over .*last\.ckpt \(.*cut off"):
        assert resume_path("last", run_dir) == run_dir / "checkpoints" / "epoch000.ckpt"


def test_the_state_to_resume_comes_before_newer_checkpoints_of_an_epoch(run_dir):
    torch.save(STATE, run_dir / "checkpoints" / "best.ckpt")
    assert resume_path("auto", run_dir) == run_dir / "checkpoints" / "last.ckpt"


def test_the_newest_is_that_of_the_latest_step_whatever_the_times_say(run_dir, caplog):
    for step, name in ((8, "epoch000.ckpt"), (6, "last.ckpt"), (8, "best.ckpt")):
        torch.save({**STATE, "global_step": step}, run_dir / "checkpoints" / name)
        os.utime(run_dir / "checkpoints" / name, (1e9 - step, 1e9 - step))
    os.utime(run_dir / "checkpoints" / "best.ckpt", (1e9 - 100, 1e9 - 100))
    with caplog.at_level("INFO"):
        assert resume_path("last", run_dir) == run_dir / "checkpoints" / "epoch000.ckpt"
    assert "epoch000.ckpt, after optimiser step 8, is the newest of 3" in caplog.text
    torch.save({**STATE, "global_step": 8}, run_dir / "checkpoints" / "last.ckpt")
    os.utime(run_dir / "checkpoints" / "last.ckpt", (0, 0))
    assert resume_path("auto", run_dir) == run_dir / "checkpoints" / "last.ckpt", "of one step the state to resume"


def test_the_step_of_a_checkpoint_is_read_without_its_tensors(tmp_path, monkeypatch):
    for legacy in (False, True):
        path = tmp_path / f"{legacy}.ckpt"
        content = {"global_step": 7, "state_dict": {"weight": torch.zeros(9)}}
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "load", None)
            assert read_step(path) == 7
    torch.save({"model": {}}, tmp_path / "other.pt")
    assert read_step(tmp_path / "other.pt") == -1


@pytest.mark.parametrize("flags", [0x10, 0x00])
def test_a_changed_bit_is_noticed_wherever_it_is(tmp_path, flags):
    path = tmp_path / "last.ckpt"
    torch.save({**STATE, "weight": torch.zeros(100)}, path)
    content = bytearray(path.read_bytes())
    if flags:  # of the tensor's entry in the directory of the zip file: a directory, says the bit
        content[content.rindex(b"PK\x01\x02", 0, content.rindex(b"data/0")) + 38] ^= flags
    else:
        content[content.index(bytes(400)) + 200] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: .*damaged.*data/0"):
        read_checkpoint(path)


def test_auto_starts_fresh_only_where_there_is_nothing(tmp_path, caplog):
    with caplog.at_level("INFO"):
        assert resume_path("auto", tmp_path) is None
    assert "starting fresh" in caplog.text
    with pytest.raises(CheckpointError, match=r"there are none.*or use --ckpt_path auto"):
        resume_path("last", tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "epoch003.ckpt").touch()
    for asked in ("last", "auto"):
        with pytest.warns(UserWarning), pytest.raises(CheckpointError, match=r"no readable.*found epoch003\.ckpt"):
            resume_path(asked, tmp_path)


def test_a_checkpoint_to_resume_must_be_named_and_hold_a_run(run_dir, tmp_path):
    with pytest.raises(CheckpointError, match="--run_dir"):
        resume_path("last", None)
    with pytest.raises(CheckpointError, match=r"nowhere\.ckpt: no such file"):
        resume_path("nowhere.ckpt", None)
    torch.save({"state_dict": {}}, tmp_path / "weights.ckpt")
    with pytest.raises(CheckpointError, match=r"weights\.ckpt: no run to resume in it.*state_dict"):
        resume_path(str(tmp_path / "weights.ckpt"), None)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(tmp_path):
    torch.save({**STATE, "evil": Evil(tmp_path / "ran")}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match=r"evil\.ckpt: refused"):
        read_checkpoint(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()
