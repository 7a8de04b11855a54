"""The demo page: pictures or a video in, boxes and a table out. What it does is predict.py's; the page is Gradio's.

Gradio is optional (the extra `demo`): it is imported when a page is made, and `require` says how to get it.
"""

import csv
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pytorch_lightning.utilities.exceptions import MisconfigurationException

from coco.cores import default_workers
from prediction import video
from prediction.detector import Detector
from prediction.files import TABLES, ResultFiles
from prediction.inputs import find_inputs
from prediction.pipeline import Prediction

ROWS = 500  # of the table at most; the files have all
BATCH = 8


def require() -> None:
    """Raises MisconfigurationException, with what to install, where Gradio is missing."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before it is imported: it would ask for newer versions
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise MisconfigurationException(
            f"the demo page needs Gradio, which is not here ({error}). Install it with: pip install gradio, or this "
            "project with its extra: pip install -e '.[demo]'"
        ) from None


@dataclass
class Found:
    """What the page shows of some files.

    pictures, videos: drawn files. rows: file, frame, class, score, left, top, right, bottom, the best first ROWS.
    tables: paths of the result files. told: how many there are. problems: what could not be read or drawn, and why.
    """

    pictures: list[str] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    told: str = ""
    problems: list[str] = field(default_factory=list)


def detect(
    detector: Detector,
    files: Sequence[str],
    output: Path,
    score_threshold: float | None = None,
    classes: Sequence[str] = (),
) -> Found:
    """Detects in pictures and videos; drawn ones and tables are below `output`.

    Args:
        score_threshold, classes: as a Detector's; no class is named: all of them.
    """
    detector = detector.choosing(score_threshold, classes or None)
    module, workers = detector.module, default_workers()
    inputs = find_inputs(files, output)
    if any(each.is_video for each in inputs.inputs):
        video.require()
    with (
        ResultFiles(output, module.class_names, module.category_ids) as tables,
        ThreadPoolExecutor(workers) as pool,
    ):
        prediction = Prediction(detector, tables, pool, workers, BATCH, output, draw=True, called=_name)
        prediction.predict(inputs)
    found = Found(tables=[str(output / name) for name in TABLES if (output / name).is_file()])
    for each in inputs.inputs:
        if (drawn := output / each.drawn).is_file():
            (found.videos if each.is_video else found.pictures).append(str(drawn))
    with open(output / "detections.csv", newline="", encoding="utf-8") as file:
        found.rows = list(csv.reader(file))[1 : ROWS + 1]
    found.told = f"detections: {tables.detections}, in {'frames' if found.videos else 'pictures'}: {tables.images}"
    found.problems = [why.replace(str(path), path.name) for path, why in prediction.reasons.items()]
    return found


def _name(path: Path) -> str:
    """Without the folder of uploads, which says nothing to a visitor."""
    return path.name
