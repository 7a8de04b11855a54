"""Operators of training and detection, forward and backward, give on the stand-in what they give on the CPU.

Collected by tests/test_standin.py, which runs these files in a process of their own.
"""

import pytest
import torch
import torchvision
from torch.nn import functional as F

# One line an operator. `leaf` moves a tensor to the device and asks for its gradient, `to` only moves it.
X, V = torch.linspace(-1, 1, 384).sin().reshape(2, 3, 8, 8), torch.linspace(0.1, 0.9, 24).cos().reshape(4, 6)
I, B = torch.tensor([0, 2, 1]), torch.tensor([[0.0, 0, 4, 4]])  # noqa: E741  indices, boxes
OPERATORS = {
    "convolution, grouped and dilated": lambda leaf, to: F.conv2d(
        leaf(X), leaf(X[0, :, None, :3, :3]), None, 1, 1, 2, 3
    ),
    "convolution, with bias": lambda leaf, to: F.conv2d(leaf(X), leaf(X[:, :, :3, :3]), leaf(V[0, :2]), stride=2),
    "transposed convolution": lambda leaf, to: F.conv_transpose2d(
        leaf(X), leaf(X[0, :, None]), leaf(V[0, :1]), stride=2
    ),
    "max pooling": lambda leaf, to: F.max_pool2d(leaf(X), 3, 2, 1, ceil_mode=True),
    "adaptive pooling": lambda leaf, to: F.adaptive_avg_pool2d(leaf(X), 1),
    "batch norm": lambda leaf, to: F.batch_norm(
        leaf(X), to(V[0, :3]), to(V[1, :3]), leaf(V[2, :3]), leaf(V[3, :3]), True
    ),
    "interpolation": lambda leaf, to: F.interpolate(leaf(X), scale_factor=1.5, mode="bilinear"),
    "softmax": lambda leaf, to: leaf(V).softmax(1),
    "log_softmax": lambda leaf, to: leaf(V).log_softmax(1),
    "logsumexp": lambda leaf, to: leaf(V).logsumexp(1),
    "cross entropy": lambda leaf, to: F.cross_entropy(leaf(V), to(torch.tensor([0, 1, 5, 2])), reduction="none"),
    "smooth L1": lambda leaf, to: F.smooth_l1_loss(leaf(V), to(V.flip(0)), reduction="none"),
    "binary cross entropy": lambda leaf, to: F.binary_cross_entropy_with_logits(leaf(V), to(V)),
    "sort": lambda leaf, to: leaf(V).sort(1, descending=True)[0],
    "topk": lambda leaf, to: leaf(V).topk(3)[0],
    "argsort": lambda leaf, to: to(V).argsort(1),
    "max along a dimension": lambda leaf, to: leaf(V).max(1)[0],
    "maximum and minimum": lambda leaf, to: torch.maximum(leaf(V), torch.minimum(leaf(V.flip(0)), leaf(V.flip(1)))),
    "clamp": lambda leaf, to: leaf(V).clamp(0.7, 0.9),
    "where": lambda leaf, to: torch.where(to(V) > 0.8, leaf(V), 0.0),
    "gather": lambda leaf, to: leaf(V).gather(0, to(I[None])),
    "scatter": lambda leaf, to: torch.zeros_like(to(V)).scatter(0, to(I[None]), leaf(V[:1, :3])),
    "index_add": lambda leaf, to: torch.zeros_like(to(V)).index_add(0, to(I), leaf(V[:3])),
    "index by tensors": lambda leaf, to: leaf(V)[to(I), to(I)],
    "index by a mask": lambda leaf, to: leaf(V)[to(V) > 0.8],
    "cumsum": lambda leaf, to: leaf(V).cumsum(0),
    "mean and variance": lambda leaf, to: torch.stack(torch.var_mean(leaf(V), 1)),
    "norm": lambda leaf, to: leaf(V).norm(),
    "matrix product": lambda leaf, to: leaf(V) @ leaf(V).t(),
    "batched product": lambda leaf, to: torch.baddbmm(to(V[:4, :4])[None], leaf(V)[None], leaf(V).t()[None]),
    "einsum": lambda leaf, to: torch.einsum("ij,kj->ik", leaf(V), leaf(V)),
    "cat, split and stack": lambda leaf, to: torch.stack(torch.cat([leaf(V), leaf(V)], 1).split(4, 1)),
    "unbind": lambda leaf, to: leaf(V).unbind(1)[3],
    "permute and reshape": lambda leaf, to: leaf(X).permute(0, 2, 3, 1).reshape(2, -1, 3),
    "pad and roll": lambda leaf, to: F.pad(leaf(V), (1, 1), value=2.0).roll(1, 0),
    "pointwise chain": lambda leaf, to: (leaf(V).exp() + 1).log().sqrt().sigmoid().tanh() ** 2.5,
    "attention": lambda leaf, to: F.scaled_dot_product_attention(leaf(V)[None], leaf(V)[None], leaf(V)[None]),
    "one-hot": lambda leaf, to: F.one_hot(to(I), 4),
    "unique": lambda leaf, to: to(I).unique(),
    "factories": lambda leaf, to: torch.stack(torch.meshgrid(*[torch.arange(3.0).to(to(V).device)] * 2, indexing="ij")),
    "foreach": lambda leaf, to: torch.stack(torch._foreach_mul([leaf(V), leaf(V)], 2.0)),
    "bfloat16 product": lambda leaf, to: (leaf(V).bfloat16() @ leaf(V).bfloat16().t()).float(),
    "roi_align": lambda leaf, to: torchvision.ops.roi_align(leaf(X), [to(B), to(B)], 2),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_gives_the_cpus_values_and_gradients(name):
    found = {}
    for device in ("cpu", "mlu"):
        leaves = []

        def leaf(tensor, device=device, leaves=leaves):
            leaves.append(tensor.to(device, copy=True).requires_grad_())
            return leaves[-1]

        out = OPERATORS[name](leaf, lambda tensor, device=device: tensor.to(device, copy=True))
        if leaves:
            out.square().sum().backward()
        found[device] = [out.detach(), *(tensor.grad for tensor in leaves)]
    assert all(tensor.is_mlu for tensor in found["mlu"])
    for on_mlu, on_cpu in zip(found["mlu"], found["cpu"], strict=True):
        torch.testing.assert_close(on_mlu.cpu(), on_cpu)
