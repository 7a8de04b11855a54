"""Telling a state that training can go on from from one that it cannot."""

import pytest
import torch

from checkpoints.files import CheckpointError
from checkpoints.finding import resume_path
from checkpoints.finite import LARGEST, broken_tensors, check_finite


def state(value=1.0, dtype=torch.float32):
    """A part of a checkpoint with a weight that holds `value` somewhere, and everything that may stand beside it."""
    weight = torch.ones(2, 3, 4, 4, dtype=dtype).to(memory_format=torch.channels_last)
    weight[1, 2, 3, 0] = value
    return {"weight": weight, "scalar": torch.ones((), dtype=dtype), "count": torch.tensor(3), "none": torch.empty(0)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_not_finite_breaks_a_tensor_of_any_type(value, dtype):
    assert broken_tensors({"state_dict": state(value, dtype)}) == ["state_dict.weight"]
    assert broken_tensors({"state_dict": state(dtype=dtype)}) == []


def test_tensors_of_eight_bits_are_looked_through_too(monkeypatch):
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # which torch 2.4 cannot here
    tensor = torch.tensor([1.0, float("nan")]).to(torch.float8_e5m2)
    assert broken_tensors({"state_dict": {"w": tensor, "fine": tensor[:1]}}) == ["state_dict.w"]


def test_a_number_whose_square_is_infinite_breaks_the_next_step():
    assert broken_tensors({"state_dict": state(-LARGEST)}) == ["state_dict.weight"]
    assert broken_tensors({"state_dict": state(LARGEST / 2)}) == []


def test_all_that_a_run_goes_on_with_is_looked_through():
    momenta = {"state": {7: {"momentum_buffer": torch.tensor([torch.nan])}, 8: {"momentum_buffer": None}}}
    checkpoint = {
        "state_dict": state(),
        "current_model_state": state(torch.nan),
        "optimizer_states": [momenta],
        "callbacks": {"EarlyStopping": {"best_score": torch.tensor(torch.inf)}},
    }
    assert broken_tensors(checkpoint) == [
        "current_model_state.weight",
        "optimizer_states.0.state.7.momentum_buffer",
    ]
    assert broken_tensors({"model": state(torch.nan)}) == ["model.weight"], "the published recipe's"


def test_last_passes_over_a_checkpoint_that_cannot_go_on(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    rest = {"optimizer_states": [], "loops": {}, "global_step": 3}
    torch.save({"state_dict": state(), **rest}, tmp_path / "checkpoints" / "epoch000.ckpt")
    last = tmp_path / "checkpoints" / "last.ckpt"
    torch.save({"state_dict": state(torch.nan), **rest}, last)
    with pytest.warns(UserWarning, match=r"passing over .*last\.ckpt \(nothing to go on from, 1 tensor\(s\)"):
        assert resume_path("last", tmp_path) == tmp_path / "checkpoints" / "epoch000.ckpt"
    with pytest.raises(CheckpointError, match=r"last\.ckpt: nothing to go on from.*state_dict\.weight"):
        resume_path(str(last), None)
    check_finite({"state_dict": state()}, "x.ckpt")
