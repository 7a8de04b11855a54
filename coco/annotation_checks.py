"""What one image, category or annotation of a COCO json must be, and exact words for what is wrong with it.
Every refusal becomes an `AnnotationError`: the file, the entry, what was found, what to do.

The structs are the fast way: msgspec decodes straight into them. The functions are the slow way, for an entry that does
not fit: they accept what is harmless (640.0 for 640, true for 1, null for nothing) and otherwise raise a `Fault`.
"""

import math
import re
import reprlib
from typing import Annotated, Any

import msgspec
from msgspec import Meta

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
MAX_SIDE = 2**31 - 1
# A name that is empty, absolute, has a backslash or a NUL, or climbs out of the image directory.
UNSAFE_NAME = re.compile(r"\A\Z|\A/|\A[A-Za-z]:/|[\\\0]|(?:\A|/)\.\.(?:/|\Z)")

Int64 = Annotated[int, Meta(ge=INT64_MIN, le=INT64_MAX)]
Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]


class AnnotationError(ValueError):
    """An annotation file that cannot be used: which file, what was found, where, and what to do."""


class Fault(Exception):
    """What is wrong with one entry."""


class Image(msgspec.Struct, gc=False):
    id: Int64
    file_name: str
    width: Side
    height: Side


class Category(msgspec.Struct, gc=False):
    id: Int64
    name: str


class Annotation(msgspec.Struct, gc=False):
    image_id: Int64
    category_id: Int64
    bbox: tuple[float, float, float, float]
    area: Annotated[float, Meta(ge=0)] = math.nan  # NaN stands for "not given"; JSON cannot say NaN
    iscrowd: Annotated[int, Meta(ge=0, le=1)] = 0


def exact_image(entry: dict) -> Image:
    return Image(
        id=_integer(entry, "id"),
        file_name=_text(entry, "file_name"),
        width=_integer(entry, "width", 1, MAX_SIDE),
        height=_integer(entry, "height", 1, MAX_SIDE),
    )


def exact_category(entry: dict) -> Category:
    return Category(id=_integer(entry, "id"), name=_text(entry, "name"))


def exact_annotation(entry: dict) -> Annotation:
    bbox, area, iscrowd = entry.get("bbox"), entry.get("area"), entry.get("iscrowd")
    if "bbox" not in entry:
        raise Fault('has no "bbox"; expected [x, y, width, height] in pixels')
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(map(_is_finite, bbox))):
        raise Fault(f"bbox is {short(bbox)}; expected [x, y, width, height], four finite numbers in pixels")
    if area is not None and not (_is_finite(area) and area >= 0):
        raise Fault(f"area is {short(area)}; expected a finite number of pixels, 0 or more, or no area at all")
    if iscrowd is not None and iscrowd not in (0, 1):
        raise Fault(f"iscrowd is {short(iscrowd)}; expected 0 or 1, or no iscrowd at all")
    return Annotation(
        image_id=_integer(entry, "image_id"),
        category_id=_integer(entry, "category_id"),
        bbox=(float(bbox[0]), float(bbox[1]), float(bbox[2]), float(bbox[3])),
        area=math.nan if area is None else float(area),
        iscrowd=int(iscrowd or 0),
    )


def _integer(entry: dict, key: str, low: int = INT64_MIN, high: int = INT64_MAX) -> int:
    if key not in entry:
        raise Fault(f'has no "{key}"')
    value = entry[key]
    if isinstance(value, float) and value.is_integer():  # some exporters write 640.0
        value = int(value)
    if isinstance(value, str):
        raise Fault(f'{key} is the text {short(value)}; expected an integer, written without quotes: "{key}": 123')
    if isinstance(value, bool) or not isinstance(value, int):
        raise Fault(f"{key} is {short(value)}; expected an integer")
    if not low <= value <= high:
        raise Fault(f"{key} is {short(value)}; expected an integer from {low} to {high}")
    return value


def _text(entry: dict, key: str) -> str:
    if key not in entry:
        raise Fault(f'has no "{key}"')
    value = entry[key]
    if not isinstance(value, str):
        raise Fault(f"{key} is {short(value)}; expected a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Fault(f"{key} is {short(value)}, which is not valid Unicode") from None
    return value


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond float64
        return False


def short(value: Any) -> str:
    return reprlib.repr(value)
