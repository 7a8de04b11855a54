"""The zip file that torch.save writes, looked through before torch opens it: whole, and no larger inside than outside.

torch writes parts as they are, one behind the other. A part that is compressed, overlaps another or has two names can
make gigabytes of a small file; torch would also read one with flipped bits as if nothing were wrong.
"""

import struct
import zipfile
import zlib
from pathlib import Path

MAX_PARTS = 100_000  # torch writes a part a tensor
MAX_DIRECTORY = 150 * MAX_PARTS  # bytes
MAX_NOTE = 4096  # bytes of a part that is neither the pickle nor a tensor
START = b"PK\x03\x04"  # by these torch takes a file for a zip file
# The ends of the central directory: of files over 4 GB, where to find that, and of all (PKWARE's APPNOTE, 4.3.14-16).
END_64, LOCATOR_64, END = struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL"), struct.Struct("<4s4H2LH")


class NotSane(ValueError):
    """The archive is damaged, or not as torch writes it; the message says where."""


def read_archive(path: Path, max_pickle: int) -> tuple[bytes, dict[str, int]]:
    """The pickle in the archive, and the bytes of each storage by its key; every byte was read and its sum checked.

    Raises:
        NotSane: see there. OSError: the disk.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        before = END_64.size + LOCATOR_64.size + END.size
        file.seek(max(0, size - before))
        start = _directory(file.read().rjust(before, b"\0"), size)
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            root = _check_parts(parts, archive.start_dir, start)
            pickle = archive.getinfo(f"{root}/data.pkl")
            if pickle.file_size > max_pickle:
                raise NotSane(f"more than {max_pickle // 2**20} MiB beside its tensors")
            if damaged := archive.testzip():
                raise NotSane(f"{damaged!r} was changed since it was written")
            storages = {part.filename.removeprefix(f"{root}/data/"): part.file_size for part in parts}
            return archive.read(pickle), storages
    except (zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError, KeyError) as error:
        raise NotSane(str(error)[:200]) from None
    except (EOFError, UnicodeDecodeError, OverflowError):
        raise NotSane("a directory that cannot be read") from None


def _directory(tail: bytes, size: int) -> int:
    """Where the central directory starts, which is as long as it may be: Python's reader makes an object of each part.

    Args:
        tail: the last bytes of the file, with room for all three ends.
    """
    end = END.unpack(tail[-END.size :])
    if end[0] != b"PK\5\6" or end[-1]:
        raise NotSane("cut off, or something was added behind its end")
    length, start, stop = end[5], end[6], size - END.size
    locator = LOCATOR_64.unpack(tail[END_64.size : -END.size])
    if locator[0] == b"PK\6\7":
        stop -= END_64.size + LOCATOR_64.size
        large = END_64.unpack(tail[: END_64.size])
        if large[0] != b"PK\6\6" or locator[2] != stop:
            raise NotSane("a directory without an end")
        length, start = large[8], large[9]
    if length > MAX_DIRECTORY or start + length != stop:
        raise NotSane("a directory that does not fit the file")
    return start


def _check_parts(parts: list[zipfile.ZipInfo], found: int, start: int) -> str:
    """The name of the folder that all parts lie in; raises NotSane for what torch would not have written."""
    if not parts or found != start:
        raise NotSane("no parts")
    root = parts[0].filename.partition("/")[0]
    names, stop = set(), start
    for part in sorted(parts, key=lambda part: -part.header_offset):
        name = part.filename
        if part.compress_type != zipfile.ZIP_STORED or part.file_size != part.compress_size:
            raise NotSane(f"{name!r} is compressed, which torch does not do")
        if part.flag_bits & 1 or part.external_attr & 0x10:
            # A part marked as a directory torch would not read at all, and give what happens to be in the memory.
            raise NotSane(f"{name!r} is encrypted or a directory")
        if not name.startswith(f"{root}/") or name.lower() in names:  # torch's reader takes a for A
            raise NotSane(f"{name!r} is there twice, or in another folder")
        # Its own header is 30 bytes, its name and, for alignment, something more.
        if part.header_offset + 30 + len(name) + part.file_size > stop:
            raise NotSane(f"{name!r} overlaps the next part")
        if part.file_size > MAX_NOTE and name != f"{root}/data.pkl" and not name.startswith(f"{root}/data/"):
            raise NotSane(f"{name!r} is too large")
        names.add(name.lower())
        stop = part.header_offset
    return root
