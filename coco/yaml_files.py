"""YAML that comes with a data set, as plain values: of bounded size, no key twice, no aliases (a few lines of which can
stand for more than any memory holds)."""

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

LARGEST = 10**6  # bytes


class YamlError(ValueError):
    """A file that is not there or cannot be read as such; the message names it."""


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(problem="an alias; write out what it stands for", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [key for key, count in keys.items() if count > 1]:
            raise yaml.constructor.ConstructorError(
                problem=f"{twice[0]!a} is there twice", problem_mark=node.start_mark
            )
        return super().construct_mapping(node, deep)


def read_mapping(path: Path) -> dict[Any, Any]:
    """The keys and values of a file.

    Raises:
        YamlError: too large, no YAML, not a mapping, an alias or a key twice in it.
    """
    try:
        size = path.stat().st_size
        content = yaml.load(path.read_text("utf-8"), _Loader) if size <= LARGEST else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise YamlError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if size > LARGEST:
        raise YamlError(f"{path}: {size} bytes, more than any list of classes and folders")
    if not isinstance(content, dict):
        raise YamlError(f"{path}: expected keys and values, `train: ...`, but there are none in it")
    return content
