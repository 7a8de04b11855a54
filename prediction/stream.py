"""A camera or a network stream through PyAV: always the latest frame, however long the one before took."""

import contextlib
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from fractions import Fraction
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from PIL import Image

from checkpoints.download import shown
from prediction.video import VideoError, reason, upright

Item = TypeVar("Item")
PATIENCE = (15.0, 15.0)  # s, to connect, and without a frame
# Of a camera: FFmpeg's input device, and what the n-th camera is called there.
CAMERAS = {"linux": ("v4l2", "/dev/video{}"), "darwin": ("avfoundation", "{}"), "win32": ("dshow", "video={}")}


class Frame(NamedTuple):
    number: int  # from 0, of those that came
    time: Fraction  # s; rises from frame to frame
    picture: Callable[[], Image.Image]  # makes it: RGB, upright


class Latest(Generic[Item]):
    """Iterates over what another thread reads: each time the newest item. Items that were not fetched before the next
    came are dropped, so that nothing lags behind.

    Attributes:
        read, dropped: items so far.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self.read = self.dropped = 0
        self._changed = threading.Condition()
        self._newest: list[Item] = []  # one, or none
        self._ended = self._stopped = False
        self._error: Exception | None = None
        threading.Thread(target=self._run, args=(iter(items),), name="stream", daemon=True).start()

    def __iter__(self) -> Iterator[Item]:
        """Ends where the items do, or is closed; raises what reading them raised, after the last one."""
        while True:
            with self._changed:
                while not (self._newest or self._ended or self._stopped):
                    self._changed.wait(0.2)  # `close` notifies nobody
                if self._stopped or not self._newest:
                    break
                item = self._newest.pop()
            yield item
        if self._error is not None and not self._stopped:
            raise self._error

    def close(self) -> None:
        """Ends the iteration, and the reading after the item that is being read. May be called by a signal's handler,
        which must not wait for a lock."""
        self._stopped = True

    def _run(self, items: Iterator[Item]) -> None:
        try:
            for item in items:
                with self._changed:
                    self.read += 1
                    self.dropped += len(self._newest)
                    self._newest = [item]
                    self._changed.notify()
                if self._stopped:
                    break
        except Exception as error:
            self._error = error
        finally:
            if isinstance(items, Generator):
                items.close()
            with self._changed:
                self._ended = True
                self._changed.notify()


def open_stream(source: str, every: int = 1) -> Iterator[Frame]:
    """Every so-many-th frame of a stream as it comes; opened when this returns.

    Args:
        source: an address that FFmpeg knows (rtsp, http, udp, ...) or a camera: its number, or a device such as
            /dev/video0.

    Raises:
        VideoError: it cannot be opened or has no video, here; it breaks off, while it is iterated over.
    """
    import av

    name = shown(source)  # addresses of cameras hold passwords
    place, how = _opened_as(source)
    with contextlib.ExitStack() as opened:
        try:
            container = opened.enter_context(av.open(place, timeout=PATIENCE, **how))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise VideoError(f"--stream {name}: cannot be opened ({reason(error)})") from None
        if not container.streams.video:
            raise VideoError(f"--stream {name}: there is no video in it")
        return _frames(container, opened.pop_all(), name, every)


def _frames(container: Any, opened: contextlib.ExitStack, name: str, every: int) -> Iterator[Frame]:
    import av

    stream = container.streams.video[0]
    stream.thread_type = "SLICE"  # by frames it would hold back as many as there are threads
    step = 1 / Fraction(stream.average_rate or stream.guessed_rate or 25)
    number, time = 0, -step
    with opened:
        try:
            for frame in container.decode(stream):
                # Without times, or where they jump back, at the stated rate.
                own = Fraction(frame.pts * frame.time_base) if frame.pts is not None else time
                time = own if own > time else time + step
                if number % every == 0:
                    yield Frame(number, time, partial(upright, frame))
                number += 1
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise VideoError(f"--stream {name}: broke off after {number} frames ({reason(error)})") from None


def _opened_as(source: str) -> tuple[str, dict[str, Any]]:
    """What FFmpeg calls a source, and how it is opened."""
    kind, pattern = CAMERAS.get(sys.platform, CAMERAS["linux"])
    if source.isdecimal():
        return pattern.format(source), {"format": kind}
    if source.startswith("/dev/video"):
        return source, {"format": kind}
    # Over TCP no packet of a picture is lost; nothing is held back to even out times.
    return source, {"options": {"rtsp_transport": "tcp", "fflags": "nobuffer"} if source.startswith("rtsp") else {}}
