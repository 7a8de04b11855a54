import json
import zlib

import numpy as np
import pytest
import torch

from checkpoints import CheckpointError
from export import from_reference_state, load_reference_checkpoint, save_reference_checkpoint, to_reference_state
from ssd.model import FEATURE_CHANNELS, SSD300
from ssd_module import SSDModule
from tests.conftest import SHARED


def golden_state(backbone: str) -> dict[str, torch.Tensor]:
    """The reference's weights, filled by name as the golden figures were made."""
    path = SHARED / "golden" / "reference_state_dict.json"
    if not path.exists():
        pytest.skip(f"golden figures are not here: {path}")
    state = {}
    for name, shape in json.loads(path.read_text())["state_dict_shapes"][backbone].items():
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
        elif name.endswith("running_mean"):
            state[name] = torch.randn(shape, generator=generator) * 0.1
        elif name.endswith("running_var"):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        elif name.endswith("bias"):
            state[name] = torch.randn(shape, generator=generator) * 0.05
        elif len(shape) == 1:
            state[name] = torch.rand(shape, generator=generator) * 0.5 + 0.75
        else:
            state[name] = torch.randn(shape, generator=generator) * (1 / np.prod(shape[1:])) ** 0.5
    return state


@pytest.fixture
def golden_checkpoint(tmp_path):
    def write(backbone: str, **more):
        path = tmp_path / f"{backbone}.pt"
        torch.save({"epoch": 3, "iteration": 12, "model": golden_state(backbone), **more}, path)
        return path

    return write


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50"])
def test_forward_with_the_recipes_weights_agrees_with_its_own(golden, golden_checkpoint, reference_order, backbone):
    figures = golden(f"forward_{backbone}.npz")
    module = load_reference_checkpoint(golden_checkpoint(backbone)).eval()
    assert module.hparams.backbone == backbone and module.hparams.num_classes == 80
    images = torch.randn(2, 3, 300, 300, generator=torch.Generator().manual_seed(int(figures["seed"])))
    with torch.no_grad():
        offsets, logits = module(images)
    offsets = offsets[:, reference_order].transpose(1, 2)
    logits = logits[:, reference_order].transpose(1, 2)
    for ours, theirs in ((offsets[:, :, ::7], figures["loc"]), (logits[:, :, ::97], figures["conf"])):
        theirs = torch.from_numpy(theirs)
        assert (ours - theirs).abs().max() <= 1e-3 * theirs.abs().max()
    assert offsets.double().abs().sum().item() == pytest.approx(float(figures["loc_abssum"]), rel=1e-3)
    assert logits.double().abs().sum().item() == pytest.approx(float(figures["conf_abssum"]), rel=1e-3)


@pytest.mark.parametrize("backbone", FEATURE_CHANNELS)
def test_our_weights_have_the_recipes_names_and_shapes_when_exported(backbone):
    path = SHARED / "golden" / "reference_state_dict.json"
    if not path.exists():
        pytest.skip(f"golden figures are not here: {path}")
    expected = json.loads(path.read_text())["state_dict_shapes"]
    if backbone not in expected:
        pytest.skip(f"no golden shapes of {backbone}")
    state = to_reference_state(SSD300(backbone, 80).state_dict())
    assert {name: list(value.shape) for name, value in state.items()} == expected[backbone]


def test_a_round_trip_is_the_identity():
    state = SSD300("resnet18", 5).state_dict()
    back = from_reference_state(to_reference_state(state))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_a_saved_reference_checkpoint_opens_again_with_its_classes(tmp_path):
    module = SSDModule("resnet18", 3, class_names=["cat", "dog", "emu"])
    save_reference_checkpoint(module, tmp_path / "epoch_0.pt")
    raw = torch.load(tmp_path / "epoch_0.pt", weights_only=True)
    assert raw["label_map"] == {0: "background", 1: "cat", 2: "dog", 3: "emu"}
    again = load_reference_checkpoint(tmp_path / "epoch_0.pt")
    assert again.class_names == ("cat", "dog", "emu")
    for key, value in module.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], value)


def test_weights_saved_from_a_distributed_run_open_too(golden_checkpoint, tmp_path):
    raw = torch.load(golden_checkpoint("resnet18"), weights_only=True)
    raw["model"] = {f"module.{key}": value for key, value in raw["model"].items()}
    torch.save(raw, tmp_path / "ddp.pt")
    assert load_reference_checkpoint(tmp_path / "ddp.pt").hparams.backbone == "resnet18"


def test_coco_classes_get_cocos_category_ids(golden_checkpoint):
    ids = load_reference_checkpoint(golden_checkpoint("resnet18")).category_ids
    assert len(ids) == 80 and ids[:12] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13) and ids[-1] == 90


def test_a_label_map_of_another_size_is_refused(golden_checkpoint):
    with pytest.raises(CheckpointError, match="names 1 classes, the heads have 80"):
        load_reference_checkpoint(golden_checkpoint("resnet18", label_map={0: "background", 1: "cat"}))


def test_a_file_that_is_no_recipe_checkpoint_is_refused_by_name(tmp_path):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"other\.pt.*no `model`.*weights"):
        load_reference_checkpoint(tmp_path / "other.pt")


def test_training_follows_the_recipes_losses(golden, golden_checkpoint):
    figures = golden("training_resnet18.npz")
    module = load_reference_checkpoint(golden_checkpoint("resnet18")).train()
    images = torch.randn(4, 3, 300, 300, generator=torch.Generator().manual_seed(int(figures["seed_images"])))
    batch = {
        "images": images,
        "boxes": torch.from_numpy(figures["gt_boxes_xyxy"]),
        "labels": torch.from_numpy(figures["gt_labels"]),
    }
    module.log = module.log_dict = lambda *args, **kwargs: None  # no trainer here
    from ssd_module import parameter_groups

    groups = parameter_groups(module.model, float(figures["weight_decay"]))
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=float(figures["momentum"]))
    losses = []
    for rate in figures["lrs"]:
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        loss = module.training_step(batch, 0)["loss"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[:4] == pytest.approx(figures["losses"][:4].tolist(), rel=2e-4)
    assert losses == pytest.approx(figures["losses"].tolist(), rel=1e-2)
