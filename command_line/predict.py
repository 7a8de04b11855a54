"""Detects objects in pictures and videos: draws them, and writes COCO results JSON and CSV.

Classes come from the checkpoint: one of ours, a `.pt` file of the published recipe, or an exported file. Pictures are
turned upright where EXIF says so, and boxes are in pixels of the upright picture. docs/predict.md describes the files.

Exit status: 0 all inputs were predicted; 1 nothing was done, for the reason printed; 2 wrong usage; 3 done, but some
inputs could not be read or drawn, or a video broke off: the last line names them.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pytorch_lightning.utilities.exceptions import MisconfigurationException

from checkpoints.download import shown
from checkpoints.fetching import FETCHED
from coco.cores import default_workers
from coco.names import plain
from command_line.shared import with_home
from prediction import video
from prediction.detector import Detector, checked_tiling
from prediction.devices import PRECISIONS, check_score_threshold, device_flags, fast_precision
from prediction.exported import engine_for, runs_in_bf16
from prediction.files import DEFAULT_FORMATS, OF_PICTURES, WRITERS, ResultFiles
from prediction.inputs import Found, find_inputs
from prediction.live import predict_stream
from prediction.pipeline import Prediction
from prediction.stream import Latest, open_stream
from training.stop_signals import first_calls

INCOMPLETE = 3  # exit status


def main(args: Sequence[str] | None = None) -> int:
    """What predict.py does; see `predict`."""
    return predict(args)


def predict(args: Sequence[str] | None = None) -> int:
    """Parses the arguments (those of the process by default), predicts and returns the exit status."""
    flags = _parse(args)
    found = _check(flags)
    asked = (flags.accelerator, flags.devices, flags.precision, flags.score_threshold, flags.classes, flags.engine)
    detector = Detector(flags.ckpt_path, *asked, flags.tiles, flags.tile_overlap)
    module = detector.module
    if flags.stream is not None:
        return _predict_stream(flags, detector)
    workers = max(1, flags.num_workers)
    try:
        with (
            ResultFiles(flags.output, module.class_names, module.category_ids, flags.format) as files,
            ThreadPoolExecutor(workers) as pool,
        ):
            how = (workers, flags.batch_size, flags.output, flags.draw, flags.save_crops, flags.every)
            prediction = Prediction(detector, files, pool, *how)
            prediction.predict(found)
    except OSError as error:  # of the tables; inputs and drawn files are caught one by one
        raise MisconfigurationException(f"--output {flags.output}: cannot write there ({error})") from None
    _say(prediction.summary(found))
    return INCOMPLETE if prediction.problems else 0


def _predict_stream(flags: argparse.Namespace, detector: Detector) -> int:
    """Until the stream ends, or a stop signal (Ctrl-C), which is how one ends it."""
    module, name = detector.module, shown(flags.stream)
    try:
        latest = Latest(open_stream(flags.stream, flags.every))
    except video.VideoError as error:
        raise MisconfigurationException(str(error)) from None
    try:
        with (
            ResultFiles(flags.output, module.class_names, module.category_ids, flags.format, live=True) as files,
            first_calls(latest.close),
        ):
            _say(predict_stream(detector, latest, name, files, flags.output, flags.draw, flags.save_crops))
    except video.VideoError as error:
        _say(f"{error}; predicted {files.images} frames, {files.detections} detections, in {flags.output}")
        return INCOMPLETE
    except OSError as error:
        raise MisconfigurationException(f"--output {flags.output}: cannot write there ({error})") from None
    return 0


def _say(line: str) -> None:
    """Names may hold bytes, or letters, that the terminal's encoding has not."""
    encoding = sys.stdout.encoding or "utf-8"
    print(plain(line, lines=True).encode(encoding, "backslashreplace").decode(encoding))


def _parse(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("inputs", nargs="*", metavar="INPUT", help="picture or video files, folders of pictures (any depth), or globs")
    stream = "in place of INPUT: an address (rtsp://, http://, udp:// ...) or a camera (0, /dev/video0), until Ctrl-C"
    add("--stream", metavar="SOURCE", help=stream)
    add(
        "--ckpt_path",
        required=True,
        metavar="FILE",
        help=f"checkpoint of ours, a published .pt file, or an exported file; {FETCHED}",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="directory for pictures, videos and tables")
    threshold = "lowest score of a detection (default: the checkpoint's, per class, or 0.3 where it has none)"
    add("--score_threshold", type=float, metavar="S", help=threshold)
    add(
        "--classes",
        type=lambda text: text.split(","),
        metavar="A,B",
        help="only these, by name or category id (name:A, id:3)",
    )
    add("--draw", choices=("true", "false"), default="true", help="false writes the tables alone (default: true)")
    formats = f"tables and labels to write, of {', '.join(WRITERS)} (default: {','.join(DEFAULT_FORMATS)})"
    add("--format", type=lambda text: text.split(","), default=[*DEFAULT_FORMATS], metavar="A,B", help=formats)
    add("--save_crops", action="store_true", help="also save what is in each box as a picture, by class")
    add("--every", type=int, default=1, metavar="N", help="of videos and streams each N-th frame only (default: 1)")
    add("--accelerator", default="auto", help="cpu, cuda, mlu, or auto: the best there is (default)")
    add("--devices", default="1", metavar="N", help="one device: 1, or an ordinal with a comma: 2,")
    add("--precision", choices=PRECISIONS, help="default: 32-true; auto: bf16-mixed where the device has it")
    engines = "auto: the exported file's, or torch for a checkpoint, which onnx and openvino (CPU) convert first"
    add("--engine", choices=("auto", "torch", "onnx", "openvino"), default="auto", help=engines)
    tiles = "look at tiles of S pixels a side, too (default: as the checkpoint's run did; 0: at the whole alone)"
    add("--tiles", type=int, metavar="S", help=tiles)
    shared = "share of a tile's side that neighbours have in common at least (default: 0.2)"
    add("--tile_overlap", type=float, metavar="P", help=shared)
    add(
        "--batch_size",
        type=int,
        default=8,
        metavar="N",
        help="pictures, or tiles, at a time on the device (default: 8)",
    )
    threads = "threads that decode, draw and write (default: the cores this process may use, at most 8)"
    add("--num_workers", type=int, default=default_workers(), metavar="N", help=threads)
    args = list(sys.argv[1:] if args is None else args)
    # What follows `--` are inputs, also where they begin with a dash; argparse forgets that with intermixed arguments.
    end = args.index("--") if "--" in args else len(args)
    flags = parser.parse_intermixed_args(with_home(args[:end]))
    flags.inputs += args[end + 1 :]
    if bool(flags.inputs) == (flags.stream is not None):
        parser.error("give one of INPUT, which are files, and --stream SOURCE")
    flags.draw = flags.draw == "true"
    return flags


def _check(flags: argparse.Namespace) -> Found:
    """The checks that need no checkpoint, in the order a user can act on them; returns the inputs."""
    if flags.score_threshold is not None:
        check_score_threshold(flags.score_threshold)
    checked_tiling(flags.tiles, flags.tile_overlap)
    if flags.batch_size < 1 or flags.num_workers < 0:
        raise MisconfigurationException(
            f"--batch_size {flags.batch_size} --num_workers {flags.num_workers}: expected at least 1 and 0"
        )
    if unknown := [name for name in flags.format if name not in WRITERS]:
        raise MisconfigurationException(f"--format {','.join(unknown)}: expected some of {', '.join(WRITERS)}")
    if flags.every < 1:
        raise MisconfigurationException(f"--every {flags.every}: expected at least 1, which is each frame")
    if flags.output.exists() and not flags.output.is_dir():
        raise MisconfigurationException(f"--output {flags.output}: expected a directory, but this is a file")
    asked = {name: getattr(flags, name) for name in ("accelerator", "devices", "precision")}
    asked["precision"] = fast_precision(flags.accelerator) if flags.precision == "auto" else flags.precision
    if engine_for(flags.ckpt_path, flags.engine) != "torch":
        is_auto = flags.precision == "auto"
        runs_in_bf16(flags.ckpt_path, flags.accelerator, asked["precision"], is_auto, flags.engine)
    device_flags({**asked, "num_nodes": 1, "strategy": "auto", "plugins": None})
    if flags.stream is not None:
        _check_formats(flags.format, f"--stream {shown(flags.stream)}")
        video.require()
        return Found()
    found = find_inputs(flags.inputs, flags.output)
    if videos := [each.path for each in found.inputs if each.is_video]:
        _check_formats(flags.format, str(videos[0]))
        video.require()
    return found


def _check_formats(formats: Sequence[str], of: str) -> None:
    """Raises MisconfigurationException for labels of what has no picture to lie beside."""
    if labels := [name for name in formats if name in OF_PICTURES]:
        raise MisconfigurationException(
            f"--format {','.join(labels)}: labels lie beside pictures, and {of} is none; take coco, csv or jsonl"
        )
