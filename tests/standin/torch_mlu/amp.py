"""torch.mlu.amp: PyTorch's own autocast and gradient scaler, bound to mlu."""

from typing import Any

import torch


class autocast(torch.autocast):
    def __init__(self, enabled: bool = True, dtype: torch.dtype = torch.float16, cache_enabled: bool = True):
        super().__init__("mlu", dtype=dtype, enabled=enabled, cache_enabled=cache_enabled)


class GradScaler(torch.amp.GradScaler):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__("mlu", *args, **kwargs)
