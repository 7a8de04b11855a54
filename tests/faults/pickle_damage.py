"""Other instructions in the pickle of a checkpoint; the file around it stays as it should be."""

import io
import pickletools
import struct
import zipfile
from collections.abc import Callable
from random import Random

from tests.checkpoints.test_small_files import BOMBS

GLOBALS = [b"os system", b"builtins eval", b"builtins bytearray", b"builtins getattr", b"torch load", b"posix system"]
GLOBALS += [b"torch.storage _load_from_bytes", b"torch._utils _rebuild_sparse_tensor", b"torch FloatStorage"]
GLOBALS += [b"torch._utils _rebuild_qtensor", b"torch._utils _rebuild_meta_tensor_no_storage", b"torch Tensor"]
GLOBALS += [b"torch._utils _rebuild_tensor_v3", b"torch._utils _rebuild_parameter_with_state", b"torch float64"]
GLOBALS += [b"numpy._core.multiarray _reconstruct", b"collections deque", b"collections defaultdict", b"torch device"]
GLOBALS += [b"torch.serialization _get_layout", b"torch.nn.modules.linear Linear", b"functools partial", b"torch Size"]
GLOBALS += [b"torch._tensor _rebuild_from_type_v2", b"pathlib PosixPath", b"builtins set", b"builtins complex"]
GLOBALS += [b"torch.jit _load", b"torch.cuda FloatStorage", b"torch.storage UntypedStorage", b"_codecs encode", b" "]
NUMBERS = [0, 1, 255, 2**15, 2**31 - 1, -1, -(2**31), 10**6, 2**20]
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000"
TENSOR += b"X\x03\x00\x00\x00cpu%btQ%b%b%b\x89NtR"
STOP, PROTOCOL = b".", b"\x80\x02"


def damaged_pickle(rng: Random, pickle: bytes) -> bytes:
    """One to four of a pickle's instructions changed; or another pickle altogether."""
    if rng.random() < 0.1:
        return PROTOCOL + BOMBS[rng.choice(sorted(BOMBS))]
    if rng.random() < 0.1:
        return PROTOCOL + b"}X\x05\x00\x00\x00model" + _tensor(rng) + b"s" + STOP
    try:
        found = [(code.name, at) for code, _, at in pickletools.genops(pickle)]
    except ValueError:
        return rng.randbytes(40)
    ends = [at for _, at in found[1:]] + [len(pickle)]
    steps = [pickle[at:end] for (_, at), end in zip(found, ends, strict=True)]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(steps))
        change = rng.randrange(8)
        if change == 0:
            del steps[at]
        elif change == 1:
            steps.insert(at, steps[rng.randrange(len(steps))])
        elif change == 2:
            other = rng.randrange(len(steps))
            steps[at], steps[other] = steps[other], steps[at]
        elif change == 3:
            steps.insert(
                at, bytes([rng.randrange(256)]) + rng.choice((b"", b"\0", b"\1\0\0\0", b"1\n", rng.randbytes(4)))
            )
        elif change == 4:
            _put(rng, steps, (b"c",), b"c" + rng.choice(GLOBALS).replace(b" ", b"\n") + b"\n")
        elif change == 5:
            _put(rng, steps, (b"K", b"M", b"J"), b"J" + struct.pack("<i", rng.choice(NUMBERS)))
        elif change == 6:
            _put(rng, steps, (b"q", b"r", b"h", b"j"), rng.choice((b"j", b"r")) + rng.randbytes(4))
        else:
            steps[at:at] = [rng.choice(steps)] * rng.choice((2, 100, 5000))
        if not steps:
            break
    return b"".join(steps)


def with_pickle(rng: Random, data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A file of torch.save's with its pickle changed: the one in a zip file, one of the five in an older file."""
    if data.startswith(b"PK"):
        target = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(target, "w") as file:
            for part in source.infolist():
                content = source.read(part)
                file.writestr(part.filename, change(content) if part.filename.endswith("data.pkl") else content)
        return target.getvalue()
    stream, ends = io.BytesIO(data), [0]
    for _ in range(5):
        for _ in pickletools.genops(stream):
            pass
        ends.append(stream.tell())
    which = rng.choice((0, 1, 2, 3, 3, 3, 3, 4))
    start, end = ends[which], ends[which + 1]
    return data[:start] + change(data[start:end]) + data[end:]


def _put(rng: Random, steps: list[bytes], codes: tuple[bytes, ...], step: bytes) -> None:
    """The step in the place of one of these instructions, or of any where there is none."""
    places = [i for i, old in enumerate(steps) if old[:1] in codes] or range(len(steps))
    steps[rng.choice(places)] = step


def _tensor(rng: Random) -> bytes:
    """The instructions for a tensor of any shape in storage "0"."""

    def number() -> bytes:
        value = rng.choice((0, 1, 2, 4, 2**31 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64, -1, -(2**63)))
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)

    shape, strides = (b"(" + b"".join(number() for _ in range(rng.choice((0, 1, 2, 5, 30)))) + b"t" for _ in range(2))
    return TENSOR % (number(), number(), shape, strides)
