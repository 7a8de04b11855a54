"""YAML of configurations and arguments as plain values, of bounded size before anything is made of it.

An alias repeats what its anchor names, and a few lines of aliases of aliases can stand for more values than any memory
holds. The events of the parser tell how many, and how deep, without making one.
"""

from typing import Any

import yaml
from jsonargparse import get_loader
from pytorch_lightning.utilities.exceptions import MisconfigurationException

# A configuration with every setting has some 200 values. jsonargparse takes 2 s for a list of 1000, and 160 s for 9000.
MAX_CHARACTERS, MAX_VALUES, MAX_DEPTH = 2**20, 1_000, 30
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class ConfigTextError(MisconfigurationException):
    """A text that is too much for a configuration."""


def load_text(text: str) -> Any:
    """The text as jsonargparse reads YAML.

    Raises:
        ConfigTextError: too long, too many values (aliases counted as what they stand for), or nested too deeply.
        yaml.YAMLError: not YAML, or a tag that is no plain value's.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigTextError(f"{len(text)} characters, but a configuration has at most {MAX_CHARACTERS}")
    _check_values(text)
    try:
        return get_loader("yaml")(text)
    except ValueError as error:  # a number of more digits than Python converts, a date that is none
        raise yaml.YAMLError(str(error)) from None


def _check_values(text: str) -> None:
    whole: dict[str, tuple[int, int]] = {}  # anchor -> values and depth of what it names
    open_parts: list[tuple[str | None, int, int]] = [(None, 0, 0)]  # anchor, values and depth so far
    for event in yaml.parse(text, Loader=LOADER):
        values = depth = 0
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionStartEvent):
            open_parts.append((anchor, 1, 0))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, values, depth = open_parts.pop()
            depth += 1
        elif isinstance(event, yaml.ScalarEvent):
            values = 1
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in whole:
                raise ConfigTextError(f"*{anchor} stands within what it names, or before it")
            values, depth = whole[anchor]
            anchor = None
        if anchor is not None and values:
            whole[anchor] = values, depth
        parent, before, deepest = open_parts[-1]
        open_parts[-1] = parent, before + values, max(deepest, depth)
        if before + values > MAX_VALUES:
            raise ConfigTextError(f"more than {MAX_VALUES} values, aliases counted as what they stand for")
        if len(open_parts) + depth > MAX_DEPTH:
            raise ConfigTextError(f"nested more than {MAX_DEPTH} deep")
