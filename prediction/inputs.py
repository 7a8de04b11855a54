"""The inputs of a prediction: which files are named, which are left out, and what the drawn ones are called."""

import glob
import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pytorch_lightning.utilities.exceptions import MisconfigurationException

from prediction import video
from prediction.files import FOLDERS, TABLES
from prediction.label_files import LABELS

PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff"),
    *(".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
)
ENDING = f".{'x' * 30}"  # room for those of further files: frame, number, suffix
LONGEST = 255  # bytes of a file's name, on every common file system


@dataclass(frozen=True)
class Input:
    """A file to predict on, what the drawn one is called below the output directory, and what further files of it are
    called in their folders, but for their endings."""

    path: Path
    drawn: str
    stem: str = ""

    @property
    def is_video(self) -> bool:
        return _is_video(self.path)


@dataclass
class Found:
    """The files to predict on, and what is not among them.

    left_out: how many, by kind in words. unreadable: folder -> why it could not be read.
    """

    inputs: list[Input] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    unreadable: dict[Path, str] = field(default_factory=dict)


def find_inputs(patterns: Sequence[str], output: Path) -> Found:
    """The files that paths, folders (all pictures in them, at any depth) and globs name, each once.

    Drawn files keep the structure below a folder or glob; those whose names would meet are numbered. What lies in the
    output directory is not read, so that a second run gives the same result.

    Raises:
        MisconfigurationException: a name that matches nothing; an input that a drawn picture or a table would
            overwrite; a link in the output directory through which one would be written elsewhere.
    """
    found = Found()
    named: dict[str, tuple[Path, str]] = {}
    for pattern in patterns:
        # By the folder's real place: a file is reached once, whatever links lead to its folder.
        own = {
            os.path.join(os.path.realpath(path.parent), path.name): (path, name)
            for path, name in _matches(pattern, output, found)
        }
        if not own:
            raise MisconfigurationException(_nothing_there(pattern, found))
        named = {**own, **named}
    files = sorted(named.values(), key=lambda row: (_is_video(row[0]), str(row[0])))
    names = _distinct([_drawn_name(path, name) for path, name in files])
    flat = [os.path.splitext(name)[0].replace(os.sep, "_") + ENDING for name in names]
    stems = (name.removesuffix(ENDING) for name in _distinct(flat))
    found.inputs = [Input(path, *own) for (path, _), *own in zip(files, names, stems, strict=True)]
    _check_targets(found.inputs, output)
    return found


def _check_targets(inputs: Sequence[Input], output: Path) -> None:
    """No input is where something will be written, by whatever name, and everything stays in the output directory."""
    places = {place: each.path for each in inputs for place in _places(each.path)}
    home = os.path.realpath(output)
    below = {os.path.dirname(each.drawn) for each in inputs}
    for folder in (*below, *FOLDERS, *LABELS):
        real = os.path.realpath(os.path.join(home, folder))
        if os.path.commonpath([home, real]) != home:
            raise MisconfigurationException(
                f"--output {output}: {os.path.join(output, folder)} is a link to {real}, out of that directory; remove "
                "it, or name another directory"
            )
    own = [os.path.join(home, folder) for folder in FOLDERS]
    for parent in {each.path.parent for each in inputs}:
        if any(os.path.commonpath([folder, os.path.realpath(parent)]) == folder for folder in own):
            raise MisconfigurationException(
                f"--output {output}: inputs in {parent} lie where labels and crops are written; name another directory"
            )
    for target in (*TABLES, *(each.drawn for each in inputs)):
        overwritten = next((places[each] for each in _places(output / target) if each in places), None)
        if overwritten is not None:
            raise MisconfigurationException(
                f"--output {output}: {overwritten} is an input and would be overwritten; name another directory"
            )


def _places(path: Path) -> set[tuple[int, int]]:
    """Device and inode of a file and of the link that it may be: the same for all names that a file has."""
    places = set()
    for look in (os.stat, os.lstat):
        try:
            status = look(path)
        except OSError:  # not there, or not any more
            continue
        places.add((status.st_dev, status.st_ino))
    return places


def _matches(pattern: str, output: Path, found: Found) -> Iterator[tuple[Path, str]]:
    """(path, name below the output directory) of what a path, folder or glob names."""
    if os.path.isdir(pattern):
        base, paths = Path(pattern), _pictures_below(Path(pattern), found)
    elif os.path.exists(pattern):  # before globs, since names may hold their characters
        yield Path(pattern), Path(pattern).name
        return
    else:
        base, paths = _fixed_part(pattern), _matched(pattern, found)
    own = os.path.realpath(output)
    for path in paths:
        inside = os.path.commonpath([own, os.path.realpath(path.parent)]) == own
        if inside and own != os.path.realpath(pattern):
            found.left_out["in the output directory"] += 1
        else:
            yield path, str(path.relative_to(base))


def _matched(pattern: str, found: Found) -> Iterator[Path]:
    """The pictures and videos that a glob reaches, and the pictures in folders that it does."""
    # The shortest name first, of those that links give to one file.
    for path in sorted(map(Path, glob.glob(pattern, recursive=True)), key=lambda path: (-len(path.parts), str(path))):
        if path.is_dir():
            # `**` names the folders below, too; their files come of themselves.
            yield from _pictures_below(path, found if "**" not in pattern else Found())
        elif _is_picture(path) or _is_video(path):
            if os.path.exists(path):
                yield path
            else:
                found.left_out["broken links"] += 1
        else:
            found.left_out["of other kinds"] += 1


def _pictures_below(top: Path, found: Found) -> Iterator[Path]:
    """Not hidden ones, which are thumbnails and other systems' notes, nor what links to folders lead to."""
    folders = [top]
    while folders:
        folder = folders.pop()
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            found.unreadable[folder] = f"{folder}: cannot be read ({error.strerror})"
            continue
        for path in (folder / name for name in names):
            if why := _why_left_out(path):
                found.left_out[why] += 1
            elif path.is_dir():
                folders.append(path)
            else:
                yield path


def _why_left_out(path: Path) -> str | None:
    """Why something in a folder is not predicted on; None for pictures and folders."""
    if path.name.startswith("."):
        return "hidden"
    if os.path.isdir(path):
        return "linked folders, unless named" if os.path.islink(path) else None
    if not _is_picture(path):
        return "videos, unless named or by a glob" if _is_video(path) else "of other kinds"
    if not os.path.exists(path):
        return "broken links"
    return None if os.path.isfile(path) else "no regular files"


def _fixed_part(pattern: str) -> Path:
    """The folder above the first part of a glob that has a wildcard."""
    parts = Path(pattern).parts
    first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts) - 1)
    return Path(*parts[:first])


def _drawn_name(path: Path, name: str) -> str:
    """JPEG stays JPEG, videos become MP4, everything else PNG. Never above the output directory, nor a table's name."""
    suffix = ".mp4" if _is_video(path) else path.suffix if path.suffix.lower() in (".jpg", ".jpeg") else ".png"
    first, *parts = [part for part in Path(name).parts if part != ".."]
    drawn = Path(f"{first}_" if _likeness(first) in (*TABLES, *FOLDERS) and parts else first, *parts)
    return str(drawn.with_name(os.path.splitext(drawn.name)[0] + suffix))


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, each of at most `LONGEST` bytes; those that came before, or that folders have, with a number: x.jpg,
    x_2.jpg. In any case and Unicode form: some file systems ignore these."""
    taken = {_likeness(str(folder)) for name in names for folder in Path(name).parents}
    last: dict[str, int] = {}
    result = []
    for name in names:
        stem, suffix = os.path.splitext(name)
        distinct = _fitting(stem, suffix)
        while _likeness(distinct) in taken:
            last[name.lower()] = last.get(name.lower(), 1) + 1
            distinct = _fitting(stem, f"_{last[name.lower()]}{suffix}")
        taken.add(_likeness(distinct))
        result.append(distinct)
    return result


def _fitting(stem: str, end: str) -> str:
    """stem + end; where that is too long for a file, the stem's end becomes a hash of it."""
    folder, own = os.path.split(stem)
    room = LONGEST - len(os.fsencode(end))
    if len(os.fsencode(own)) > room:
        digest = hashlib.blake2b(os.fsencode(own), digest_size=4).hexdigest()
        while len(os.fsencode(own)) > room - len(digest) - 1:
            own = own[:-1]
        own = f"{own}_{digest}"
    return os.path.join(folder, own + end)


def _likeness(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in video.SUFFIXES


def _nothing_there(pattern: str, found: Found) -> str:
    if Path(pattern) in found.unreadable:
        return found.unreadable[Path(pattern)]
    if os.path.isdir(pattern):
        return f"{pattern}: no picture in this folder ({' '.join(PICTURE_SUFFIXES)}). Videos are given by name or glob"
    if glob.has_magic(pattern):
        return f"{pattern}: no picture or video file matches"
    return f"{pattern}: no such file or folder"
