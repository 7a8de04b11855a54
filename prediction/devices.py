"""What a command asks of the device, checked before anything is loaded."""

from typing import Any

import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from accelerators import backend, resolve_trainer_flags

# Lightning's names, as one may write them; those of Transformer Engine are refused by name.
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "64-true", "16-true", "bf16-true", "32", "16", "bf16", "64", "auto")


def fast_precision(accelerator: Any) -> str:
    """What `--precision auto` means: bf16-mixed where the device computes bfloat16 natively; elsewhere 16-mixed on CUDA
    and MLU, 32-true on CPUs (docs/trainer_flags.md has the table).

    A CPU without AVX512-BF16 or AMX emulates it: a training step of ResNet-18 then takes 11 times the time of float32
    (batch 8, AVX2, torch 2.14).
    """
    if isinstance(accelerator, str) and accelerator != "cpu":
        if accelerator != "mlu" and torch.cuda.is_available():
            return "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "16-mixed"
        mlu = getattr(torch, "mlu", None)
        if mlu is not None and mlu.is_available():
            return "bf16-mixed" if mlu.is_bf16_supported() else "16-mixed"
    native = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return "bf16-mixed" if any(supported is not None and supported() for supported in native) else "32-true"


def check_score_threshold(threshold: float) -> None:
    """Raises MisconfigurationException for what is no score threshold."""
    if not 0 <= threshold < 1:
        raise MisconfigurationException(f"--score_threshold {threshold:g}: expected a score from 0 up to, but not, 1")


def check_device(trainer: Any) -> None:
    """`device_flags` for a configuration whose objects (strategies, plugins) are not built yet."""
    unbuilt = {"plugins": None} if isinstance(trainer["strategy"], str) else {"plugins": None, "strategy": "auto"}
    device_flags({**trainer.as_dict(), **unbuilt})


def check_compile(trainer: Any, flag: str = "--compile", instead: str = "; --fold_batch_norm true alone works") -> None:
    """Raises MisconfigurationException where `FLAG true` has no compiler for the device of a configuration."""
    flags = resolve_trainer_flags(accelerator=trainer["accelerator"])
    if flags["accelerator"] == "mlu" and not backend.can_compile():
        raise MisconfigurationException(
            f"{flag} true: this torch_mlu brings no inductor, so that torch.compile has no backend for an MLU. Leave "
            f"it out{instead}"
        )


def training_compiler(compile_training: bool | str, trainer: Any) -> str | None:
    """The backend of `torch.compile` that `--compile_training` asks for, if any.

    Raises MisconfigurationException for one that is not there.
    """
    if not compile_training:
        return None
    if compile_training is True:
        check_compile(trainer, "--compile_training", "")
        return "inductor"
    if compile_training not in (known := torch.compiler.list_backends(exclude_tags=())):
        raise MisconfigurationException(
            f"--compile_training {compile_training}: expected true, false or a backend of torch.compile: "
            f"{', '.join(known)}"
        )
    return compile_training


def device_flags(trainer: Any) -> dict[str, Any]:
    """The Trainer's flags that concern the device, with what an MLU needs filled in.

    Raises MisconfigurationException, before anything is loaded, if the accelerator asked for is not there, or the
    precision is not for this network.
    """
    if str(trainer["precision"]).startswith("transformer-engine"):
        raise MisconfigurationException(
            f"--precision {trainer['precision']}: Transformer Engine is for linear layers, and SSD300 has none. Use "
            "bf16-mixed or 16-mixed"
        )
    names = ("accelerator", "devices", "num_nodes", "strategy", "precision", "plugins")
    flags = resolve_trainer_flags(**{name: trainer[name] for name in names})
    if flags["accelerator"] in ("cuda", "gpu") and not torch.cuda.is_available():
        raise MisconfigurationException(
            f"--accelerator {flags['accelerator']}: no CUDA device is visible to torch {torch.__version__}. "
            "Use --accelerator cpu, or install a torch build with CUDA and check nvidia-smi"
        )
    return flags
