import torch

from checkpoints.published_layout import (
    from_reference_optimizer,
    from_reference_state,
    to_reference_optimizer,
    to_reference_state,
)
from ssd.model import SSD300


def test_weights_come_back_as_they_were():
    state = SSD300("resnet18", 5).state_dict()
    back = from_reference_state(to_reference_state(state))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_head_channels_are_laid_out_coordinate_by_coordinate():
    ours = torch.arange(24.0)  # 6 boxes, each x, y, w, h
    theirs = to_reference_state({"offset_heads.1.bias": ours})["loc.1.bias"]
    assert theirs[:6].tolist() == [0, 4, 8, 12, 16, 20], "all boxes' x come first"


def test_momentum_is_laid_out_as_its_weights_and_numbered_as_the_recipe_does():
    groups = (["backbone.0.weight", "offset_heads.1.weight"], ["offset_heads.1.bias"])
    weight, bias = torch.randn(24, 2, 3, 3), torch.arange(24.0)
    optimizer = {
        "state": {1: {"momentum_buffer": weight}, 2: {"momentum_buffer": bias}},  # the backbone's had no step yet
        "param_groups": [
            {"lr": 0.1, "weight_decay": 5e-4, "params": [0, 1]},
            {"lr": 0.1, "weight_decay": 0.0, "params": [2]},
        ],
    }
    theirs = to_reference_optimizer(optimizer, groups)
    model = to_reference_state({"offset_heads.1.weight": weight, "offset_heads.1.bias": bias})
    assert torch.equal(theirs["state"][0]["momentum_buffer"], model["loc.1.bias"])
    assert torch.equal(theirs["state"][2]["momentum_buffer"], model["loc.1.weight"])
    assert [(g["weight_decay"], g["params"]) for g in theirs["param_groups"]] == [(0.0, [0]), (5e-4, [1, 2])]
    state = dict.fromkeys(("feature_extractor.feature_extractor.0.weight", "loc.1.weight", "loc.1.bias"), weight)
    back = from_reference_optimizer(theirs, state, groups)
    assert back["param_groups"] == optimizer["param_groups"]
    assert torch.equal(back["state"][1]["momentum_buffer"], weight) and back["state"].keys() == {1, 2}
