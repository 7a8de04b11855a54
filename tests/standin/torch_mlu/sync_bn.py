"""The five kernels of torch.nn.SyncBatchNorm, which the CPU lacks. STANDIN_MLU_SYNC_BN=0 leaves them out.

x is [N, C, ...]; statistics are [C] in float32, or [W, C] when gathered from W processes.
"""

import os

import torch
from torch import Tensor


def _all_but_channels(x: Tensor) -> list[int]:
    return [dim for dim in range(x.dim()) if dim != 1]


def _per_channel(statistic: Tensor, x: Tensor) -> Tensor:
    return statistic.reshape([1, -1] + [1] * (x.dim() - 2))


def batch_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x.float(), _all_but_channels(x), correction=0)
    return mean, torch.rsqrt(variance + eps)


def batch_norm_gather_stats_with_counts(
    x: Tensor, means: Tensor, invstds: Tensor, running_mean: Tensor | None, running_var: Tensor | None,
    momentum: float, eps: float, counts: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    weights = counts.reshape(-1, 1).to(means.dtype)
    count = weights.sum()
    mean = (means * weights).sum(0) / count
    variance = ((invstds**-2 - eps + (means - mean) ** 2) * weights).sum(0) / count
    if running_mean is not None:
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    if running_var is not None:
        running_var.lerp_((variance * count / (count - 1)).to(running_var.dtype), momentum)
    return mean, torch.rsqrt(variance + eps)


def batch_norm_elemt(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, invstd: Tensor, eps: float
) -> Tensor:
    out = (x.float() - _per_channel(mean, x)) * _per_channel(invstd, x)
    if weight is not None:
        out = out * _per_channel(weight, x)
    if bias is not None:
        out = out + _per_channel(bias, x)
    return out.to(x.dtype)


def batch_norm_backward_reduce(
    grad: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor | None,
    input_g: bool, weight_g: bool, bias_g: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    grad, dims = grad.float(), _all_but_channels(x)
    sum_grad = grad.sum(dims)
    sum_grad_x = (grad * (x.float() - _per_channel(mean, x))).sum(dims)
    like = torch.float32 if weight is None else weight.dtype
    return sum_grad, sum_grad_x, (sum_grad_x * invstd).to(like), sum_grad.to(like)


def batch_norm_backward_elemt(
    grad: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor | None,
    sum_grad: Tensor, sum_grad_x: Tensor, counts: Tensor,
) -> Tensor:  # fmt: skip
    count = counts.sum()
    scale = invstd if weight is None else invstd * weight
    centred = x.float() - _per_channel(mean, x)
    slope = _per_channel(invstd**2 * sum_grad_x / count, x)
    return ((grad.float() - _per_channel(sum_grad / count, x) - centred * slope) * _per_channel(scale, x)).to(x.dtype)


_library = torch.library.Library("aten", "IMPL")


def register() -> None:
    if os.environ.get("STANDIN_MLU_SYNC_BN", "1") == "0":
        return
    for kernel in (
        batch_norm_stats, batch_norm_gather_stats_with_counts, batch_norm_elemt,
        batch_norm_backward_reduce, batch_norm_backward_elemt,
    ):  # fmt: skip
        _library.impl(kernel.__name__, kernel, "PrivateUse1")
