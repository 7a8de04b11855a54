"""What a checkpoint's pickle may be made of: stand-ins for its values, and limits on how they are put together."""

from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

MAX_NODES = 2_000_000  # values when whatever is named twice is counted twice, as everyone does who walks over them
MAX_DEPTH = 100  # containers within containers
MAX_SHARED = 8  # tensors may be named twice, but not so that copies of them take more than so many times the file

CONTAINERS = (dict, list, tuple)
SCALARS = (str, bytes, int, float, bool, type(None))


class NotPlain(UnpicklingError):
    """More than a checkpoint's plain data, or beyond the limits; the message says what."""


@dataclass(frozen=True)
class Global:
    name: str


@dataclass(frozen=True)
class Storage:
    length: int  # elements
    item: int  # bytes each


@dataclass(frozen=True)
class Tensor:
    bytes: int


class Ordered(dict):
    """An OrderedDict, which may also have attributes (a state dict has `_metadata`)."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.attributes: list[Any] = []


def check_shape(root: Any, file_bytes: int) -> None:
    """Raises NotPlain for a value that contains itself, is nested too deeply, or is small only because its parts
    are named again and again."""
    sizes: dict[int, tuple[int, int, int]] = {}  # of containers that are done: values, bytes of tensors, depth
    above: set[int] = set()
    todo = [root] if isinstance(root, CONTAINERS) else []
    while todo:
        value = todo[-1]
        if id(value) in sizes:
            todo.pop()
            continue
        children = _children(value)
        if id(value) not in above:
            above.add(id(value))
            waiting = [child for child in children if isinstance(child, CONTAINERS) and id(child) not in sizes]
            if any(id(child) in above for child in waiting):
                raise NotPlain("a value that contains itself")
            if waiting:
                todo += waiting
                continue
        parts = [sizes.get(id(child)) or _size(child) for child in children]
        count, tensors, depth = 1, 0, 0
        for part in parts:
            count, tensors, depth = count + part[0], tensors + part[1], max(depth, part[2])
        if count > MAX_NODES or depth > MAX_DEPTH:
            raise NotPlain("values nested too deeply, or named again and again")
        if tensors > MAX_SHARED * file_bytes + 2**20:
            raise NotPlain("tensors that are named again and again")
        sizes[id(value)] = count, tensors, depth + 1
        above.discard(id(value))
        todo.pop()


def _children(value: Any) -> list[Any]:
    """What a container holds, but for the keys of a dict."""
    if isinstance(value, dict):
        return [*value.values(), *(value.attributes if isinstance(value, Ordered) else ())]
    return list(value)


def _size(leaf: Any) -> tuple[int, int, int]:
    """As in `check_shape`; a long text counts for more than one."""
    length = len(leaf) // 64 if isinstance(leaf, (str, bytes)) else 0
    return 1 + length, leaf.bytes if isinstance(leaf, Tensor) else 0, 0


def plain_key(key: Any) -> Any:
    """Keys are scalars: the hash of tuples of tuples can take for ever, and so can large numbers of one hash."""
    if type(key) not in SCALARS or (type(key) is int and abs(key) >= 2**60):
        raise NotPlain("a dict whose keys are no plain values")
    return key
