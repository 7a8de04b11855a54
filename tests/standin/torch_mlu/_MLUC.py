"""What the real package keeps in its compiled `_MLUC`, and patches into torch: gradient hooks of its reducer."""

from types import SimpleNamespace
from typing import Any

import torch.distributed

registered: list[str] = []  # names of hooks, for tests
_stock_hook = torch.distributed._register_comm_hook
_stock_builtin = torch.distributed._register_builtin_comm_hook


def _register_comm_hook(reducer: Any, state: object, hook: Any) -> None:
    registered.append(hook.__name__)
    _stock_hook(reducer, state, hook)


def _register_builtin_comm_hook(reducer: Any, hook_type: Any) -> None:
    registered.append(str(hook_type))
    _stock_builtin(reducer, hook_type)


_c10d_mlu = SimpleNamespace(
    _register_comm_hook=_register_comm_hook,
    _register_builtin_comm_hook=_register_builtin_comm_hook,
    registered=registered,
)


def patch() -> None:
    torch.distributed._register_comm_hook = _register_comm_hook
    torch.distributed._register_builtin_comm_hook = _register_builtin_comm_hook
