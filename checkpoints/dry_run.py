"""A dry run of a checkpoint's pickle: what it would build, counted before torch builds any of it.

torch's `weights_only` reader runs no code from a file, but does as it is told: 400 bytes can ask it for gigabytes, or
for a step that never ends. Here the same instructions build stand-ins that cost nothing, within fixed limits, and only
of what checkpoints are made of: plain values, containers, and strided tensors that lie within their storage.
"""

import struct
from collections.abc import Callable, Mapping
from math import prod
from pickle import decode_long
from typing import Any

import torch

from checkpoints.stand_ins import SCALARS, Global, NotPlain, Ordered, Storage, Tensor, check_shape, plain_key

MAX_BYTES = 16 * 2**20  # of pickle; SSD300's last.ckpt has 0.1 MB
MAX_STEPS = 1_000_000  # instructions, and items that calls copy; SSD300's last.ckpt takes 0.03 million

# Bytes of an element, by the name of the storage class (torch.FloatStorage).
STORAGES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1}
STORAGES |= {"Bool": 1, "ComplexDouble": 16, "ComplexFloat": 8, "Untyped": 1}


class DryRun:
    """Runs pickles, one after the other in `data`.

    Args:
        storage: (key, bytes) of a storage that a tensor lies in -> None; raises NotPlain if the file has none such.
        file_bytes: size of the whole file, which tensors may not exceed by much.
    """

    def __init__(self, data: bytes, storage: Callable[[str, int], None], file_bytes: int) -> None:
        self.data, self.at, self.check_storage, self.file_bytes = data, 0, storage, file_bytes
        self.storages: dict[str, Storage] = {}
        self.steps = 0

    def next(self) -> Any:
        """A stand-in for the next pickle's value: scalars, tuples and strings are what they would be.

        Raises:
            NotPlain: see there. EOFError: cut off.
        """
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        try:
            while True:
                self._spend(1)
                code = self._take(1)[0]
                if code == 0x2E:  # STOP
                    value = self._pop()
                    check_shape(value, self.file_bytes)
                    return value
                step = _STEPS.get(code)
                if step is None:
                    raise NotPlain(f"pickle instruction {code:#04x}")
                step(self)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise NotPlain(f"damaged pickle: {type(error).__name__}") from None

    def _take(self, count: int) -> bytes:
        part = self.data[self.at : self.at + count]
        if len(part) < count:
            if len(self.data) >= MAX_BYTES:
                raise NotPlain(f"more than {MAX_BYTES // 2**20} MiB beside its tensors")
            raise EOFError("cut off")
        self.at += count
        return part

    def _line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 200)
        if end < 0:
            raise NotPlain("a name of more than 200 characters")
        return self._take(end + 1 - self.at)[:-1].decode("ascii")

    def _spend(self, count: int) -> None:
        self.steps += count
        if self.steps > MAX_STEPS:
            raise NotPlain(f"more than {MAX_STEPS} instructions")

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _pop(self) -> Any:
        return self.stack.pop()

    def _pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _tuple(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        if len(items) < count:
            raise IndexError
        self.stack[-count:] = [items]

    def _append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise NotPlain("items added to what is no list")
        self.stack[-1].extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) not in (dict, Ordered) or len(items) % 2:
            raise NotPlain("items set in what is no dict")
        target.update((plain_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True))

    def _global(self) -> None:
        module, name = self._line(), self._line()
        self._push(Global(f"{module}.{name}"))

    def _build(self) -> None:
        state = self._pop()
        if type(self.stack[-1]) is not Ordered or type(state) not in (dict, Ordered):
            raise NotPlain("an object with state of its own")
        self._spend(len(state))
        self.stack[-1].attributes.append(state)

    def _call(self) -> None:
        args, function = self._pop(), self._pop()
        name = function.name if isinstance(function, Global) else "no function"
        call = _CALLS.get(name)
        if call is None or type(args) is not tuple:
            raise NotPlain(f"{name} is called")
        self._push(call(self, *args))

    def _storage(self) -> None:
        """A storage by its persistent id: ("storage", class, key, location, elements[, view])."""
        kind, storage_class, key, _, length, *view = self._pop()
        module, _, name = getattr(storage_class, "name", "").rpartition(".")
        item = STORAGES.get(name.removesuffix("Storage"))
        if (
            kind not in ("storage", b"storage")
            or item is None
            or module not in ("torch", "torch.cuda", "torch.storage")
        ):
            raise NotPlain(f"a storage of kind {name or kind!r}"[:100])
        if type(key) is not str or type(length) is not int or length < 0:
            raise NotPlain("a storage without key or length")
        if key not in self.storages:
            self.check_storage(key, length * item)
            self.storages[key] = Storage(length, item)
        elif length * item != self.storages[key].length * self.storages[key].item:
            raise NotPlain(f"storage {key} in two lengths")
        storage = Storage(length, item)
        if view and view[0] is not None:  # of old files: key, first element, elements
            _, first, length = view[0]
            if not (type(first) is type(length) is int and 0 <= first <= first + length <= storage.length):
                raise NotPlain(f"a view outside storage {key}")
            storage = Storage(length, item)
        self._push(storage)

    def _tensor(self, storage: Any, first: Any, sizes: Any, strides: Any, grad: Any, hooks: Any, *more: Any) -> Tensor:
        item = storage.item
        if more and isinstance(more[0], Global):  # _rebuild_tensor_v3: elements of a newer kind
            item, more = getattr(torch, more[0].name.removeprefix("torch.")).itemsize, more[1:]
        if not type(sizes) is type(strides) is tuple or not len(sizes) == len(strides) <= 25 or any(more) or hooks:
            raise NotPlain("a tensor of a special kind")
        numbers = (first, *sizes, *strides)
        if not all(type(number) is int and 0 <= number < 2**62 for number in numbers) or type(grad) is not bool:
            raise NotPlain("a tensor with a negative or strange size")
        count = prod(sizes)
        last = first + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) if count else -1
        # With a stride of 0 a number could stand for a million.
        if last * item >= storage.length * storage.item or count * item > storage.length * storage.item:
            raise NotPlain(f"a tensor of {list(sizes)} in a storage of {storage.length}")
        return Tensor(count * item)

    def _old_tensor(self, storage: Any, first: Any, sizes: Any, strides: Any) -> Tensor:
        return self._tensor(storage, first, sizes, strides, False, None)

    def _parameter(self, tensor: Any, grad: Any, hooks: Any) -> Tensor:
        if not isinstance(tensor, Tensor) or type(grad) is not bool or hooks:
            raise NotPlain("a parameter of a special kind")
        return tensor

    def _ordered(self, pairs: Any = ()) -> Ordered:
        self._spend(len(pairs))
        if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
            raise NotPlain("an OrderedDict of a special kind")
        return Ordered([(plain_key(key), value) for key, value in pairs])

    def _counter(self, counts: Any = ()) -> dict:
        self._spend(len(counts))
        if counts and type(counts) is not dict:
            raise NotPlain("a Counter of a special kind")
        return dict(counts)

    def _set(self, items: Any = ()) -> list:
        self._spend(len(items))
        return [plain_key(item) for item in items]

    def _sizes(self, sizes: Any) -> tuple:
        if type(sizes) is not tuple or not all(type(size) is int for size in sizes):
            raise NotPlain("a torch.Size of a special kind")
        self._spend(len(sizes))
        return sizes

    def _encoded(self, text: Any, encoding: Any) -> bytes:
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise NotPlain(f"bytes encoded as {encoding!r}"[:100])
        self._spend(1 + len(text) // 16)
        return text.encode("latin-1")

    def _plain(self, *args: Any) -> None:
        if not all(type(arg) in SCALARS for arg in args):
            raise NotPlain("a value of a special kind")


def _number(form: str, run: DryRun) -> Any:
    return struct.unpack(form, run._take(struct.calcsize(form)))[0]


def _constant(value: Any) -> Callable[[DryRun], None]:
    return lambda run: run._push(value)


# What torch's reader understands of pickle's instructions (see the standard library's pickletools).
_STEPS: Mapping[int, Callable[[DryRun], Any]] = {
    0x80: lambda run: run._take(1),  # PROTO
    ord("N"): _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    ord(")"): _constant(()),
    ord("]"): lambda run: run._push([]),
    ord("}"): lambda run: run._push({}),
    ord("K"): lambda run: run._push(_number("<B", run)),
    ord("M"): lambda run: run._push(_number("<H", run)),
    ord("J"): lambda run: run._push(_number("<i", run)),
    ord("G"): lambda run: run._push(_number(">d", run)),
    0x8A: lambda run: run._push(decode_long(run._take(_number("<B", run)))),
    ord("X"): lambda run: run._push(str(run._take(_number("<I", run)), "utf-8", "surrogatepass")),
    ord("U"): lambda run: run._push(str(run._take(_number("<B", run)), "utf-8", "surrogateescape")),
    ord("("): DryRun._mark,
    ord("t"): lambda run: run._push(tuple(run._pop_mark())),
    0x85: lambda run: run._tuple(1),
    0x86: lambda run: run._tuple(2),
    0x87: lambda run: run._tuple(3),
    ord("a"): lambda run: run._append([run._pop()]),
    ord("e"): lambda run: run._append(run._pop_mark()),
    ord("s"): lambda run: run._set_items([run.stack.pop(-2), run._pop()]),
    ord("u"): lambda run: run._set_items(run._pop_mark()),
    ord("q"): lambda run: run._put(_number("<B", run)),
    ord("r"): lambda run: run._put(_number("<I", run)),
    ord("h"): lambda run: run._push(run.memo[_number("<B", run)]),
    ord("j"): lambda run: run._push(run.memo[_number("<I", run)]),
    ord("c"): DryRun._global,
    ord("R"): DryRun._call,
    ord("b"): DryRun._build,
    ord("Q"): DryRun._storage,
}
_CALLS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": DryRun._old_tensor,
    "torch._utils._rebuild_tensor_v2": DryRun._tensor,
    "torch._utils._rebuild_tensor_v3": DryRun._tensor,
    "torch._utils._rebuild_parameter": DryRun._parameter,
    "collections.OrderedDict": DryRun._ordered,
    "collections.Counter": DryRun._counter,
    "builtins.set": DryRun._set,
    "__builtin__.set": DryRun._set,
    "torch.Size": DryRun._sizes,
    "torch.device": DryRun._plain,
    "builtins.complex": DryRun._plain,
    "__builtin__.complex": DryRun._plain,
    "_codecs.encode": DryRun._encoded,
}
