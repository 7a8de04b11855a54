import pytest
import torch
from torch import nn

from ssd.fold import fold_batch_norm
from ssd.model import SSD300


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_the_folded_model_computes_the_same_without_batch_norm(backbone):
    torch.manual_seed(0)
    model = SSD300(backbone, num_classes=3)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training: no identity
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    model.eval()
    folded = fold_batch_norm(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules()), "the original stays as it was"
    images = torch.randn(1, 3, 300, 300)
    with torch.no_grad():
        for ours, plain in zip(folded(images), model(images), strict=True):
            torch.testing.assert_close(ours, plain, atol=1e-3 * float(plain.abs().max()), rtol=1e-3)
