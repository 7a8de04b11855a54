"""Pictures of every mode and depth that Pillow reads -> 8-bit RGB, and which way up they are stored.

The same in training, evaluation, prediction and `coco.check`:

- grey, palette, CMYK, YCbCr and LAB become RGB; transparency is left out, unless the drawing is in it alone: then it is
  laid on white (a light one on black).
- One channel of more than 8 bits (integer or float): black is 0, and white the end of the smallest range that holds the
  picture: 1 (float alone), 255, 1023, 4095, 16383 or 65535. Where a value is negative or beyond, or the brightest of a
  float picture is below 1/16 of its range, the picture's own least and greatest value are black and white. What is not
  a number, or marked as no data, is black.
- Colour of 16 bits a channel: the upper 8, as Pillow has it. Where those hold (nearly) nothing, as of 12 bits of data,
  it is refused; 14 bits come out at a quarter of their light, since a dark picture of 16 bits looks no different.
- Pixels are as stored. EXIF orientation is another matter: see `orientation_of`.
"""

import math
from typing import Any

import numpy as np
from PIL import ExifTags, Image

RANGES = (255, 1023, 4095, 16383, 65535)  # of 8, 10, 12, 14 and 16 bits
DARK = 16  # a 16-bit colour picture that stays below this in 8 bits used 12 of its bits at most

# What turns a picture upright, by EXIF orientation (EXIF 2.3, tag 0x0112).
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = tuple(UPRIGHT[i] for i in (5, 6, 7, 8))  # that swap width and height
_AS_STORED = {**UPRIGHT, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}  # the way back
# TIFF tags
_WIDTH, _HEIGHT, _DEPTHS, _PHOTOMETRIC, _SAMPLE_FORMAT, _GDAL_NO_DATA = 256, 257, 258, 262, 339, 42113
_WHITE_IS_ZERO, _UNSIGNED = 0, 1
Opened = Any  # an Image.Image, with what the plug-in of its format adds (tag_v2, tile)


def orientation_of(picture: Image.Image) -> int:
    """EXIF's, of an opened picture; 1 (upright) where there is none.

    Ask of a TIFF before its pixels are loaded, which turns them; of others after that: in a PNG it may stand behind
    them, and what is wrong with the pixels would be taken for a broken EXIF block.
    """
    try:
        orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a broken EXIF block raises anything
        return 1
    return orientation if orientation in UPRIGHT else 1


def stored_size(picture: Opened) -> tuple[int, int]:
    """(width, height) of an opened picture as stored: Pillow gives a TIFF's as it will be turned."""
    return (picture.tag_v2[_WIDTH], picture.tag_v2[_HEIGHT]) if picture.format == "TIFF" else picture.size


def has_more_frames(picture: Image.Image) -> bool:
    """Whether an opened file holds more pictures (frames, pages) than the first."""
    try:
        return bool(getattr(picture, "is_animated", False))
    except Exception:  # whatever a broken second one raises
        return False


def to_rgb(picture: Image.Image) -> Image.Image:
    """An opened picture's pixels as stored, 8-bit RGB.

    Raises:
        ValueError: nothing could be seen in it. What Pillow's decoders raise.
    """
    size, deep = stored_size(picture), _is_deep(picture)
    turned = orientation_of(picture) if picture.format == "TIFF" else 1  # Pillow turns a TIFF when it decodes it
    picture.load()
    if picture.mode.startswith(("I", "F")):
        rgb = Image.fromarray(_grey_by_range(picture)).convert("RGB")
    else:
        rgb = _without_transparency(picture) if picture.has_transparency_data else picture.convert("RGB")
        if deep and max(high for _, high in _extrema(rgb)) < DARK:
            raise ValueError("of 16 bits a channel the upper ones are unused: it would be black; use them, or 8 bits")
    rgb = rgb.transpose(_AS_STORED[turned]) if turned in _AS_STORED else rgb
    if rgb.size != size:
        raise ValueError(f"{rgb.width}x{rgb.height} pixels came of {size[0]}x{size[1]}")
    return rgb


def _is_deep(picture: Opened) -> bool:
    """Whether the file has more than 8 bits a channel; before it is loaded."""
    if picture.format == "TIFF":
        return max(picture.tag_v2.get(_DEPTHS, (1,))) > 8
    if picture.format == "PNG":
        return any(";16" in str(args) for *_, args in picture.tile)
    maxima = [args[-1] for *_, args in picture.tile if isinstance(args, tuple)]
    return picture.format == "PPM" and any(isinstance(maximum, int) and maximum > 255 for maximum in maxima)


def _grey_by_range(picture: Image.Image) -> np.ndarray:
    """uint8 [H, W] of a loaded picture of one deep channel."""
    values, tags = np.asarray(picture), getattr(picture, "tag_v2", {})
    if picture.mode == "I" and tags.get(_SAMPLE_FORMAT, (0,))[0] == _UNSIGNED:
        values = values.view(np.uint32)  # Pillow reads them into signed ones
    is_float = values.dtype.kind == "f"
    values = values.astype(np.float64)
    values[~np.isfinite(values) | (values == _no_data(tags))] = np.nan
    if np.isnan(values).all():
        raise ValueError("none of its pixels is a number")
    black, white = _range(float(np.nanmin(values)), float(np.nanmax(values)), is_float)
    scaled = np.nan_to_num((values - black) * (255 / (white - black)), nan=0.0)
    grey = np.rint(scaled).clip(0, 255).astype(np.uint8)
    return 255 - grey if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else grey


def _range(least: float, greatest: float, is_float: bool) -> tuple[float, float]:
    """The values that become black and white."""
    ranges = (1, *RANGES) if is_float else RANGES
    white = next((end for end in ranges if greatest <= end), None)
    own = least < 0 or white is None or (is_float and greatest < white / 16)
    return (least, greatest) if own and least < greatest else (min(least, 0), white or max(greatest, 1))


def _no_data(tags: dict) -> float:
    """The value that GDAL's tag names; NaN, which equals none, without it."""
    try:
        return float(tags.get(_GDAL_NO_DATA, "nan").rstrip("\0 "))
    except (AttributeError, ValueError):
        return math.nan


def _without_transparency(picture: Image.Image) -> Image.Image:
    """Colours stay as they are, but where they are all one and only the transparency differs."""
    picture = picture.convert("RGBA")
    rgb, alpha = picture.convert("RGB"), picture.getchannel("A")
    one_colour = all(low == high for low, high in _extrema(rgb))
    if one_colour and len(set(alpha.getextrema())) > 1:
        light = sum(low for low, _ in _extrema(rgb)) > 3 * 127
        rgb = Image.composite(rgb, Image.new("RGB", rgb.size, "black" if light else "white"), alpha)
    return rgb


def _extrema(rgb: Opened) -> list[tuple[int, int]]:
    """Lowest and highest value of each channel."""
    return list(rgb.getextrema())
