"""Damages valid inputs: COCO jsons entry by entry, any file byte by byte, pictures by their headers as well.

Every function takes a `random.Random`, so a case is repeated by its seed.
"""

import copy
import io
import json
import struct
import zlib
from random import Random
from typing import Any

import numpy as np
from PIL import Image

# Stand for texts that json.dumps would not write.
DEEP, DIGITS, DOUBLED = "@deep@", "@digits@", "@doubled@"

PATHS = ["", ".", "..", "/", "../outside.jpg", "a/../../outside.jpg", "/etc/passwd", "C:/x.jpg", "..\\outside.jpg"]
PATHS += [
    "a\0.jpg",
    "./a.jpg",
    "a//b.jpg",
    "a/",
    "~/x.jpg",
    "x" * 300 + ".jpg",
    "d/" * 3000 + "x.jpg",
    "\u202egpj.a",
    "%2e%2e/x",
]
VALUES: list[Any] = [None, True, False, 0, -1, 1, 7, 1.5, 640.0, -0.0, 1e-320, 1e308, -1e308]
VALUES += [2**31 - 1, 2**31, -(2**31), 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 10**400, DIGITS]
VALUES += [float("nan"), float("inf"), float("-inf"), "", "1", "é", "\ud800", "\0", "x" * 100_000, DEEP, DOUBLED]
VALUES += [[], {}, [1], [0, 0, 1, 1], [[]], {"id": 1}, [None] * 4, *PATHS]
NUMBERS = [
    0,
    -0.0,
    -1,
    0.4,
    1e-7,
    1e-12,
    1e-320,
    1,
    5.5,
    63,
    1e5,
    1e16,
    1e300,
    -1e300,
    2**63,
    float("nan"),
    float("inf"),
]
TOKENS = [b"", b'"', b"{", b"}", b"[", b"]", b",", b":", b"-", b"0", b"1e999", b"NaN", b"-Infinity", b"null", b"true"]
TOKENS += [b"\\", b"\\ud800", b"\\u0000", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\0", b"..", b"/", b"\n", b'"id":1,']
TOKENS += [b'"bbox"', b"9" * 30, b"9" * 5000, b"[" * 2000, b'{"a":' * 2000, b"/*", b"//", b"'"]


def damaged_json(rng: Random, content: dict[str, Any]) -> bytes:
    """The text of `content` with one to three entries, keys or values changed; sometimes in another encoding."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice((_replace, _replace, _remove, _repeat, _swap, _rename, _scale, _set_box, _set_path, _refer))(
            rng, content
        )
    text = json.dumps(content, ensure_ascii=rng.random() < 0.5)
    text = text.replace(f'"{DEEP}"', "[" * 5000 + "]" * 5000).replace(f'"{DIGITS}"', "9" * 5000)
    text = text.replace(f'"{DOUBLED}"', '1, "id": 2, "file_name": "a.jpg", "id": 3')
    encoding = rng.choice(["utf-8"] * 18 + ["utf-16", "latin-1"])
    return text.encode(encoding, "surrogatepass" if encoding != "latin-1" else "replace")


def damaged_bytes(rng: Random, data: bytes, first: int | None = None) -> bytes:
    """One to five places of `data` changed, within its `first` bytes if given."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        end = max(1, min(len(data), first or len(data)))
        at, length = rng.randrange(end), rng.choice((1, 1, 2, 4, 16, 200))
        change = rng.randrange(8)
        if change == 0 and data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        elif change == 1:
            data[at : at + length] = rng.randbytes(length)
        elif change == 2:
            del data[at : at + length]
        elif change == 3:
            data[at:at] = rng.randbytes(length)
        elif change == 4:
            data[at:at] = data[at : at + 50 * length]
        elif change == 5:
            data[at : at + length] = bytes(length)
        elif change == 6:
            data[at : at + rng.choice((0, 1, length))] = rng.choice(TOKENS)
        else:
            del data[at:]
    return bytes(data)


def damaged_picture(rng: Random, sources: dict[str, bytes]) -> bytes:
    """A picture with changed bytes, two in one, one with other sides, or no picture."""
    data = sources[rng.choice(sorted(sources))]
    way = rng.choice(("header", "header", "anywhere", "anywhere", "cut", "sides", "spliced", "other", "whole"))
    if way == "header":
        data = damaged_bytes(rng, data, first=rng.choice((16, 64, 700)))
    elif way == "anywhere":
        data = damaged_bytes(rng, data)
    elif way == "cut":
        data = data[: rng.randrange(len(data))]
    elif way == "sides":
        data = with_other_sides(rng, data)
    elif way == "spliced":
        other = sources[rng.choice(sorted(sources))]
        data = data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]
    elif way == "other":
        data = rng.choice(
            (b"", b"\0" * 5000, b"hello", rng.randbytes(3000), b"GIF89a", b"\xff\xd8\xff", b"%!PS-Adobe-3.0")
        )
    return data


def with_other_sides(rng: Random, data: bytes) -> bytes:
    """A PNG, JPEG, BMP or GIF whose header gives other sides; the checksum is right."""
    width, height = (rng.choice((0, 1, 2, 299, 5000, 20_000, 65_535, 2**31 - 1, 2**32 - 1)) for _ in range(2))
    data = bytearray(data)
    if data.startswith(b"\x89PNG"):
        struct.pack_into(">II", data, 16, width, height)
        struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
    elif data.startswith(b"\xff\xd8"):
        frame = next((at for at in range(len(data) - 9) if data[at] == 0xFF and data[at + 1] in (0xC0, 0xC2)), 0)
        struct.pack_into(">HH", data, frame + 5, height % 2**16, width % 2**16)
    elif data.startswith(b"BM"):
        struct.pack_into("<II", data, 18, width, height)
    else:
        struct.pack_into("<HH", data, 6, width % 2**16, height % 2**16)
    return bytes(data)


def pictures(size: tuple[int, int]) -> dict[str, bytes]:
    """Small valid pictures by format and mode."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    colour = Image.fromarray(noise).resize(size, Image.Resampling.BILINEAR)
    grey16 = Image.fromarray(np.asarray(colour.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation

    def saved(picture: Image.Image, form: str, **options: Any) -> bytes:
        file = io.BytesIO()
        picture.save(file, form, **options)
        return file.getvalue()

    return {
        "JPEG": saved(colour, "JPEG"),
        "JPEG 4:4:4": saved(colour, "JPEG", subsampling=0, quality=95),
        "JPEG progressive": saved(colour, "JPEG", progressive=True),
        "JPEG EXIF": saved(colour, "JPEG", exif=exif),
        "JPEG grey": saved(colour.convert("L"), "JPEG"),
        "JPEG CMYK": saved(colour.convert("CMYK"), "JPEG"),
        "PNG": saved(colour, "PNG"),
        "PNG grey": saved(colour.convert("L"), "PNG"),
        "PNG palette": saved(colour.convert("P"), "PNG", transparency=3),
        "PNG alpha": saved(colour.convert("RGBA"), "PNG"),
        "PNG 1 bit": saved(colour.convert("1"), "PNG"),
        "PNG 16 bit": saved(grey16, "PNG"),
        "TIFF 16 bit": saved(grey16, "TIFF"),
        "TIFF CMYK": saved(colour.convert("CMYK"), "TIFF", compression="tiff_lzw"),
        "GIF": saved(colour.convert("P"), "GIF"),
        "BMP": saved(colour, "BMP"),
        "WEBP": saved(colour, "WEBP"),
        "PPM": saved(colour, "PPM"),
        "EPS": saved(colour, "EPS"),
    }


def bombs(size: tuple[int, int]) -> dict[str, bytes]:
    """Small files that would take much memory: a picture of 400 Mpixel, and 50 MB of text in one of this size."""
    sides = 20_000
    rows = zlib.compress(bytes(sides * (sides // 8 + 1)))
    text = _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))
    return {"PNG bomb": _png(sides, sides, rows, b""), "PNG text bomb": _png(*size, b"", text)}


def _png(width: int, height: int, data: bytes, more: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + more + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def places(content: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) below `content`."""
    own = list(content.items()) if isinstance(content, dict) else list(enumerate(content))
    found = [(content, key) for key, _ in own]
    for _, value in own:
        if isinstance(value, (dict, list)):
            found += places(value)
    return found


def _place(rng: Random, content: Any) -> tuple[Any, Any]:
    content.setdefault("images", [])  # so that there is one
    return rng.choice(places(content))


def _entry(rng: Random, content: Any, name: str) -> Any:
    entries = content.get(name)
    entry = rng.choice(entries) if isinstance(entries, list) and entries else None
    return entry if isinstance(entry, dict) else {}


def _replace(rng: Random, content: Any) -> None:
    container, key = _place(rng, content)
    container[key] = rng.choice(VALUES)


def _remove(rng: Random, content: Any) -> None:
    container, key = _place(rng, content)
    del container[key]


def _repeat(rng: Random, content: Any) -> None:
    lists = [value for value in content.values() if isinstance(value, list) and value]
    if lists:
        entries = rng.choice(lists)
        entries.extend(copy.deepcopy(rng.choice(entries)) for _ in range(rng.choice((1, 2, 3000))))


def _swap(rng: Random, content: Any) -> None:
    (one, key), (other, name) = _place(rng, content), _place(rng, content)
    one[key] = copy.deepcopy(other[name])


def _rename(rng: Random, content: Any) -> None:
    container, key = _place(rng, content)
    if isinstance(container, dict):
        container[rng.choice(("id", "bbox", "", key.upper(), key + "s"))] = container.pop(key)


def _scale(rng: Random, content: Any) -> None:
    numbers = [(c, k) for c, k in places(content) if type(c[k]) in (int, float) and abs(c[k]) < 1e300]
    if numbers:
        container, key = rng.choice(numbers)
        value = container[key]
        container[key] = rng.choice((-value, value * 1e9, value / 1e9, float(value), str(value), value + 1, [value]))


def _set_box(rng: Random, content: Any) -> None:
    _entry(rng, content, "annotations")["bbox"] = [rng.choice(NUMBERS) for _ in range(rng.choice((4, 4, 4, 4, 3, 5)))]


def _set_path(rng: Random, content: Any) -> None:
    _entry(rng, content, "images")["file_name"] = rng.choice(PATHS)


def _refer(rng: Random, content: Any) -> None:
    entry = _entry(rng, content, "annotations")
    entry[rng.choice(("image_id", "category_id", "id"))] = rng.choice((0, 1, 3, 10, 99, 2**62, -5))


CHANGES = (_replace, _replace, _remove, _repeat, _swap, _rename, _scale, _set_box, _set_path, _refer)
