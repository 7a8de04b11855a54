"""What a check is: a function of the setting that returns what it found, or raises what was wrong."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

PASSED, FAILED, NOT_POSSIBLE = "passed", "failed", "not possible here"


@dataclass(frozen=True)
class Setting:
    """What is tested: `accelerator` "mlu", "cuda" or "cpu", on `devices` of them. `quick` asks for seconds, not
    minutes; `directory` is scratch space; `more` is a project's own."""

    accelerator: str
    devices: int
    quick: bool
    directory: str
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu") if self.accelerator == "cpu" else torch.device(self.accelerator, 0)

    @property
    def scratch(self) -> Path:
        return Path(self.directory)


@dataclass(frozen=True)
class Found:
    """`words` for the table, `figures` for the file."""

    words: str
    figures: Mapping[str, Any] = field(default_factory=dict)


class Wrong(Exception):
    """The device does otherwise than it should; the message names what, and by how much."""

    def __init__(self, words: str, figures: Mapping[str, Any] | None = None) -> None:
        super().__init__(words)
        self.figures = dict(figures or {})


class NotPossible(Exception):
    """This machine cannot be asked that; the message says why."""


@dataclass(frozen=True)
class Check:
    """`limit`: seconds, after which it hangs. `quick`: is part of a quick selftest."""

    name: str
    function: Callable[[Setting], Found]
    limit: float = 300
    quick: bool = True


@dataclass
class Result:
    """One line of the table."""

    name: str
    outcome: str
    words: str
    figures: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    log: str = ""


def low_precisions(setting: Setting) -> list[torch.dtype]:
    """The dtypes beside float32 that this device computes in."""
    if setting.accelerator == "cpu":
        return [torch.bfloat16]
    module = getattr(torch, setting.accelerator)
    return [torch.float16, *([torch.bfloat16] if module.is_bf16_supported() else [])]
