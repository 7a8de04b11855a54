import pytest
import torch
import torchvision

from ssd.model import FEATURE_CHANNELS, SSD300
from ssd.parameters import parameter_groups


@pytest.mark.parametrize("backbone", FEATURE_CHANNELS)
def test_every_backbone_predicts_for_all_8732_default_boxes(backbone):
    with torch.device("meta"):
        model = SSD300(backbone, num_classes=7)
        offsets, logits = model(torch.empty(2, 3, 300, 300))
    assert offsets.shape == (2, 8732, 4) and logits.shape == (2, 8732, 8)


def test_an_unknown_backbone_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"resnet18.*resnet152.*got 'vgg16'"):
        SSD300("vgg16")


def test_a_batch_gives_what_single_images_give():
    torch.manual_seed(0)
    model = SSD300("resnet18", num_classes=3).eval()
    images = torch.randn(2, 3, 300, 300)
    with torch.no_grad():
        together, alone = model(images), model(images[1:])
    torch.testing.assert_close(together[1][1], alone[1][0], atol=1e-4, rtol=1e-4)


def test_memory_format_does_not_change_the_result():
    torch.manual_seed(0)
    model = SSD300("resnet18", num_classes=3).eval()
    images = torch.randn(1, 3, 300, 300)
    with torch.no_grad():
        plain = model(images)
        last = model.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(plain, last, atol=1e-4, rtol=1e-4)


def test_pretrained_backbone_weights_are_torchvisions():
    weights = torchvision.models.resnet18(weights=None).state_dict()
    model = SSD300("resnet18", num_classes=3, backbone_weights=weights)
    assert torch.equal(model.backbone[0].weight, weights["conv1.weight"])
    assert torch.equal(model.backbone[6][1].bn2.running_var, weights["layer3.1.bn2.running_var"])


def test_backbone_weights_of_another_network_are_refused():
    with pytest.raises(ValueError, match="backbone weights do not fit"):
        SSD300("resnet34", num_classes=3, backbone_weights=torchvision.models.resnet18(weights=None).state_dict())


def test_extra_blocks_and_heads_start_xavier_uniform():
    torch.manual_seed(0)
    weight = SSD300("resnet18", num_classes=80).logit_heads[0].weight
    bound = (6 / ((256 + 81 * 4) * 9)) ** 0.5
    assert weight.abs().max() <= bound and weight.abs().max() > 0.99 * bound


def test_biases_and_normalisation_do_not_decay():
    model = SSD300("resnet18", num_classes=3)
    decayed, spared = parameter_groups(model, 5e-4)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert decayed["weight_decay"] == 5e-4 and spared["weight_decay"] == 0
    assert all(parameter.dim() > 1 for parameter in decayed["params"])
    assert len(decayed["params"]) + len(spared["params"]) == len(names)
    spared_names = {names[id(parameter)] for parameter in spared["params"]}
    assert "offset_heads.0.bias" in spared_names and "backbone.1.weight" in spared_names


def test_heads_can_start_at_a_prior_of_background_with_small_scores():
    torch.manual_seed(0)
    model = SSD300("thin", num_classes=3, background_prior=0.75)
    with torch.no_grad():
        offsets, logits = model(torch.randn(4, 3, 300, 300))
    assert logits.softmax(-1)[..., 0].mean() == pytest.approx(0.75, abs=0.05)
    assert offsets.std() < 0.5
    torch.manual_seed(0)
    plain = SSD300("thin", num_classes=3)
    assert all(
        torch.equal(*pair) for pair in zip(plain.backbone.parameters(), model.backbone.parameters(), strict=True)
    )
