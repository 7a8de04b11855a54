"""Picture files -> RGB pixels, by Pillow; JPEGs also by a faster decoder, which accepts the same files.

Policy for every file, whichever decoder reads it: pictures of every mode and depth become RGB as coco/picture_modes.py
says; EXIF orientation is ignored in every format, as the published recipe and COCO's own tools do, unless a caller asks
for upright pictures; of several frames
the first is taken; more than twice Pillow's `Image.MAX_IMAGE_PIXELS` is refused before anything is decoded, as
is what would take far longer than its size (coco/picture_limits.py).
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import torch
from PIL import Image, UnidentifiedImageError

from coco.picture_limits import check_file_size, check_jpeg, check_pixels
from coco.picture_modes import SIDEWAYS, UPRIGHT, has_more_frames, orientation_of, stored_size, to_rgb

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

INPUT_SIZE = 300  # px, the side of the network's square input; every picture is resized to it
GREY = (124, 116, 104)  # around a picture that was zoomed out: ImageNet's mean, near 0 when normalised
# Formats of Pillow's that are decoded; not all, since for some (EPS) it would start another program on the file.
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
JPEGS = ("JPEG", "MPO")  # as Pillow names them; an MPO is a JPEG with others behind it
DECODERS = ("auto", "simplejpeg", "pillow")


class ImageError(RuntimeError):
    """A picture that cannot be used; the message names the file."""

    def __init__(self, message: str) -> None:
        # From a loader's worker an error arrives as the text of its traceback; its last part is the message.
        super().__init__(message.rpartition("ImageError: ")[2].strip())


class DamagedImageError(ImageError):
    """The file was read, but its content cannot be used: no picture, cut off, too large, or of the wrong size."""


def decoder_name(decoder: str = "auto") -> str:
    """Which decoder a choice of `DECODERS` stands for here, with its version: part of what makes a run repeatable.

    Raises:
        ImageError: an unknown choice, or simplejpeg where it is not installed.
    """
    if decoder not in DECODERS:
        raise ImageError(f"--data.decoder {decoder}: expected one of {', '.join(DECODERS)}")
    if decoder == "simplejpeg" and simplejpeg is None:
        raise ImageError("--data.decoder simplejpeg: not installed; pip install simplejpeg, or use auto or pillow")
    return f"simplejpeg {simplejpeg.__version__}" if _is_fast(decoder) else f"Pillow {PIL.__version__}"


def decode(path: Path, upright: bool = False) -> Image.Image:
    """The whole picture, RGB, by Pillow: as stored, or turned upright as EXIF says.

    Raises:
        ImageError: missing or unreadable; DamagedImageError: see there.
    """
    with _opened(path) as (_, picture):
        return _turned(picture) if upright else to_rgb(picture)


def decode_upright(path: Path) -> tuple[Image.Image, bool]:
    """`decode` upright; and whether the file holds more frames than this first one.

    Raises:
        ImageError: as `decode`.
    """
    with _opened(path) as (_, picture):
        more_frames = has_more_frames(picture)
        return _turned(picture), more_frames


def orientation(path: Path) -> int:
    """EXIF's, 1 (upright) where there is none.

    Raises:
        ImageError: as `decode`.
    """
    with _opened(path) as (_, picture):
        return orientation_of(picture)


def decode_crop(
    path: Path,
    size: int,
    annotated_size: tuple[int, int],
    crop: tuple[int, int, int, int] | None = None,
    flip: bool = False,
    decoder: str = "auto",
    place: tuple[int, int, int, int] | None = None,
    upright: bool = False,
) -> np.ndarray:
    """A part of a picture, or all of it, resized with antialiasing: uint8 [size, size, 3], RGB.

    Pixels outside the crop have no influence. The decoders differ only in how the resize rounds: by at most 1 grey
    level, by less than 0.1 on average over pictures as they are trained on (0.2 where a small crop is enlarged).

    Args:
        annotated_size: (width, height) that the file must have, since boxes were drawn for it.
        crop: (left, top, right, bottom) in pixels.
        flip: mirrored, left to right.
        place: (left, top, right, bottom) of the result, where the crop goes, with grey around it; all by default.
        upright: turned as EXIF says, before anything else; size and crop are the upright picture's.

    Raises:
        ImageError: missing or unreadable; DamagedImageError: see there.
    """
    pixels = decode_pixels(path, annotated_size, decoder, upright)
    left, top, right, bottom = crop or (0, 0, *annotated_size)
    # Cropped first: resizing a part of the whole would blend in pixels from outside the crop.
    pixels = pixels[top:bottom, left:right]
    if place is None or place == (0, 0, size, size):
        return resize(pixels, (size, size), flip, decoder)
    left, top, right, bottom = place
    canvas = np.full((size, size, 3), GREY, np.uint8)
    canvas[top:bottom, left:right] = resize(pixels, (right - left, bottom - top), flip, decoder)
    return canvas


def decode_pixels(
    path: Path, annotated_size: tuple[int, int], decoder: str = "auto", upright: bool = False
) -> np.ndarray:
    """The whole picture, uint8 [H, W, 3], RGB. A part alone would not be decoded in less time: a JPEG's rows depend on
    those before. Arguments and errors are those of `decode_crop`."""
    with _opened(path) as (file, picture):
        turn = UPRIGHT.get(orientation_of(picture)) if upright else None
        stored = stored_size(picture)
        seen = stored[::-1] if turn in SIDEWAYS else stored
        if seen != annotated_size:
            raise DamagedImageError(f"{path}: {_other_size(picture, seen, annotated_size, upright)}")
        pixels = _decode_jpeg(file, picture) if _is_fast(decoder) else None
        if pixels is None:
            pixels = np.array(to_rgb(picture))
        return pixels if turn is None else np.array(Image.fromarray(pixels).transpose(turn))


def _turned(picture: Image.Image) -> Image.Image:
    # Of a TIFF the orientation is there before its pixels are loaded, of others behind them; see `orientation_of`.
    of_tiff = orientation_of(picture) if picture.format == "TIFF" else None
    rgb = to_rgb(picture)
    turn = UPRIGHT.get(of_tiff or orientation_of(picture))
    return rgb if turn is None else rgb.transpose(turn)


def take_turned(upright: bool) -> str:
    """What takes pictures the other way than now."""
    return f"--data.upright {'false' if upright else 'true'} takes it so"


def _other_size(picture: Image.Image, seen: tuple[int, int], annotated: tuple[int, int], upright: bool) -> str:
    """What to say of a picture that has not the size that its annotation says."""
    how = "" if seen == picture.size else " as stored" if not upright else " when upright"
    told = f"{seen[0]}x{seen[1]} pixels{how}, but {annotated[0]}x{annotated[1]} in its annotation"
    if seen == annotated[::-1] and UPRIGHT.get(orientation_of(picture)) in SIDEWAYS:
        told += ", which is that of the picture turned by its EXIF orientation" if not upright else ", as it is stored"
        return f"{told}; {take_turned(upright)}"
    return f"{told}, so its boxes would be wrong. Correct the annotation or the file"


def resize(pixels: np.ndarray, size: tuple[int, int], flip: bool = False, decoder: str = "auto") -> np.ndarray:
    """Bilinear with antialiasing, uint8 [H, W, 3] -> `size` (width, height): by Pillow, or its filter vectorised."""
    if not _is_fast(decoder):
        small = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
        return np.asarray(small.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else small)
    # Contiguous, and a batch of one in channels-last: only so does torch take its fast path for uint8. Writable, or
    # torch warns.
    image = torch.from_numpy(np.require(pixels, requirements=["C", "W"])[None]).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(image, size[::-1], mode="bilinear", antialias=True)
    if flip:
        resized = resized.flip(3)
    return resized[0].permute(1, 2, 0).numpy()


def _is_fast(decoder: str) -> bool:
    return decoder != "pillow" and simplejpeg is not None


def _decode_jpeg(file: BinaryIO, picture: Image.Image) -> np.ndarray | None:
    """uint8 [H, W, 3] of a file that Pillow knows as a grey or colour JPEG; None if Pillow should decode it.

    Pixels are Pillow's (the same library, the same settings). Where simplejpeg so much as warns, Pillow decides whether
    the file is good enough, so the same files are accepted.
    """
    if picture.format not in JPEGS or picture.mode not in ("RGB", "L"):
        return None
    file.seek(0)
    # A JPEG larger than its pixels has something else behind it, which need not be read.
    data = file.read(4 * picture.width * picture.height + 2**20)
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ValueError:
        return None
    return pixels if pixels.shape[1::-1] == picture.size else None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, Image.Image]]:
    """The file and the picture in it, of which only the header is read; whatever goes wrong names the file."""
    if not os.path.isfile(path):  # a pipe or a device would be waited for
        raise ImageError(f"{path}: no such image file")
    try:
        # From memory: there a reader cannot ask for more bytes than the file has, whatever its header claims.
        check_file_size(os.path.getsize(path))
        file = io.BytesIO(Path(path).read_bytes())
        with Image.open(file, formats=FORMATS) as picture:
            check_pixels(file.getbuffer().nbytes, *picture.size)
            if picture.format in JPEGS:
                check_jpeg(file.getvalue(), *picture.size)
            yield file, picture
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise DamagedImageError(
            f"{path}: not an image file in one of the formats {', '.join(FORMATS)}, or of a depth that is not read"
        ) from None
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
        if isinstance(error, OSError) and error.errno is not None:  # the disk, not the content
            raise ImageError(f"{path}: cannot be read ({error.strerror})") from None
        raise DamagedImageError(f"{path}: cannot be decoded ({error})") from None
