"""The configurations that come with the project, by name: `--config demo` from any directory."""

import os
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning.utilities.exceptions import MisconfigurationException

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def config_names() -> list[str]:
    """What `--config` takes beside paths: `demo`, `hardware/mlu`, ..."""
    return sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))


def with_config_paths(args: Sequence[str]) -> list[str]:
    """The arguments, names of configurations after `--config` replaced by their paths.

    Raises:
        MisconfigurationException: neither a file nor a name; the message lists the names.
    """
    found, is_value = [], False
    for arg in args:
        flag, equals, value = arg.partition("=")
        if is_value:
            arg = _path(arg)
        elif flag == "--config" and equals:
            arg = f"--config={_path(value)}"
        is_value = arg == "--config" and not is_value
        found.append(arg)
    return found


def _path(name: str) -> str:
    path = os.path.expanduser(name)
    if os.path.isfile(path):
        return path
    if name in config_names():
        return str(CONFIGS / f"{name}.yaml")
    raise MisconfigurationException(
        f"--config {name}: no such file, nor one of the configurations that come with the project "
        f"({', '.join(config_names())})"
    )
