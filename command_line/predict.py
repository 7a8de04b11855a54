"""Detects objects in pictures and videos: draws them, and writes COCO results JSON and CSV.

Backbone and classes come from the checkpoint: one of ours, or a `.pt` file of the published recipe. Pictures are turned
upright where EXIF says so, and boxes are in pixels of the upright picture. docs/predict.md describes the files.

Exit status: 0 all inputs were predicted; 1 nothing was done, for the reason printed; 2 wrong usage; 3 done, but some
inputs could not be read, or a video broke off: the last line names them.
"""

import argparse
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from tqdm import tqdm

from coco.cores import default_workers
from coco.decoding import ImageError
from command_line.shared import with_home
from evaluation.drawing import draw_detections
from prediction import video
from prediction.detector import Detector, batches, open_picture, prepare
from prediction.devices import PRECISIONS, check_score_threshold, device_flags, fast_precision
from prediction.files import Input, ResultFiles, find_inputs
from ssd_module import load_module

INCOMPLETE = 3  # exit status
NAMED = 3  # files that the last line names


def main(args: Sequence[str] | None = None) -> int:
    """What predict.py does; see `predict`."""
    return predict(args)


def predict(args: Sequence[str] | None = None) -> int:
    """Parses the arguments (those of the process by default), predicts and returns the exit status."""
    flags = _parse(args)
    inputs = _check(flags)
    module = load_module(flags.ckpt_path)
    detector = Detector(module, flags.accelerator, flags.devices, flags.precision, flags.score_threshold, flags.classes)
    try:
        with (
            ResultFiles(flags.output, module.class_names, module.category_ids) as files,
            ThreadPoolExecutor(max(1, flags.num_workers)) as pool,
        ):
            prediction = _Prediction(detector, files, pool, flags)
            prediction.predict_pictures([each for each in inputs if not each.is_video])
            for each in inputs:
                if each.is_video:
                    prediction.predict_video(each)
    except OSError as error:  # unreadable inputs are caught one by one
        raise MisconfigurationException(f"--output {flags.output}: cannot write there ({error})") from None
    print(prediction.summary(len(inputs)))
    return INCOMPLETE if prediction.problems else 0


@dataclass
class _Shot:
    """A picture or frame on its way from file to result."""

    source: Input
    frame: int | None = None
    time: int = 0  # of a frame, in the video's time base
    picture: Any = None  # Image.Image, for as long as it is needed
    sample: dict[str, Any] | None = None
    found: Any = None  # Detections, once it was on the device
    error: str | None = None


class _Prediction:
    """One run: threads open, shrink, draw and save a few pictures ahead of and behind the detector."""

    def __init__(self, detector: Detector, files: ResultFiles, pool: ThreadPoolExecutor, flags: Any) -> None:
        self.detector, self.files, self.pool, self.flags = detector, files, pool, flags
        self.problems: dict[Path, str] = {}  # input -> what became of it
        self.workers = max(1, flags.num_workers)

    def predict_pictures(self, inputs: Sequence[Input]) -> None:
        shots = self._detected(_in_order(self.pool, self._open, map(_Shot, inputs), self.flags.batch_size))
        for shot in tqdm(_in_order(self.pool, self._save, shots, self.workers), total=len(inputs), unit="picture"):
            if shot.error:
                self._report(shot.source, "could not be read", shot.error)
            else:
                drawn = shot.source.drawn if self.flags.draw else None
                self.files.add(shot.source.path.as_posix(), shot.found, drawn)

    def predict_video(self, source: Input) -> None:
        try:
            reader = video.VideoReader(source.path)
        except video.VideoError as error:
            return self._report(source, "could not be read", str(error))
        with reader:
            frames = (_Shot(source, i, time, picture) for i, (time, picture) in enumerate(reader))
            shots = self._detected(_in_order(self.pool, _shrink, frames, self.flags.batch_size))
            drawn = _in_order(self.pool, self._draw, shots, self.workers)
            self._write_video(tqdm(drawn, total=reader.length, unit="frame", desc=source.path.name), reader)
            if reader.error:
                self._report(source, "broke off" if reader.count else "could not be read", reader.error)

    def summary(self, inputs: int) -> str:
        files = self.files
        unread = sum(what == "could not be read" for what in self.problems.values())
        whole = f"{inputs - unread} of {inputs} files" if unread else _count(inputs, "file")
        parts = [f"predicted {whole}, {_count(files.detections, 'detection')}, in {self.flags.output}"]
        for what in ("could not be read", "broke off"):
            names = [str(path) for path, problem in self.problems.items() if problem == what]
            more = [f"{len(names) - NAMED} more, see above"] if len(names) > NAMED else []
            parts += [f"{len(names)} {what}: {', '.join([*names[:NAMED], *more])}"] if names else []
        return "; ".join(parts)

    def _open(self, shot: _Shot) -> _Shot:
        try:
            shot.picture = open_picture(shot.source.path)
            return _shrink(shot, keep=self.flags.draw)
        except ImageError as error:
            shot.error = str(error)
        except Exception as error:  # whatever else a decoder makes of a broken file must not end the run
            shot.error = f"{shot.source.path}: cannot be decoded ({type(error).__name__}: {error})"
        return shot

    def _detected(self, shots: Iterable[_Shot]) -> Iterator[_Shot]:
        for some in batches(shots, self.flags.batch_size):
            readable = [shot for shot in some if shot.error is None]
            for shot, found in zip(readable, self.detector.detect([shot.sample for shot in readable]), strict=True):
                shot.found, shot.sample = found, None
            yield from some

    def _draw(self, shot: _Shot) -> _Shot:
        found = shot.found
        if self.flags.draw:
            names = self.detector.module.class_names
            shot.picture = draw_detections(shot.picture, found.boxes, found.labels, found.scores, names)
        return shot

    def _save(self, shot: _Shot) -> _Shot:
        if self.flags.draw and shot.error is None:
            _save_picture(self._draw(shot).picture, self.flags.output / shot.source.drawn)
        shot.picture = None
        return shot

    def _write_video(self, shots: Iterable[_Shot], reader: video.VideoReader) -> None:
        shots = iter(shots)
        first = next(shots, None)
        if first is None:
            return
        if not self.flags.draw:
            for shot in itertools.chain([first], shots):
                self.files.add(shot.source.path.as_posix(), shot.found, frame=shot.frame)
            return
        target = self.flags.output / first.source.drawn
        with video.VideoWriter(target, first.picture.size, reader.rate, reader.time_base) as writer:
            for shot in itertools.chain([first], shots):
                writer.write(shot.time, shot.picture)
                self.files.add(shot.source.path.as_posix(), shot.found, shot.source.drawn, shot.frame)

    def _report(self, source: Input, what: str, message: str) -> None:
        self.problems[source.path] = what
        tqdm.write(f"warning: {message}", file=sys.stderr)


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="picture or video files, folders of pictures (any depth), or globs")
    add("--ckpt_path", required=True, metavar="FILE", help="checkpoint of ours, or a .pt file of the published recipe")
    add("--output", type=Path, required=True, metavar="DIR", help="directory for pictures, videos and tables")
    add("--score_threshold", type=float, default=0.3, metavar="S", help="lowest score of a detection (default: 0.3)")
    add("--classes", type=lambda text: text.split(","), metavar="A,B", help="only these, by name or category id")
    add("--draw", choices=("true", "false"), default="true", help="false writes the tables alone (default: true)")
    add("--accelerator", default="auto", help="cpu, cuda, mlu, or auto: the best there is (default)")
    add("--devices", default="1", metavar="N", help="one device: 1, or an ordinal with a comma: 2,")
    add("--precision", choices=PRECISIONS, help="default: 32-true; auto: bf16-mixed where the device has it")
    add("--batch_size", type=int, default=8, metavar="N", help="pictures at a time on the device (default: 8)")
    threads = "threads that decode, draw and write (default: the cores this process may use, at most 8)"
    add("--num_workers", type=int, default=default_workers(), metavar="N", help=threads)
    flags = parser.parse_intermixed_args(with_home(sys.argv[1:] if args is None else args))
    flags.draw = flags.draw == "true"
    return flags


def _check(flags: argparse.Namespace) -> list[Input]:
    """The checks that need no checkpoint, in the order a user can act on them; returns the inputs."""
    check_score_threshold(flags.score_threshold)
    if flags.batch_size < 1 or flags.num_workers < 0:
        raise MisconfigurationException(
            f"--batch_size {flags.batch_size} --num_workers {flags.num_workers}: expected at least 1 and 0"
        )
    if flags.output.exists() and not flags.output.is_dir():
        raise MisconfigurationException(f"--output {flags.output}: expected a directory, but this is a file")
    asked = {name: getattr(flags, name) for name in ("accelerator", "devices", "precision")}
    asked["precision"] = fast_precision(flags.accelerator) if flags.precision == "auto" else flags.precision
    device_flags({**asked, "num_nodes": 1, "strategy": "auto", "plugins": None})
    inputs = find_inputs(flags.inputs, flags.output)
    if any(each.is_video for each in inputs):
        video.require()
    return inputs


def _in_order(pool: ThreadPoolExecutor, function: Callable, items: Iterable[Any], ahead: int) -> Iterator[Any]:
    """function(item) for each item, in order, computed in the pool at most `ahead` items in advance."""
    waiting: deque = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _shrink(shot: _Shot, keep: bool = True) -> _Shot:
    """Makes the network's input; the picture itself is kept for drawing only."""
    shot.sample = prepare(shot.picture)
    shot.picture = shot.picture if keep else None
    return shot


def _save_picture(picture: Image.Image, path: Path) -> None:
    """Beside the target, then renamed: never half a picture, and never written through a link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    if path.suffix.lower() == ".png":
        picture.save(part, "PNG", compress_level=3)
    else:
        picture.save(part, "JPEG", quality=92, subsampling=0)
    os.replace(part, path)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
