"""Does this device have the kernels that SyncBatchNorm needs? Asked by running them: a fallback to the CPU has none "
"either."""

import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.nn import Module, SyncBatchNorm


def refuse_without_kernels(model: Module, device: torch.device) -> None:
    """Raise if `model` has synchronised batch norms and `device` cannot run them."""
    layers = [name for name, module in model.named_modules() if isinstance(module, SyncBatchNorm)]
    if not layers:
        return
    error = first_missing_kernel(device)
    if error is not None:
        raise MisconfigurationException(
            f"SyncBatchNorm was asked for (sync_batchnorm=True, or in the model: {', '.join(layers[:3])}...), but "
            f"torch_mlu here lacks its kernels on {device}: {error}\nLeave sync_batchnorm out; batch statistics then "
            "are each device's own, as they are by default."
        )


def first_missing_kernel(device: torch.device) -> str | None:
    """Run the five operators of torch.nn.modules._functions.SyncBatchNorm on a tiny input; the first failure, or "
    "None."""
    x = torch.ones(2, 3, 2, 2, device=device)
    weight = torch.ones(3, device=device)
    counts = torch.full((1,), 8.0, device=device)
    name = "batch_norm_stats"
    try:
        mean, invstd = torch.batch_norm_stats(x, 1e-5)
        name = "batch_norm_gather_stats_with_counts"
        torch.batch_norm_gather_stats_with_counts(x, mean[None], invstd[None], None, None, 0.1, 1e-5, counts)
        name = "batch_norm_elemt"
        torch.batch_norm_elemt(x, weight, weight, mean, invstd, 1e-5)
        name = "batch_norm_backward_reduce"
        sum_dy, sum_dy_xmu, _, _ = torch.batch_norm_backward_reduce(x, x, mean, invstd, weight, True, True, True)
        name = "batch_norm_backward_elemt"
        torch.batch_norm_backward_elemt(x, x, mean, invstd, weight, sum_dy, sum_dy_xmu, counts.to(torch.int32))
    except (NotImplementedError, RuntimeError) as error:
        return f"{name}: {str(error).splitlines()[0]}"
    return None
