"""Prediction on a stream: one frame at a time, the latest there is, until it ends or is told to."""

from fractions import Fraction
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from coco.lettering import drawable_names
from evaluation.drawing import draw_detections
from prediction.detector import Detector, prepare
from prediction.files import CROPS, ResultFiles
from prediction.pictures import save_crops
from prediction.stream import Frame, Latest
from prediction.video import VideoWriter

STEM = "stream"  # of what is written
TIME_BASE = Fraction(1, 1000)  # s, of the drawn video
RATE = Fraction(25)  # in its header; each frame has its own time


def predict_stream(
    detector: Detector, latest: Latest[Frame], name: str, files: ResultFiles, output: Path, draw: bool, crops: bool
) -> str:
    """Writes tables, and as asked `stream.mp4` (frames predicted, at their times) and crops, until `latest` ends.

    Args:
        name: of the stream, in the tables.

    Returns:
        The last line: how many frames came, were predicted, and were dropped.

    Raises:
        VideoError: the stream broke off; what came before is written. OSError: the disk.
    """
    module, writer, last = detector.module, None, -1
    names = drawable_names(tuple(module.class_names), tuple(module.category_ids)) if draw else ()
    first: Fraction | None = None
    try:
        for frame in tqdm(latest, unit="frame", desc=name, disable=None):
            picture = frame.picture()
            (found,) = detector.detect([prepare(picture, detector.tiling)])
            if crops:
                save_crops(picture, found, output / CROPS, f"{STEM}_{frame.number:06d}")
            if draw:
                drawn = draw_detections(picture, found.boxes, found.labels, found.scores, names)
                first = frame.time if first is None else first
                last = max(last + 1, round((frame.time - first) / TIME_BASE))
                if writer is None:
                    size = drawn.size
                    writer = VideoWriter(output / f"{STEM}.mp4", size, RATE, TIME_BASE)
                writer.write(last, drawn if drawn.size == size else drawn.resize(size, Image.Resampling.BILINEAR))
            files.add(name, found, f"{STEM}.mp4" if draw else None, frame.number, STEM)
    finally:
        latest.close()
        if writer is not None:
            writer.close()
    came = f"predicted {files.images} of {latest.read} frames of {name}"
    dropped = f" ({latest.dropped} dropped, since newer ones had come)" if latest.dropped else ""
    return f"{came}{dropped}, {files.detections} detections, in {output}"
