"""MLUMixedPrecision: autocast on the MLU, with a gradient scaler for fp16."""

from typing import Any, Literal

import torch
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.nn import Module
from torch.optim import Optimizer
from typing_extensions import override

from . import backend


class MLUMixedPrecision(MixedPrecision):
    """Mixed precision on an MLU: ``Trainer(plugins=[MLUMixedPrecision("16-mixed")])``.

    Lightning's ``precision="16-mixed"`` builds its plugin for "cuda", which on an MLU is fp32 with the scaler off. The
    state of the scaler is saved under the stock plugin's name, so that a run may move between an MLU and CUDA.

    Args:
        precision: "16-mixed" (with a gradient scaler) or "bf16-mixed" (no scaler; needs compute capability 5 or later).
        scaler: A scaler of your own for "16-mixed"; by default ``torch.amp.GradScaler("mlu")``.
    """

    def __init__(
        self, precision: Literal["16-mixed", "bf16-mixed"] = "16-mixed", scaler: torch.amp.GradScaler | None = None
    ) -> None:
        if precision == "16-mixed" and scaler is None:
            backend.require()  # the scaler is the device's
        super().__init__(precision, device="mlu", scaler=scaler)
        if self.scaler is not None and not self.scaler.is_enabled():
            raise MisconfigurationException(
                "MLUMixedPrecision('16-mixed') was given a GradScaler that is switched off: fp16 gradients would "
                "underflow. "
                'Pass torch.amp.GradScaler("mlu"), or no scaler.'
            )

    @override
    def connect(
        self, model: Module, optimizers: list[Optimizer], lr_schedulers: list[Any]
    ) -> tuple[Module, list[Optimizer], list[Any]]:
        for name, parameter in model.named_parameters():
            if parameter.device.type != "mlu":
                raise MisconfigurationException(
                    f"MLUMixedPrecision expected the model on an MLU, but {name} is on {parameter.device}: autocast "
                    "would do nothing there. Elsewhere write precision='16-mixed' or 'bf16-mixed' instead of this "
                    "plugin."
                )
        supported = backend.device_module().get_amp_supported_dtype()
        if self._dtype not in supported:
            raise MisconfigurationException(
                f"torch_mlu's autocast supports {supported}, not {self._dtype}: it would "
                "switch itself off. Train in 32-bit."
            )
        return super().connect(model, optimizers, lr_schedulers)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.pop(type(self).__qualname__, None)
        if state:
            checkpoint[MixedPrecision.__qualname__] = state

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint.get(MixedPrecision.__qualname__)
        if state:
            self.load_state_dict(state)

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16-mixed" else torch.float16
