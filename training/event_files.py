"""TensorBoard's event files: what a run that goes on writes again is taken out, and what a kill cut off."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from coco.whole_files import replacing

PATTERN = "events.out.tfevents.*"
# A record: the length of its data, a checksum of that, the data, a checksum of the data.
LENGTH, CHECKSUM = struct.Struct("<Q"), 4
HEAD = LENGTH.size + CHECKSUM

Keeps = Callable[[int, float, str], bool]  # step, seconds since 1970, tag -> whether a value stays


def began_at(path: Path) -> float:
    """When the file was begun, in seconds since 1970; 0.0 where nothing in it can be read."""
    return next((event.wall_time for _, event in _records(path)), 0.0)


def mend(path: Path, keeps: Keeps) -> None:
    """Leaves in the file the whole records whose values `keeps` says stay; a file without any value goes."""
    kept, values = [], 0
    for record, event in _records(path):
        found = [keeps(event.step, event.wall_time, value.tag) for value in event.summary.value]
        if not found or any(found):
            kept.append(record)
            values += len(found)
    if not values:
        path.unlink()
    elif sum(map(len, kept)) != path.stat().st_size:
        with replacing(path) as file:
            file.writelines(kept)


def _records(path: Path) -> Iterator[tuple[bytes, Any]]:
    """Each record, with the event in it, up to the first that is not whole."""
    from google.protobuf.message import DecodeError  # here, since only a run that logs to TensorBoard needs them
    from tensorboard.compat.proto.event_pb2 import Event

    with open(path, "rb") as file:
        while len(head := file.read(HEAD)) == HEAD:
            (length,) = LENGTH.unpack_from(head)
            if not 0 < length <= path.stat().st_size:
                return
            body = file.read(length + CHECKSUM)
            if len(body) < length + CHECKSUM:
                return
            try:
                event = Event.FromString(body[:length])
            except DecodeError:
                return
            yield head + body, event
