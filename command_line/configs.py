"""The configurations that come with the project, by name: `--config demo` from any directory."""

import os
from collections.abc import Sequence
from pathlib import Path

import yaml
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from coco.whole_files import write_text

# Around a saved configuration, so that one that was cut off, in a copy too, is seen: it might still be valid YAML.
FIRST_LINE, LAST_LINE = "# Settings of a run, whole if the last line is three dots.", "..."
RECORD = {"command", "packages"}  # settings that a run.json has, and no configuration
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


def check_whole(args: Sequence[str]) -> None:
    """Looks at the files after `--config`, paths by now.

    Raises:
        MisconfigurationException: a file that is no configuration, or a saved one that was cut off.
    """
    for before, arg in zip(("", *args), args, strict=False):
        flag, equals, value = arg.partition("=")
        if before == "--config" or (flag == "--config" and equals):
            _check(Path(arg if before == "--config" else value))


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


def _check(path: Path) -> None:
    """Raises MisconfigurationException for a file that holds no settings, or not all that were written to it."""
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines()
    try:
        content = yaml.compose(text)
    except RecursionError:  # nested too deeply, which the parser says
        return
    except yaml.YAMLError as error:
        raise MisconfigurationException(f"--config {path}: cut off, or no YAML ({error})") from None
    if content is None:
        raise MisconfigurationException(f"--config {path}: there is nothing in this file")
    if not isinstance(content, yaml.MappingNode):
        raise MisconfigurationException(f"--config {path}: expected settings, `name: value`, but there are none in it")
    if lines[0] == FIRST_LINE and lines[-1] != LAST_LINE:
        raise MisconfigurationException(
            f"--config {path}: cut off after {len(lines)} lines; a saved configuration ends with a line of three dots. "
            "Take another copy, or a config_N.yaml of the same run"
        )
    if {key.value for key, _ in content.value} >= RECORD:
        raise MisconfigurationException(f"--config {path}: the record of a run; its settings are in a config.yaml")
