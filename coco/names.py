"""Names of files and classes that look alike and are not: found, told apart in messages, made unique."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable

EXAMPLES = 5


def shown(name: str) -> str:
    """The name for a message; with its code points where the letters alone do not say which name it is."""
    plain = name.isascii() and name.isprintable() and name == " ".join(name.split())
    return name if plain else f"{name} ({name!a})"


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
    """The name, or name_tie where it is taken, or one is that a file system may take for the same.

    Args:
        tie: differs for each. taken: of the calls before, by likeness; the result is added.
    """
    name = shortened(name)
    if likeness(name) in taken:
        name = f"{name}_{tie}"
    while likeness(name) in taken:
        name += "_"
    taken.add(likeness(name))
    return name


def shortened(name: str, most: int = 200) -> str:
    """The beginning of a name, of at most so many bytes: file systems allow 255 with what is added to it."""
    return name.encode()[:most].decode(errors="ignore")


def told_apart(pairs: list[tuple[str, str]]) -> str:
    """A sentence on look-alikes, empty if there are none; begins with a space."""
    if not pairs:
        return ""
    told = "; ".join(f"{one!a} is not {other!a} ({difference(one, other)})" for one, other in pairs[:EXAMPLES])
    more = f"; and {len(pairs) - EXAMPLES} more" if len(pairs) > EXAMPLES else ""
    return f" Names that look alike differ: {told}{more}. Write them the same."


def _form(name: str) -> str:
    return next((form for form in ("NFC", "NFD") if unicodedata.is_normalized(form, name)), "neither NFC nor NFD")
