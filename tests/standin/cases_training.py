"""Training on the stand-in: the CPU's numbers, mixed precision for real, and a record of every copy.

Collected by tests/test_standin.py, which runs these files in a process of their own.
"""

import pytest
import torch
from torch.nn import functional as F
from torch_mlu.testing import record_operators, record_transfers


def train_resnet18(device: str, memory_format: torch.memory_format) -> tuple[list[float], dict[str, torch.Tensor]]:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    model = resnet18(num_classes=10).to(device, memory_format=memory_format)
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(0, 10, (2,))
    images, labels = images.to(device, memory_format=memory_format), labels.to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model.cpu().state_dict()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_training_resnet18_equals_the_cpu_bit_for_bit(memory_format):
    cpu_losses, cpu_state = train_resnet18("cpu", memory_format)
    mlu_losses, mlu_state = train_resnet18("mlu", memory_format)
    assert mlu_losses == cpu_losses
    assert all(torch.equal(mlu_state[name], cpu_state[name]) for name in cpu_state)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("form", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
def test_every_form_of_an_optimizer_steps_as_on_the_cpu(optimizer, form):
    def stepped(device: str) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 5).to(device))
        weight.square().sum().backward()
        torch.nn.utils.clip_grad_norm_([weight], 1.0)
        optimizer([weight], lr=0.1, **form).step()
        return weight.detach().cpu()

    assert torch.allclose(stepped("mlu"), stepped("cpu"), atol=1e-6)


# ---- mixed precision -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_lowers_products_and_keeps_losses_in_float32(dtype):
    images = torch.rand(1, 3, 8, 8, device="mlu")
    convolution, linear = torch.nn.Conv2d(3, 4, 3).mlu(), torch.nn.Linear(4, 2).mlu()
    with torch.autocast("mlu", dtype=dtype):
        features = convolution(images)
        scores = linear(features.mean((2, 3)))
        product = scores @ scores.T
        high = [
            scores.softmax(-1), scores.log_softmax(-1), scores.exp(), scores.sum(),
            F.smooth_l1_loss(scores, scores), F.cross_entropy(scores, torch.zeros(1, dtype=torch.long, device="mlu")),
            torch.nn.functional.layer_norm(scores, (2,)),
        ]  # fmt: skip
        widest = torch.addcmul(scores.float(), scores, scores)
    assert {features.dtype, scores.dtype, product.dtype} == {dtype}
    assert {value.dtype for value in high} == {torch.float32}
    assert widest.dtype == torch.float32
    sum(value.sum() for value in high).backward()
    assert convolution.weight.grad.dtype == torch.float32


def test_autocast_refuses_binary_cross_entropy():
    half = torch.full((2,), 0.5, device="mlu")
    with torch.autocast("mlu"), pytest.raises(RuntimeError, match="unsafe to autocast"):
        F.binary_cross_entropy(half, half)


def test_torch_mlu_amp_is_autocast_and_scaler_for_mlu():
    with torch.mlu.amp.autocast(dtype=torch.bfloat16):
        assert torch.is_autocast_enabled("mlu")
        assert torch.get_autocast_dtype("mlu") == torch.bfloat16
    assert torch.mlu.amp.GradScaler().is_enabled()


def test_the_gradient_scaler_scales_unscales_and_skips_overflowing_steps():
    model = torch.nn.Linear(2, 1, bias=False).mlu()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("mlu", init_scale=1024.0)
    images = torch.ones(1, 2, device="mlu")
    with torch.autocast("mlu", dtype=torch.float16):
        loss = model(images).float().sum()
    scaler.scale(loss).backward()
    assert model.weight.grad.tolist() == [[1024.0, 1024.0]]
    scaler.unscale_(optimizer)
    assert model.weight.grad.tolist() == [[1.0, 1.0]]
    before = model.weight.detach().clone()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model.weight.detach(), before - 0.1)

    before = model.weight.detach().clone()
    model.weight.grad.fill_(float("inf"))
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(model.weight.detach(), before)
    assert scaler.get_scale() == 512.0


# ---- records -------------------------------------------------------------------------------------


def test_every_copy_between_host_and_device_is_recorded_with_its_place():
    with record_transfers() as transfers:
        batch = torch.zeros(4, dtype=torch.uint8).to("mlu")
        (batch.float() + torch.tensor(1.0) + 1).sum()  # a number is an argument, not a copy
        assert not transfers[1:]
        batch.sum().item()
        batch.cpu()
    found = [(transfer.direction, transfer.op, transfer.shape, transfer.dtype) for transfer in transfers]
    assert found == [
        ("h2d", "aten::_copy_from", (4,), "uint8"),
        ("d2h", "aten::_local_scalar_dense", (), "int64"),
        ("d2h", "aten::_copy_from", (4,), "uint8"),
    ]
    place = "cases_training.py"
    assert all(place in transfer.where for transfer in transfers)
    assert transfers[0].nbytes == 4
    assert any(place in frame for frame in transfers[0].frames)


@pytest.mark.parametrize(
    ("read", "recorded"),
    [
        (lambda x: x.nonzero(), ("d2h", "aten::nonzero")),
        (lambda x: x[x > 0], ("d2h", "aten::index.Tensor")),
        (lambda x: x[torch.tensor([0, 1])], ("h2d", "aten::index.Tensor")),
        (lambda x: torch.equal(x, x), ("d2h", "aten::equal")),
        (lambda x: bool(x.any()), ("d2h", "aten::_local_scalar_dense")),
        (lambda x: x.to("mlu:1"), ("d2d", "aten::_copy_from")),
        (lambda x: torch.tensor([1.0], device="mlu"), ("h2d", "aten::_copy_from")),
    ],
)
def test_hidden_waits_of_the_host_are_recorded_as_copies(read, recorded):
    values = torch.tensor([1.0, 0.0, 2.0], device="mlu")
    with record_transfers() as transfers:
        read(values)
    assert [(transfer.direction, transfer.op) for transfer in transfers] == [recorded]


def test_copies_in_the_backward_pass_are_recorded():
    class ReadsInBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            gradient.sum().item()
            return gradient

    weight = torch.ones(3, device="mlu", requires_grad=True)
    with record_transfers() as transfers:
        ReadsInBackward.apply(weight).sum().backward()
    assert [transfer.op for transfer in transfers] == ["aten::_local_scalar_dense"]
    assert "backward" in transfers[0].where


def test_a_training_step_on_device_tensors_copies_nothing():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).mlu()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images = torch.rand(2, 3, 8, 8, device="mlu")
    with record_transfers() as transfers:
        model(images).mean().backward()
        optimizer.step()
    assert transfers == []


def test_operators_that_ran_on_the_device_are_named():
    values = torch.ones(2, 2, device="mlu")
    with record_operators() as names:
        (values @ values).cpu()
    assert {"aten::mm", "aten::_copy_from"} <= names
    assert "aten::add.Tensor" not in names
