"""What Lightning must be given to run on an MLU, and the errors that say so.

Lightning 2.6 knows no MLU. Left to itself with accelerator="mlu" it picks a strategy on the CPU (one device), one that
opens CUDA streams (several), and for mixed precision an autocast for CUDA, which on an MLU computes in fp32. Each is
refused here.
"""

import sys
from typing import Any

import torch
from pytorch_lightning.plugins import (
    BitsandbytesPrecision,
    DeepSpeedPrecision,
    DoublePrecision,
    FSDPPrecision,
    MixedPrecision,
    Precision,
    TransformerEnginePrecision,
    XLAPrecision,
)
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_warn

WHAT_TO_WRITE = """Write instead:
    from accelerators import MLUDDPStrategy, MLUMixedPrecision, SingleMLUStrategy
    one MLU:         Trainer(accelerator="mlu", devices=1, strategy=SingleMLUStrategy())
    several:         Trainer(accelerator="mlu", devices=8, strategy=MLUDDPStrategy())
    mixed precision: plugins=[MLUMixedPrecision("16-mixed")] or "bf16-mixed", and no precision=
or let accelerators.resolve_trainer_flags(accelerator="mlu", devices=8, precision="16-mixed") write them for you."""

OTHER_DEVICE = (BitsandbytesPrecision, DeepSpeedPrecision, FSDPPrecision, TransformerEnginePrecision, XLAPrecision)


def wrong_strategy(got: str, device: Any) -> MisconfigurationException:
    """The error for a strategy that is not ours; `device` is where it would have put the model."""
    return MisconfigurationException(
        f"accelerator='mlu' runs with SingleMLUStrategy or MLUDDPStrategy, but got {got} on device {device}. "
        f"Lightning's own strategies train on the CPU or open CUDA streams here.\n{WHAT_TO_WRITE}"
    )


def refuse_precision(precision: Precision) -> None:
    """Raise for a precision plugin that would run in accidental fp32, or not at all, on an MLU."""
    name = type(precision).__name__
    if isinstance(precision, MixedPrecision) and precision.device != "mlu":
        raise MisconfigurationException(
            f"{name}({precision.precision!r}) is built for device {precision.device!r}: on an MLU it would compute in "
            "fp32 without gradient scaling. Expected a plugin for 'mlu'. Leave precision= out and write "
            f"plugins=[MLUMixedPrecision({precision.precision!r})] (from accelerators import MLUMixedPrecision)."
        )
    if isinstance(precision, DoublePrecision):
        raise MisconfigurationException(
            "precision='64-true' on an MLU would compute in fp32: the device keeps 64-bit floats as 32-bit. "
            "Write precision='32-true' (or leave it out), or use accelerator='cpu' for float64."
        )
    if isinstance(precision, OTHER_DEVICE):
        raise MisconfigurationException(
            f"{name} does not run on an MLU. Use precision='32-true', '16-true', 'bf16-true', or leave precision= out "
            "and write plugins=[MLUMixedPrecision('16-mixed')] or 'bf16-mixed' (from accelerators import "
            "MLUMixedPrecision)."
        )


def refuse_bf16_without_support(precision: Precision, device: Any, supported: bool) -> None:
    """Raise where bfloat16 was asked for on a card that lacks it."""
    flag = str(getattr(precision, "precision", ""))
    if flag.startswith("bf16") and not supported:
        write = "plugins=[MLUMixedPrecision('16-mixed')]" if flag == "bf16-mixed" else "precision='16-true'"
        raise MisconfigurationException(
            f"{flag} needs an MLU with bfloat16 (compute capability 5 or later, as MLU590), but {device} has none "
            f"(torch.mlu.is_bf16_supported() is False, as on MLU370). Write {write} or train in 32-bit."
        )


def warn_of_silence() -> None:
    """Warn of what torch_mlu takes without a word and does otherwise."""
    if torch.are_deterministic_algorithms_enabled():
        rank_zero_warn(
            "deterministic=True: an MLU's convolutions do not honour it, so that two runs may differ in the last bits, "
            "and a resumed run from one that never stopped."
        )
    if "torch_mlu.utils.gpu_migration" in sys.modules:
        rank_zero_warn(
            "torch_mlu.utils.gpu_migration is imported: it makes torch.cuda mean torch.mlu, and Lightning would take "
            "its paths for CUDA. Leave that import out; nothing here needs it."
        )
