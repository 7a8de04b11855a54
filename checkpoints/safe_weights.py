"""Weights as safetensors (huggingface.co/docs/safetensors): tensors and texts only, which no reader can take for code.

Tensors have the names of `SSD300.state_dict()`; the metadata has under `ssd300` as JSON what else a checkpoint of ours
is made of. A file of others without that may hold the published recipe's names.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from checkpoints.archive import NotSane

KEY = "ssd300"
PREFIX = "model."  # of the network's names in a checkpoint of ours
SETTINGS = ("hyper_parameters", "operating_point", "COCODataModule")  # what is kept of a checkpoint beside its weights
MAX_HEADER = 2**24  # bytes; that of a ResNet-152 has 100 kB


def is_safetensors(path: Path) -> bool:
    """By its content: the header's length in 8 bytes, and the header, which is JSON."""
    with open(path, "rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 2**40


def read(path: Path, whole: bool = True) -> dict[str, Any]:
    """The content of a checkpoint of ours; of a file without our metadata that of a published one (`model`).

    Args:
        whole: False leaves the tensors out.

    Raises:
        NotSane: damaged, or not as it is written here. OSError: the disk.
    """
    with open(path, "rb") as file:
        if int.from_bytes(file.read(8), "little") > MAX_HEADER:
            raise NotSane(f"a header of more than {MAX_HEADER // 2**20} MiB")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            told = (file.metadata() or {}).get(KEY)
            # Copies: a file that is mapped must not change, or be cut off, as long as its tensors are used.
            names = file.keys() if whole else ()
            state = {name: file.get_tensor(name).clone() for name in names}
    except SafetensorError as error:
        raise NotSane(str(error)[:200]) from None
    if told is None:
        return {"model": state}
    try:
        settings = json.loads(told)
        known = {key: settings[key] for key in SETTINGS if key in settings}
    except (ValueError, TypeError, RecursionError):
        raise NotSane(f"its metadata `{KEY}` is no JSON of settings") from None
    return {"state_dict": {f"{PREFIX}{name}": tensor for name, tensor in state.items()}, **known}


def save(checkpoint: dict[str, Any], path: Path) -> None:
    """The weights and `SETTINGS` of a checkpoint of ours, for `checkpoints.files.write_durably`."""
    settings = {key: checkpoint[key] for key in SETTINGS if key in checkpoint}
    tensors = {
        name.removeprefix(PREFIX): tensor.detach().cpu().contiguous(memory_format=torch.contiguous_format)
        for name, tensor in checkpoint["state_dict"].items()
    }
    save_file(tensors, path, {"format": "pt", KEY: json.dumps(settings)})
