"""The configurations that come with the project, by name: `--config demo` from any directory."""

import os
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning.utilities.exceptions import MisconfigurationException

from coco.whole_files import write_text

# Around a saved configuration, so that one that was cut off, in a copy too, is seen: it might still be valid YAML.
FIRST_LINE, LAST_LINE = "# Settings of a run, whole if the last line is three dots.", "..."
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def config_names() -> list[str]:
    """What `--config` takes beside paths: `demo`, `hardware/mlu`, ..."""
    return sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))


def write_config(path: Path, text: str) -> None:
    """Raises OSError if it cannot be written."""
    write_text(path, f"{FIRST_LINE}\n{text.rstrip()}\n{LAST_LINE}\n")


def with_config_paths(args: Sequence[str]) -> list[str]:
    """The arguments, names of configurations after `--config` replaced by their paths.

    Raises:
        MisconfigurationException: neither a file nor a name; the message lists the names. A saved configuration that
            is cut off.
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
        _check_whole(Path(path))
        return path
    if name in config_names():
        return str(CONFIGS / f"{name}.yaml")
    raise MisconfigurationException(
        f"--config {name}: no such file, nor one of the configurations that come with the project "
        f"({', '.join(config_names())})"
    )


def _check_whole(path: Path) -> None:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or not any(line.strip() for line in lines):
        raise MisconfigurationException(f"--config {path}: there is nothing in this file")
    begins, ends = lines[0].strip() == FIRST_LINE, lines[-1].strip() == LAST_LINE
    if begins and not ends:
        raise MisconfigurationException(
            f"--config {path}: cut off after {len(lines)} lines; a saved configuration ends with a line of three dots. "
            "Take another copy, or a config_N.yaml of the same run"
        )
