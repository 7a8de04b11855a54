"""Names that somebody could give to a class or a file: all of Unicode, and what terminals, tables and the like obey."""

import unicodedata
from functools import cache
from random import Random

# fmt: off
PIECES = [
    "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", '=HYPERLINK("http://h")', "'", '"', '""', ",", ";", "a,b", "\r\n", "\n=1",
    "![x](http://h/t.png)", "[a](javascript:alert(1))", "<img src=x onerror=alert(1)>", "<script>", "&lt;", "`a`",
    "**a**", "# a", "\n# a", "| a |", "---", "1. a", "https://h", "www.h.org", "$\\frac{a}{b}$", "$", "$$", "\\alpha",
    "$x_{$", "^_", "\\", "%s", "%n", "{0}", "{x.__class__}", "{", "}", "%(a)s", "$(touch x)", "`touch x`",
    "; rm -rf .", "\x1b[2J", "\x1b]0;owned\x07", "\x1b]8;;http://h\x07", "\x9b2J", "\x08\x08", "\r", "\x7f", "\x00",
    "\x0b", "\x0c", "\u202egpj.", "\u2066", "\u2067", "\u200f", "\u200b", "\ufeff", "\u2028", "\u2029", "\x85",
    "\xa0", "\xad", "e\u0301", "\xe9",
    "\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301\u0301",
    "\u0489", "\U0001f469\u200d\U0001f680", "\U0001f1e9\U0001f1ea", "\ufe0f", "\U000e0041", "\u72ac",
    "\u05e9\u05dc\u05d5\u05dd", "\u0627\u0644\u0633\u0644\u0627\u0645", "\u0939\u093f\u0928\u094d\u0926\u0940",
    "\u0e44\u0e17\u0e22", "\ud55c\uae00", "\xdf", "\u0130", "\u0131", "\ufb01", "K", "\u1fb3", "\U0001d538",
    "\uff1d1", "\uff20", "\ud800", "\udc80", "\udfff", "\ufffe", "\uffff", "\U0010ffff", "\U000f0000", "\ufffd",
    "\ue000", "\u115f", "\u3164", "*", "?", "[a]", "[!a]*", "**", "~", "~root", "//", ":", "C:", "\\\\h\\s", "|", "<",
    ">", " ", "  ", ".", "..", "/",
]
WHOLE = [
    "", " ", ".", "..", "...", "-", "--", "--help", "-rf", "~", "CON", "con.jpg", "NUL", "AUX.txt", "COM1", "LPT1",
    "None", "null", "true", "nan", "NaN", "0", "-0", "1e999", "__class__", "background", "all", "name:cat", "id:3",
    "cat,dog", "a/b/c", "images.json", "detections.csv", "DETECTIONS.JSON", "index.md", "Thumbs.db", "cat", "Cat",
    "CAT", "cat ", "caf\xe9", "cafe\u0301", "../x", "a/../../x", "/etc/passwd", "a//b", "./a", "a/", "x\x00y",
    "file://h/x", "http://h/x", "%2e%2e%2f",
]
# fmt: on


def odd_name(rng: Random, most_bytes: int = 1000) -> str:
    """Any text: one with a history, pieces that mean something to somebody, or letters of all of Unicode."""
    way = rng.randrange(10)
    if way == 0:
        return rng.choice(WHOLE)
    if way < 5:
        parts = [rng.choice((*PIECES, "cat", "x", "_")) for _ in range(rng.choice((1, 1, 2, 3, 8)))]
    elif way < 8:
        parts = [any_letter(rng) for _ in range(rng.choice((1, 2, 5, 20, 60)))]
    elif way == 8:
        letter = any_letter(rng)
        parts = [letter] * (rng.choice((255, most_bytes)) // max(1, len(letter.encode(errors="surrogatepass"))))
    else:
        parts = [chr(rng.choice((*range(32), *range(127, 160)))) for _ in range(rng.choice((1, 3, 30)))]
    if rng.random() < 0.2:
        rng.shuffle(parts)
        parts.insert(0, rng.choice(("a", " ", "1", "犬")))
    return (
        "".join(parts).encode(errors="surrogatepass")[:most_bytes].decode(errors="ignore")
        if rng.random() < 0.5
        else "".join(parts)
    )


def any_letter(rng: Random) -> str:
    """One of Unicode's code points: any, or any of one category, so that the small categories are there too."""
    if rng.random() < 0.3:
        return chr(rng.randrange(0x110000))
    return rng.choice(_by_category()[rng.choice(sorted(_by_category()))])


def odd_file_name(rng: Random) -> bytes:
    """Bytes that a file of this system can be called; at times no UTF-8, often 255 of them."""
    name = odd_name(rng, 255).encode(errors="surrogatepass")
    if rng.random() < 0.15:
        at = rng.randrange(len(name) + 1)
        name = name[:at] + rng.choice((b"\xff", b"\x80", b"\xc3", b"\xf5\x80")) + name[at:]
    if rng.random() < 0.15:
        name += rng.choice((b"x", "é".encode(), b"\xe2\x80\xae")) * 255
    suffix = rng.choice((b".jpg", b".JPG", b".jpeg", b".png", b".tiff", b".webp", b"", b".jpg.png", b". jpg"))
    name = name.replace(b"\0", b"").replace(b"/", b"" if rng.random() < 0.5 else b"_")[: 255 - len(suffix)] + suffix
    return b"dots" + suffix if name in (b"", b".", b"..") else name


@cache
def _by_category() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for code in range(0x110000):
        found.setdefault(unicodedata.category(chr(code)), []).append(chr(code))
    return found
