import zipfile

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from checkpoints import fetching
from ssd.model import SSD300
from training.pretrained import PretrainedWeightsError, backbone_weights, load_backbone


def test_a_local_torchvision_state_dict_is_read(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    save_file(state, tmp_path / "resnet18.safetensors")
    for name in ("resnet18.pth", "resnet18.safetensors"):
        loaded = backbone_weights("resnet18", str(tmp_path / name))
        assert loaded.keys() == state.keys() and torch.equal(loaded["conv1.weight"], state["conv1.weight"])


def test_weights_that_cannot_be_fetched_say_how_to_go_on(monkeypatch, tmp_path):
    def offline(*args):
        raise OSError("no route to host")

    monkeypatch.setattr(fetching, "download", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        PretrainedWeightsError, match=r"(?s)no route to host.*resnet18-.*\.pth.*--model.backbone_weights"
    ):
        backbone_weights("resnet18", "IMAGENET1K_V1")


@pytest.mark.parametrize(
    ("weights", "message"),
    [("IMAGENET1K_V9", "neither a file nor one of.*IMAGENET1K_V1"), ("/nowhere/x.pth", "no file /nowhere/x.pth")],
)
def test_a_wrong_name_or_path_is_named(weights, message):
    with pytest.raises(PretrainedWeightsError, match=message):
        backbone_weights("resnet18", weights)


def test_a_file_that_is_no_state_dict_is_refused(tmp_path):
    for content in ([1, 2], {5: torch.ones(1)}):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(PretrainedWeightsError, match=r"x\.pth holds no state dict"):
            backbone_weights("resnet18", str(tmp_path / "x.pth"))


def test_weights_of_another_network_are_refused_by_name(tmp_path):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "x.pth")
    with pytest.raises(PretrainedWeightsError, match=r"backbone_weights .*x\.pth: for resnet50, .* do not fit"):
        load_backbone(SSD300("resnet50", 1), "resnet50", str(tmp_path / "x.pth"))


@pytest.mark.parametrize("where", ["a file", "torch.hub's cache"])
def test_weights_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch, where):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    path = tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02cbuiltins\nbytearray\nK\x07\x85R.")
    with pytest.raises(PretrainedWeightsError, match=r"resnet18-.*\.pth: refused.*bytearray"):
        backbone_weights("resnet18", str(path) if where == "a file" else weights.name)
