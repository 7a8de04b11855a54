"""Names of files and classes are data: told apart where they look alike, made unique, and instructions in no output.

Whoever made a data set or a checkpoint chose them. A terminal, a spreadsheet and a file system each obey some
characters: `plain`, `cell` and `for_file` are a name as each of them only shows it.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

EXAMPLES = 5
# Control characters but \n and \t, what ends a line or turns its direction, and halves of characters.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_NOT_IN_FILE_NAMES = re.compile(rf'{_CONTROL.pattern}|[\n\t/\\\\:*?"<>|]')
_FORMULA = re.compile(r"\s*[=+\-@]|[\t\r\n]")


def plain(text: str, lines: bool = False) -> str:
    """The text without anything that a terminal obeys: such characters are written as in Python's strings.

    Args:
        lines: \\n and \\t stay.
    """
    text = _CONTROL.sub(lambda found: f"{found[0]!a}"[1:-1], text)
    return text if lines else text.replace("\n", "\\n").replace("\t", "\\t")


def cell(value: Any) -> Any:
    """A value for a CSV file: a text that a spreadsheet would compute begins with an apostrophe instead."""
    if not isinstance(value, str):
        return value
    # Wide and small forms of these signs too: what imports a table may make plain ones of them.
    return f"'{plain(value)}" if _FORMULA.match(unicodedata.normalize("NFKC", value)) else plain(value)


def for_file(name: str) -> str:
    """The name as (part of) a file's name, on every file system and within its directory."""
    return shortened(_NOT_IN_FILE_NAMES.sub("_", name))


def shown(name: str) -> str:
    """The name for a message; with its code points where the letters alone do not say which name it is."""
    if name.isascii() and name.isprintable() and name == " ".join(name.split()):
        return name
    return f"{name} ({name!a})" if name == plain(name) else ascii(name)


def likeness(name: str) -> str:
    """What is left of a name without case, Unicode form, spaces and invisible characters; equal for look-alikes."""
    letters = unicodedata.normalize("NFKC", name).casefold()
    kept = "".join(c for c in letters if not c.isspace() and unicodedata.category(c) not in ("Cf", "Cc"))
    return unicodedata.normalize("NFKC", kept)


def difference(one: str, other: str) -> str:
    """Why two names of equal `likeness` are not the same, in words."""
    if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other):
        return f"Unicode form {_form(one)} against {_form(other)}"
    if one.lower() == other.lower():
        return "upper and lower case"
    if "".join(one.split()) == "".join(other.split()):
        return "spaces"
    return "characters that look alike or cannot be seen"


def look_alikes(names: Iterable[str], others: Iterable[str]) -> list[tuple[str, str]]:
    """(name, other) for each of `names` that is not among the others, but looks like one of them."""
    others = set(others)
    by_likeness = {likeness(other): other for other in sorted(others, reverse=True)}
    missing = (name for name in names if name not in others)
    return [(name, by_likeness[likeness(name)]) for name in missing if likeness(name) in by_likeness]


def repeated(names: Iterable[str]) -> list[list[str]]:
    """The groups of names that are the same, or look alike, among all of `names`."""
    groups = defaultdict(list)
    for name in names:
        groups[likeness(name)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def unique(name: str, tie: str, taken: set[str]) -> str:
    """The name as `for_file`, or name_tie where it is taken, or one is that a file system may take for the same.

    Args:
        tie: differs for each. taken: of the calls before, by likeness; the result is added.
    """
    name = for_file(name)
    if likeness(name) in taken:
        name = f"{name}_{tie}"
    while likeness(name) in taken:
        name += "_"
    taken.add(likeness(name))
    return name


def shortened(name: str, most: int = 200) -> str:
    """The beginning of a name, of at most so many bytes: file systems allow 255 with what is added to it. Halves
    of characters become `?`."""
    return name.encode(errors="replace")[:most].decode(errors="ignore")


def told_apart(pairs: list[tuple[str, str]]) -> str:
    """A sentence on look-alikes, empty if there are none; begins with a space."""
    if not pairs:
        return ""
    told = "; ".join(f"{one!a} is not {other!a} ({difference(one, other)})" for one, other in pairs[:EXAMPLES])
    more = f"; and {len(pairs) - EXAMPLES} more" if len(pairs) > EXAMPLES else ""
    return f" Names that look alike differ: {told}{more}. Write them the same."


def _form(name: str) -> str:
    return next((form for form in ("NFC", "NFD") if unicodedata.is_normalized(form, name)), "neither NFC nor NFD")
