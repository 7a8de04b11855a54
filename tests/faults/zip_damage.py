"""Other structures of the zip file that a checkpoint is: compressed, overlapping, renamed, repeated, lying parts."""

import io
import struct
import warnings
import zipfile
import zlib
from functools import cache
from random import Random

NUMBERS = [0, 1, 7, 30, 255, 2**16 - 1, 2**20, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]
ODD_NAMES = ["", "/", "..", "../x", "/etc/passwd", "archive", "archive/", "archive/DATA.PKL", "archive/data/0/", "a\0b"]
ODD_NAMES += ["x" * 65_000, "archive/../../x", "archive\\data.pkl", "é" * 300, "archive/data/99", "archive/code/x.py"]
ODD_NAMES += ["archive/constants.pkl", "archive/.data/serialization_id", "archive/byteorder", "archive/version"]
CODES = (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
# Fields of a part's entry in the directory and of its own header (PKWARE's APPNOTE, 4.3.12 and 4.3.7): place, format.
ENTRY = ((4, "<H"), (6, "<H"), (8, "<H"), (10, "<H"), (16, "<L"), (20, "<L"), (24, "<L"), (28, "<H"), (30, "<H"))
ENTRY += ((32, "<H"), (34, "<H"), (36, "<H"), (38, "<L"), (42, "<L"))
HEADER = ((4, "<H"), (6, "<H"), (8, "<H"), (14, "<L"), (18, "<L"), (22, "<L"), (26, "<H"), (28, "<H"))
END = ((4, "<H"), (6, "<H"), (8, "<H"), (10, "<H"), (12, "<L"), (16, "<L"), (20, "<H"))


def damaged_zip(rng: Random, data: bytes) -> bytes:
    """A checkpoint's zip file written anew in another way, or with other numbers in its headers."""
    if rng.random() < 0.5:
        data = _written_anew(rng, data)
    for _ in range(rng.choice((0, 1, 1, 2))):
        data = _other_number(rng, data)
    return data


def _written_anew(rng: Random, data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        parts = [(part.filename, source.read(part), zipfile.ZIP_STORED) for part in source.infolist()]
    at = rng.randrange(len(parts))
    name, content, code = parts[at]
    way = rng.randrange(9)
    if way == 0:
        parts[at] = name, content, rng.choice(CODES)
    elif way == 1:
        parts[at] = rng.choice(ODD_NAMES), content, code
    elif way == 2:
        parts.append((name, content, code))
    elif way == 3:
        parts.append((rng.choice(ODD_NAMES), rng.choice((b"", b"big", rng.randbytes(5000))), code))
    elif way == 4:
        del parts[at]
    elif way == 5:
        parts[at] = name, rng.choice((b"", content[:-1], content + b"\0", content * 3, bytes(10))), code
    elif way == 6:
        rng.shuffle(parts)
    elif way == 7:
        parts = [(name.replace("archive", rng.choice(ODD_NAMES) or "x"), *rest) for name, *rest in parts]
    else:
        parts += [(f"archive/data/{i}", b"", code) for i in range(100, 100 + rng.choice((10, 3000)))]
    target = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w") as file:
        warnings.simplefilter("ignore")
        for name, content, code in parts:
            file.writestr(zipfile.ZipInfo(name), content, code)
        if rng.random() < 0.1:
            file.comment = rng.choice((b"x", b"PK\5\6" + bytes(18), bytes(65_000)))
    whole = target.getvalue()
    return _with_bomb(whole) if rng.random() < 0.1 else whole


def _with_bomb(data: bytes) -> bytes:
    """With a part more: 100 MB of zeros, compressed."""
    target = io.BytesIO(data)
    with zipfile.ZipFile(target, "a") as file:
        info = zipfile.ZipInfo("archive/data/77")
        file.writestr(info, _zeros(), zipfile.ZIP_STORED)
        info.compress_type, info.file_size = zipfile.ZIP_DEFLATED, 100_000_000
    return target.getvalue()


@cache
def _zeros() -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(bytes(100_000_000)) + packer.flush()


def _other_number(rng: Random, data: bytes) -> bytes:
    """One field of an entry, a header or the end set to another number."""
    mark, fields = rng.choice(((b"PK\1\2", ENTRY), (b"PK\1\2", ENTRY), (b"PK\3\4", HEADER), (b"PK\5\6", END)))
    places = [at for at in range(len(data) - 46) if data[at : at + 4] == mark] or [max(0, len(data) - 22)]
    place, form = rng.choice(fields)
    at = rng.choice(places) + place
    size = struct.calcsize(form)
    old = int.from_bytes(data[at : at + size], "little")
    value = rng.choice((*NUMBERS, old + 1, old - 1, old ^ 1, old ^ 16, 2 * old)) % 2 ** (8 * size)
    return data[:at] + value.to_bytes(size, "little") + data[at + size :]
