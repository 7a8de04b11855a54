"""Cases of the input fuzz: pictures of every mode that Pillow has in every format that it writes, whole and damaged.

Each goes the way of training, evaluation, prediction and `coco.check`, which must agree on whether it can be used, and
on what is seen in it.
"""

import contextlib
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from coco.decoding import FORMATS, ImageError, decode, decode_upright
from coco.picture_modes import UPRIGHT
from prediction.detector import open_picture
from prediction.detector import prepare as network_input
from tests.faults.inputs import PICTURE, Violation, check_picture, expect, remove
from tests.faults.mutations import bombs, damaged_bytes, with_other_sides

FAMILIES = ("picture as Pillow writes it",) * 7 + ("picture damaged",) * 12 + ("picture in memory",)
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
MODES += ("I", "I;16", "I;16L", "I;16B", "I;16N", "F")
# What may become of these is not what was drawn: halves of a byte, levels that only mean something to their owner, or
# modes that are written as if they were others.
UNLIKE = ("1", "LAB", "HSV", "YCbCr", "RGBa", "La", "I;16N", "PA", "I", "F", "I;16L", "I;16B", "I;16")
INKS = ("JPEG2000", "CMYK")  # written as if the inks were light
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "TIFF": [{"compression": name} for name in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4")]
    + [{"big_tiff": True}, {"compression": "tiff_lzw", "tiffinfo": {317: 2}}, {"compression": "zstd"}],
    "PNG": [{}, {"optimize": True}, {"bits": 4}, {"bits": 1}, {"transparency": 0}, {"compress_level": 0}],
    "JPEG": [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}, {"quality": 1}, {"keep_rgb": True}],
    "WEBP": [{}, {"lossless": True}, {"quality": 1}],
    "GIF": [{}, {"interlace": 1}, {"transparency": 1}],
    "JPEG2000": [{}, {"irreversible": True}, {"num_resolutions": 1}, {"tile_size": (32, 32)}, {"no_jp2": True}],
    "PPM": [{}],
    "BMP": [{}],
}
MARKERS = [
    b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * 300,
    b"\xff\xd8\xff\xd9",
    b"\xff\xc4\x00\x02",
    b"\xff\xdd\0\4\0\1",
]
NUMBERS = (0, 1, 2, 255, 2**15, 2**16 - 1, 10**5, 2**31 - 1, 2**31, 2**32 - 1)


def prepare(root: Path, seed: int) -> dict[str, Any]:
    """What the cases are made from: one picture in every mode, and small files that would become large pictures."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (PICTURE[1] // 8, PICTURE[0] // 8, 3), dtype=np.uint8)
    colour = Image.fromarray(noise).resize(PICTURE, Image.Resampling.BILINEAR)
    can_write = {form: tuple(mode for mode in MODES if _written(in_mode(colour, mode), form)) for form in Image.SAVE}
    can_write = {form: modes for form, modes in can_write.items() if modes}
    return {"colour": colour, "can_write": can_write, "bombs": bombs(PICTURE)}


class PictureCase:
    """One picture in the data set at `root` / "data"; attributes as `inputs.InputCase`."""

    own_errors = (ImageError,)

    def __init__(self, family: str, rng: Random, root: Path, base: dict[str, Any]) -> None:
        self.rng, self.colour = rng, base["colour"]
        self.directory = root / "data" / "images"
        self.path = self.directory / "picture.jpg"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        (root / "data" / "annotations").mkdir(exist_ok=True)
        remove(self.path)
        self.orientation = rng.choice((1, 2, 3, 4, 5, 6, 7, 8))
        form = rng.choice(sorted(base["can_write"]) if rng.random() < 0.3 else [f for f in FORMATS if f != "EPS"])
        self.form, self.mode = form, rng.choice(base["can_write"][form])
        self.use: Callable[[], None] = self._use_file
        if family == "picture in memory":
            self.mode, self.use = rng.choice(MODES), self._use_memory
            return
        data = self._file()
        self.is_whole = family == "picture as Pillow writes it"
        if not self.is_whole:
            data = rng.choice(list(base["bombs"].values())) if rng.random() < 0.03 else damaged(rng, data, self.form)
        self.path.write_bytes(data)

    def _file(self) -> bytes:
        """A file as Pillow writes it; without the options where the mode does not go with them."""
        picture, exif = in_mode(self.colour, self.mode), Image.Exif()
        exif[0x0112] = self.orientation
        more = {} if self.orientation == 1 else {"exif": exif}
        options = self.rng.choice(OPTIONS.get(self.form, [{}]))
        if self.form in ("GIF", "WEBP", "PNG", "TIFF") and self.rng.random() < 0.15:
            options = {**options, "save_all": True, "append_images": [picture, picture]}
        for each in ({**options, **more}, options, {}):
            if data := _written(picture, self.form, **each):
                self.is_drawn = "bits" not in each  # which leaves out the colours that have more
                return data
        raise AssertionError(f"{self.form} of {self.mode} could be written before")

    def _use_file(self) -> None:
        try:
            stored = decode(self.path)
        except ImageError:
            with contextlib.suppress(ImageError):
                decode_upright(self.path)
                raise Violation("prediction takes what training refuses") from None
            raise
        size, turned = stored.size, None
        expect(stored.mode == "RGB" and min(size) > 0, f"{stored.mode} {size}")
        stored = stored if size == PICTURE else None  # a large one would stand beside those that are decoded next
        try:
            check_picture(self.path, size, self.rng.randrange(9))
            turned = decode_upright(self.path)[0]
        except ImageError as error:
            raise Violation(f"decoded, and then refused: {error}") from error
        expect(turned.mode == "RGB" and sorted(turned.size) == sorted(size), f"{turned.size} turned, {size} stored")
        expect(network_input(turned)["image"].shape == (300, 300, 3), "no input of the network")
        if self.is_whole and self.form in FORMATS and stored is not None:
            self._check_seen(stored, turned)

    def _check_seen(self, stored: Image.Image, turned: Image.Image) -> None:
        """The picture is the one that was drawn, and turned as its file says."""
        orientation = self.orientation if turned.tobytes() != stored.tobytes() else 1
        if orientation != 1:
            expect(stored.transpose(UPRIGHT[orientation]).tobytes() == turned.tobytes(), "turned another way")
        if self.mode not in UNLIKE and self.is_drawn and (self.form, self.mode) != INKS:
            expect(stored.size == PICTURE, f"{stored.size}, drawn as {PICTURE}")
            drawn, seen = (np.asarray(each.convert("L"), float).ravel() for each in (self.colour, stored))
            likeness = float(np.corrcoef(drawn, seen)[0, 1])
            expect(likeness > 0.5, f"{self.form} of {self.mode} is not what was drawn (correlation {likeness:.2f})")

    def _use_memory(self) -> None:
        """As `Detector` takes Pillow's pictures."""
        try:
            picture = open_picture(in_mode(self.colour, self.mode))
        except ValueError as error:
            raise ImageError(f"{self.path}: {error}") from None
        expect(network_input(picture)["image"].shape == (300, 300, 3), "no input of the network")


def in_mode(colour: Image.Image, mode: str) -> Image.Image:
    """The picture in any of Pillow's modes; where there is no conversion, its bytes read as if they were that."""
    grey = colour.convert("L")
    if mode in ("I;16", "I;16L", "I;16B", "I;16N"):
        values = np.asarray(grey).astype(np.uint16) * 257
        kind = {"I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
        return Image.frombytes(mode, grey.size, values.astype(kind).tobytes())
    if mode in ("PA", "La", "RGBa"):
        return colour.convert({"PA": "P", "La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    if mode == "LAB":
        return Image.frombytes("LAB", colour.size, colour.tobytes())
    return colour.convert(mode) if mode not in ("I", "F") else grey.convert(mode)


def damaged(rng: Random, data: bytes, form: str) -> bytes:
    """A file with changed bytes, mostly in its header; cut off; with other sides; with markers of its format more."""
    way = rng.choice(("header", "header", "header", "anywhere", "cut", "sides", "sides", "field", "field", "markers"))
    if way == "sides" and form in ("PNG", "JPEG", "MPO", "BMP", "GIF"):
        return with_other_sides(rng, data)
    if way == "markers" and form in ("JPEG", "MPO"):
        at = rng.randrange(len(data))
        return data[:at] + rng.choice(MARKERS) * rng.choice((1, 1, 40)) + data[at:]
    if way == "cut":
        return data[: rng.randrange(len(data))]
    if way in ("field", "sides") and form == "PNG":
        return _other_chunk(rng, data)
    if way in ("field", "sides"):
        return _other_number(rng, data, first=200 if form != "TIFF" or rng.random() < 0.5 else len(data))
    return damaged_bytes(rng, data, first=None if way == "anywhere" else rng.choice((16, 64, 300)))


def _other_number(rng: Random, data: bytes, first: int) -> bytes:
    """A number of two or four bytes, of either order, written over what stands there."""
    form = rng.choice(("<H", ">H", "<L", ">L"))
    size = struct.calcsize(form)
    at = rng.randrange(max(1, min(first, len(data)) - size)) // 2 * 2
    return data[:at] + struct.pack(form, rng.choice(NUMBERS) % 2 ** (8 * size)) + data[at + size :]


def _other_chunk(rng: Random, data: bytes) -> bytes:
    """A chunk of a PNG changed, doubled, dropped or added; its checksum is right."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        length = struct.unpack_from(">I", data, at)[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    at = rng.randrange(len(chunks))
    kind, content = chunks[at]
    change = rng.randrange(4)
    if change == 0:
        chunks[at] = kind, damaged_bytes(rng, content or b"\0")
    elif change == 1:
        chunks[at:at] = [chunks[at]] * rng.choice((1, 2, 500))
    elif change == 2:
        del chunks[at]
    else:
        name = rng.choice(
            (b"tRNS", b"PLTE", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"gAMA", b"zTXt", b"sBIT", b"\0\0\0\0")
        )
        chunks.insert(
            at, (name, rng.choice((b"", rng.randbytes(20), content[:50], b"a\0\0" + zlib.compress(bytes(10**6)))))
        )
    pieces = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return data[:8] + b"".join(pieces)


def _written(picture: Image.Image, form: str, **options: Any) -> bytes:
    """Empty where Pillow does not write this."""
    file = io.BytesIO()
    try:
        picture.save(file, form, **options)
    except Exception:  # whatever a format that cannot hold the mode or the option raises
        return b""
    return file.getvalue()
