"""Video files through PyAV (FFmpeg's libraries): frames in, upright and with their times; frames out as H.264 in MP4.

PyAV is optional (`pip install av`): it is imported when a video is opened, and `require` says how to get it.
"""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from coco.whole_files import replacing

SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".wmv", ".flv", ".3gp")
# What a file may be, whatever its name: containers, but no list of other files or addresses (HLS, concat, SDP ...).
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,asf,flv,ogg,mxf,m4v,h264,hevc"
SHORT_OF_END = Fraction(1)  # s; a video that ends this much before its stated length was cut off

_TURN = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


class VideoError(RuntimeError):
    """A video that cannot be opened or written; the message names the file."""


def require() -> None:
    """Raises MisconfigurationException, with what to install, where PyAV is missing."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise MisconfigurationException(
            f'video files need PyAV, which is not here ({error}). Install it with: pip install "av>=14.2"'
        ) from None


class VideoReader:
    """Iterates over a video's frames as (time, RGB picture), upright, one in memory at a time.

    A frame's time is in units of `time_base` seconds. A video that breaks off ends the iteration, and `error` says why;
    None means that it was read to its end.

    Nothing but this file is opened, whatever is in it, and whatever its name looks like.

    Raises:
        VideoError: the file cannot be opened or holds no video.
    """

    def __init__(self, path: Path) -> None:
        import av

        self.path = path
        self.count = 0  # frames read so far
        self.error: str | None = None
        self._broken: str | None = None
        if not path.is_file():  # a pipe or a device would be waited for
            raise VideoError(f"{path}: no such video file")
        with contextlib.ExitStack() as opened:
            try:
                # FFmpeg gets the open file: it takes names such as `http:/...` for addresses.
                file = opened.enter_context(open(path, "rb"))
                options = {"format_whitelist": FORMATS, "protocol_whitelist": "none"}
                self._container = opened.enter_context(av.open(file, options=options, io_open=_refuse))
            except (av.error.FFmpegError, OSError, ValueError) as error:
                raise VideoError(f"{path}: cannot be opened as a video ({reason(error)})") from None
            if not self._container.streams.video:
                raise VideoError(f"{path}: there is no video stream in it")
            self._open = opened.pop_all()
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        # FFmpeg gives every stream a time base; PyAV's type says None, too, which stands for one that is not opened.
        self.time_base: Fraction = self._stream.time_base or Fraction(1, 1000)
        self.rate: Fraction = self._stream.average_rate or self._stream.guessed_rate or Fraction(25)
        self.length = self._stated_length()  # frames, as the file says; None where it does not

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def __iter__(self) -> Iterator[tuple[int, Image.Image]]:
        step = max(1, round(1 / (self.rate * self.time_base)))
        time, size = -step, None
        for frame, picture in self._frames():
            size = size or picture.size
            if picture.size != size:
                self._broken = f"the picture's size changes from {size} to {picture.size}"
                break
            # Files without times, or with one twice, go on at the video's rate.
            time = frame.pts if frame.pts is not None and (not self.count or frame.pts > time) else time + step
            self.count += 1
            yield time, picture
        self._broken = self._broken or self._shortfall(time + step)
        if self._broken:
            self.error = f"{self.path}: broke off after {self.count} frames ({self._broken})"

    def _frames(self) -> Iterator[tuple[Any, Image.Image]]:
        """Where the file breaks off, the frames that the decoder still holds come, too."""
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt:
                    raise ValueError("a packet is cut off")
                yield from ((frame, upright(frame)) for frame in packet.decode())
        except Exception as error:  # whatever a broken file, or a frame too large for the memory, leads to
            self._broken = reason(error)
            with contextlib.suppress(Exception):
                yield from ((frame, upright(frame)) for frame in self._stream.decode(None))

    def _seconds(self) -> Fraction | None:
        """The stated length."""
        if self._stream.duration is not None:
            return self._stream.duration * self.time_base
        duration = self._container.duration  # microseconds
        return Fraction(duration, 1_000_000) if duration else None

    def _stated_length(self) -> int | None:
        seconds = self._seconds()
        return self._stream.frames or (round(seconds * self.rate) if seconds else None)

    def _shortfall(self, end: int) -> str | None:
        if self.count == 0:
            return "there is no frame in it"
        seconds, stated = (end - (self._stream.start_time or 0)) * self.time_base, self._seconds()
        if stated is None or stated - seconds < SHORT_OF_END:
            return None
        return f"{float(seconds):.1f} s of {float(stated):.1f} s"


class VideoWriter:
    """Writes RGB pictures as a video without sound. The file appears under its name when it is complete.

    Args:
        time_base: seconds per unit of the times given to `write`. rate: frames per second, for the file's header.

    Raises:
        VideoError: it cannot be written, here and from `write` and the end.
    """

    def __init__(self, path: Path, size: tuple[int, int], rate: Fraction, time_base: Fraction) -> None:
        import av

        self.path, self._time_base, self._frames = path, time_base, 0
        with self._named(), contextlib.ExitStack() as opened:
            file = opened.enter_context(replacing(path))
            self._container = opened.enter_context(av.open(file, "w", format="mp4"))
            self._stream = self._container.add_stream("h264", rate=rate, options={"crf": "20"})
            self._stream.width, self._stream.height = size
            # Every player shows 4:2:0, which halves the colour's resolution and so needs even sizes.
            self._stream.pix_fmt = "yuv444p" if any(side % 2 for side in size) else "yuv420p"
            self._stream.codec_context.time_base = time_base
            self._open = opened.pop_all()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """What was written so far is kept, whatever happened."""
        self.close()

    def close(self) -> None:
        with self._named(), self._open:
            if not self._frames:
                raise ValueError("no frame was written")
            self._container.mux(self._stream.encode())

    def write(self, time: int, picture: Image.Image) -> None:
        import av

        with self._named():
            frame = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = time, self._time_base
            self._container.mux(self._stream.encode(frame))
            self._frames += 1

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # FFmpeg's and the disk's
            raise VideoError(f"{self.path}: cannot be written ({reason(error)})") from None


def _refuse(url: str, *_: Any, **__: Any) -> Any:
    """For the further files that a demuxer asks for."""
    raise PermissionError(f"{url}: no other file is opened")


def upright(frame: Any) -> Image.Image:
    turn = _TURN.get(frame.rotation % 360)
    picture = frame.to_image()
    return picture if turn is None else picture.transpose(turn)


def reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
