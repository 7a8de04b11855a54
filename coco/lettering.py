"""Texts on pictures in every script: each letter in a font that has it, found on this machine or named in SSD_FONT.

Pillow's own font has little more than ASCII. Where no font has the letters of a class name, `drawable_names` gives the
category id in its place and says so, once. Nothing is fetched.
"""

import os
import sys
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from PIL import ImageDraw, ImageFont

FONT_VARIABLE = "SSD_FONT"
LONGEST_NAME = 60  # characters that are drawn
_PROBE = 16  # px, the size at which fonts are asked for their letters
_NO_LETTER = "\U0010fffd"  # private use: drawn as any letter that a font does not have
_SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
# Asked first: families with many scripts, and plain styles. The last resort has a box for everything.
_FIRST = (
    "dejavusans.",
    "notosanscjk",
    "notosanssc",
    "sourcehan",
    "wqy",
    "msyh",
    "pingfang",
    "hiragino",
    "arial unicode",
)
_STYLES = ("bold", "italic", "oblique", "light", "thin", "black", "condensed", "mono", "serif")
_NEVER = "lastresort"
_HOMES = {
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    "linux": ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts", "/mnt/c/Windows/Fonts"),
}

Font = Any  # an ImageFont.FreeTypeFont


@lru_cache(maxsize=32)
def drawable_names(class_names: tuple[str, ...], category_ids: tuple[int, ...]) -> tuple[str, ...]:
    """The names as they can be drawn; `id N` where a font for a name's letters is missing, which is warned of."""
    missing = [name for name in class_names if not _is_drawable(name)]
    if missing:
        shown = ", ".join(map(_plain, missing[:3])) + (" ..." if len(missing) > 3 else "")
        warnings.warn(
            f"no font here has the letters of {len(missing)} class name(s), {shown}: pictures show the category id. "
            f"Name a font file that has them in the environment variable {FONT_VARIABLE}, or install one",
            stacklevel=2,
        )
    names = (name if _is_drawable(name) else f"id {i}" for name, i in zip(class_names, category_ids, strict=True))
    return tuple(name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..." for name in names)


def text_size(text: str, size: int) -> tuple[int, int]:
    """Width and height in pixels of a text in letters of this size."""
    runs = _runs(text, size)
    width = sum(font.getlength(piece) for piece, font in runs)
    below = max([0, *(font.getbbox(piece, anchor="ls")[3] for piece, font in runs)])
    return round(width), _ascent(runs) + round(below)


def write(draw: ImageDraw.ImageDraw, left_top: tuple[float, float], text: str, size: int, fill: tuple) -> None:
    """Draws a text; its letters stand on one line, whatever fonts they come from."""
    runs = _runs(text, size)
    left, line = left_top[0], left_top[1] + _ascent(runs)
    for piece, font in runs:
        draw.text((left, line), piece, fill=fill, font=font, anchor="ls")
        left += font.getlength(piece)


def _runs(text: str, size: int) -> list[tuple[str, Font]]:
    """The text in pieces of one font; a letter that no font has becomes a question mark."""
    pieces: list[tuple[str, str | None]] = []
    for letter in _plain(text):
        if pieces and (not _is_visible(letter) or _has(pieces[-1][1], letter)):
            pieces[-1] = (pieces[-1][0] + letter, pieces[-1][1])
        else:
            file = _file_with(letter)
            pieces.append(("?", _file_with("?")) if file is None else (letter, file))
    return [(piece, _font(file, size)) for piece, file in pieces]


def _ascent(runs: Sequence[tuple[str, Font]]) -> int:
    return max([0, *(font.getmetrics()[0] for _, font in runs)])


def _is_drawable(text: str) -> bool:
    return all(_file_with(letter) is not None for letter in _plain(text))


def _plain(text: str) -> str:
    """On one line: what controls, reorders or is no character becomes a space, or nothing."""
    kinds = [(letter, unicodedata.category(letter)) for letter in text]
    joiners = "\u200c\u200d"
    return "".join(
        " " if kind in ("Cc", "Cs", "Zl", "Zp") else letter
        for letter, kind in kinds
        if kind != "Cf" or letter in joiners
    )


def _is_visible(letter: str) -> bool:
    return unicodedata.category(letter)[0] not in "ZC" and not unicodedata.name(letter, "").startswith("VARIATION SEL")


@cache
def _file_with(letter: str) -> str | None:
    """The first font file with a letter, "" for Pillow's own font; None where no font has it."""
    return next((file for file in _files() if _has(file, letter)), None)


@cache
def _has(file: str, letter: str) -> bool:
    if not _is_visible(letter):
        return True
    font = _probe(file)
    if font is None:
        return False
    drawn, box = (font.getmask(each) for each in (letter, _NO_LETTER))
    return (drawn.size, bytes(drawn)) != (box.size, bytes(box))


@cache
def _probe(file: str) -> Font | None:
    """None for what is no font, or has pictures in place of outlines."""
    try:
        return _font(file, _PROBE)
    except (OSError, ValueError):
        return None


@lru_cache(maxsize=64)
def _font(file: str, size: int) -> Font:
    return ImageFont.truetype(file, size) if file else ImageFont.load_default(size)


@lru_cache(maxsize=1)
def _files() -> tuple[str, ...]:
    """Font files in the order in which they are asked: the one named, Pillow's own, those of the system."""
    named = os.environ.get(FONT_VARIABLE)
    if named and _probe(named) is None:
        warnings.warn(f"{FONT_VARIABLE}={named}: no font file that can be read; it is left out", stacklevel=2)
        named = None
    return (*([named] if named else []), "", *sorted(_installed(), key=_rank))


def _installed() -> Iterator[str]:
    homes = _HOMES.get(sys.platform, (os.path.join(os.environ.get("WINDIR", ""), "Fonts"),))
    for home in homes:
        for folder, _, names in os.walk(os.path.expanduser(home)):
            fonts = (name for name in names if name.lower().endswith(_SUFFIXES) and _NEVER not in name.lower())
            yield from (str(Path(folder, name)) for name in fonts)


def _rank(file: str) -> tuple:
    name = os.path.basename(file).lower()
    first = next((i for i, start in enumerate(_FIRST) if start in name), len(_FIRST))
    return first, sum(style in name for style in _STYLES), file
