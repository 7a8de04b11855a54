"""What a prediction does with its inputs: threads decode, draw and write while the detector works; what went wrong."""

import itertools
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from coco.decoding import ImageError, decode_upright
from coco.lettering import drawable_names
from evaluation.drawing import draw_detections
from prediction import video
from prediction.detector import Detector, batches, prepare
from prediction.files import CROPS, ResultFiles
from prediction.inputs import Found, Input
from prediction.pictures import save_crops, save_picture

NAMED = 3  # files that the last line names
UNREAD, BROKE_OFF, UNDRAWN = "could not be read", "broke off", "could not be drawn"


@dataclass
class _Shot:
    """A picture or frame on its way from file to result."""

    source: Input
    frame: int | None = None
    time: int = 0  # of a frame, in the video's time base
    picture: Any = None  # Image.Image, for as long as it is needed
    sample: dict[str, Any] | None = None
    found: Any = None  # Detections, once it was on the device
    more_frames: bool = False  # in the file
    error: str | None = None  # why there are no detections
    undrawn: str | None = None  # why there is no drawn picture


class Prediction:
    """One run: threads open, shrink, draw and save a few pictures ahead of and behind the detector.

    Args:
        workers: threads of the pool. output: directory of the drawn files, unless `draw` is false. crops: whether each
            box is saved as a picture of its own. every: of videos only each so-many-th frame. called: what the tables
            call a file.

    Attributes:
        problems: input -> `UNREAD`, `BROKE_OFF` or `UNDRAWN`; none of them ends the run. reasons: of these, in words.
        first_only: inputs with further frames, of which only the first was used.
    """

    def __init__(
        self,
        detector: Detector,
        files: ResultFiles,
        pool: ThreadPoolExecutor,
        workers: int,
        batch_size: int,
        output: Path,
        draw: bool,
        crops: bool = False,
        every: int = 1,
        called: Callable[[Path], str] = Path.as_posix,
    ) -> None:
        self.detector, self.files, self.pool, self.workers = detector, files, pool, workers
        self.batch_size, self.output, self.draw = batch_size, output, draw
        self.at_once = detector.pictures_at_once(batch_size)
        self.crops, self.every = crops, every
        module = detector.module
        self.names = drawable_names(tuple(module.class_names), tuple(module.category_ids)) if draw else ()
        self.called = called
        self.problems: dict[Path, str] = {}
        self.reasons: dict[Path, str] = {}
        self.first_only: list[Path] = []

    def predict(self, found: Found) -> None:
        """Raises OSError where the tables cannot be written."""
        for folder, why in found.unreadable.items():
            self._report(folder, UNREAD, why)
        self._predict_pictures([each for each in found.inputs if not each.is_video])
        for each in found.inputs:
            if each.is_video:
                self._predict_video(each)

    def summary(self, found: Found) -> str:
        """The last line: how many were predicted, what was left out, and what could not be done."""
        inputs = len(found.inputs)
        unread = sum(self.problems.get(each.path) == UNREAD for each in found.inputs)
        whole = f"{inputs - unread} of {inputs} files" if unread else _count(inputs, "file")
        parts = [f"predicted {whole}, {_count(self.files.detections, 'detection')}, in {self.output}"]
        if found.left_out:
            kinds = ", ".join(f"{kind}: {number}" for kind, number in sorted(found.left_out.items()))
            parts.append(f"{sum(found.left_out.values())} left out ({kinds})")
        if self.first_only:
            parts.append(f"only the first frame of {len(self.first_only)}: {_some(self.first_only, '')}")
        for what in (UNREAD, BROKE_OFF, UNDRAWN):
            paths = [path for path, problem in self.problems.items() if problem == what]
            parts += [f"{len(paths)} {what}: {_some(paths)}"] if paths else []
        return "; ".join(parts)

    def _predict_pictures(self, inputs: Sequence[Input]) -> None:
        shots = self._detected(in_order(self.pool, self._open, map(_Shot, inputs), self.at_once))
        for shot in tqdm(in_order(self.pool, self._save, shots, self.workers), total=len(inputs), unit="picture"):
            path = shot.source.path
            if shot.error:
                self._report(path, UNREAD, shot.error)
                continue
            if shot.undrawn:
                self._report(path, UNDRAWN, f"{path}: {UNDRAWN} ({shot.undrawn})")
            if shot.more_frames:
                self.first_only.append(path)
            drawn = shot.source.drawn if self.draw and not shot.undrawn else None
            self.files.add(self.called(path), shot.found, drawn, stem=shot.source.stem)

    def _predict_video(self, source: Input) -> None:
        try:
            reader = video.VideoReader(source.path)
        except video.VideoError as error:
            return self._report(source.path, UNREAD, str(error))
        with reader:
            read = itertools.islice(enumerate(reader), 0, None, self.every)
            frames = (_Shot(source, i, time, picture) for i, (time, picture) in read)
            shots = self._detected(in_order(self.pool, self._shrink, frames, self.at_once))
            drawn = in_order(self.pool, self._draw, shots, self.workers)
            total = reader.length and -(-reader.length // self.every)
            self._write_video(tqdm(drawn, total=total, unit="frame", desc=source.path.name), reader, source)
            if reader.error:
                self._report(source.path, BROKE_OFF if reader.count else UNREAD, reader.error)

    def _open(self, shot: _Shot) -> _Shot:
        try:
            shot.picture, shot.more_frames = decode_upright(shot.source.path)
            self._shrink(shot)
            shot.picture = shot.picture if self.draw or self.crops else None  # kept for these alone
        except ImageError as error:
            shot.error = str(error)
        except Exception as error:  # whatever else a decoder makes of a broken file must not end the run
            shot.error = f"{shot.source.path}: cannot be decoded ({type(error).__name__}: {error})"
        return shot

    def _shrink(self, shot: _Shot) -> _Shot:
        shot.sample = prepare(shot.picture, self.detector.tiling)
        return shot

    def _detected(self, shots: Iterable[_Shot]) -> Iterator[_Shot]:
        for some in batches(shots, self.at_once):
            readable = [shot for shot in some if shot.error is None]
            found_in = self.detector.detect([shot.sample for shot in readable], self.batch_size)
            for shot, found in zip(readable, found_in, strict=True):
                shot.found, shot.sample = found, None
            yield from some

    def _draw(self, shot: _Shot) -> _Shot:
        found = shot.found
        if self.crops:
            number = "" if shot.frame is None else f"_{shot.frame:06d}"
            save_crops(shot.picture, found, self.output / CROPS, f"{shot.source.stem}{number}")
        if self.draw:
            shot.picture = draw_detections(shot.picture, found.boxes, found.labels, found.scores, self.names)
        return shot

    def _save(self, shot: _Shot) -> _Shot:
        if (self.draw or self.crops) and shot.error is None:
            try:
                self._draw(shot)
                if self.draw:
                    save_picture(shot.picture, self.output / shot.source.drawn)
            except Exception as error:  # the disk's, the encoder's, the memory's: the tables go on
                shot.undrawn = str(getattr(error, "strerror", None) or error or type(error).__name__)
        shot.picture = None
        return shot

    def _write_video(self, shots: Iterable[_Shot], reader: video.VideoReader, source: Input) -> None:
        """Where the drawn video cannot be written, the tables go on without it."""
        writer, problem = None, None
        try:
            for shot in shots:
                if self.draw and problem is None:
                    try:
                        if writer is None:
                            target = self.output / source.drawn
                            writer = video.VideoWriter(target, shot.picture.size, reader.rate, reader.time_base)
                        writer.write(shot.time, shot.picture)
                    except video.VideoError as error:
                        problem = error
                drawn = source.drawn if self.draw and problem is None else None
                self.files.add(self.called(source.path), shot.found, drawn, shot.frame)
        finally:
            try:
                if writer is not None:
                    writer.close()
            except video.VideoError as error:
                problem = problem or error
        if problem is not None:
            self._report(source.path, UNDRAWN, f"{source.path}: {UNDRAWN} ({problem})")

    def _report(self, path: Path, what: str, message: str) -> None:
        self.problems[path], self.reasons[path] = what, message
        tqdm.write(f"warning: {message}", file=sys.stderr)


def in_order(pool: ThreadPoolExecutor, function: Callable, items: Iterable[Any], ahead: int) -> Iterator[Any]:
    """function(item) for each item, in order, computed in the pool at most `ahead` items in advance."""
    waiting: deque = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _some(paths: Sequence[Path], where: str = ", see above") -> str:
    names = ", ".join(str(path) for path in paths[:NAMED])
    return names + (f", {len(paths) - NAMED} more{where}" if len(paths) > NAMED else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
