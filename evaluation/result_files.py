"""Reads COCO results: the JSON list of detections that COCO's tools, `evaluate.py --report` and many others write."""

from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from coco.annotation_checks import AnnotationError
from coco.annotations import CocoAnnotations
from evaluation.detections import Detections

_Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Result(msgspec.Struct, gc=False):
    image_id: _Int64
    category_id: _Int64
    bbox: tuple[float, float, float, float]
    score: float


def read_results(path: Path, annotations: CocoAnnotations, image_ids: np.ndarray | None = None) -> Detections:
    """The detections of a file in COCO's results format: image_id, category_id, bbox [x, y, width, height], score.

    Args:
        annotations: of the images that were searched.
        image_ids: int64, ascending: those to take, also where nothing was found in them; all of the annotations by
            default.

    Raises:
        AnnotationError: no such file, no such format, an image or a category that the annotations do not have.
    """
    try:
        results = msgspec.json.decode(path.read_bytes(), type=list[_Result], strict=False)  # takes 1.0 for 1
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}. Check the path.") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise AnnotationError(
            f"{path}: no COCO results, a list of {{image_id, category_id, bbox, score}}: {error}. A bbox is [x, y, "
            "width, height] in pixels."
        ) from None
    image = np.array([result.image_id for result in results], np.int64)
    category = np.array([result.category_id for result in results], np.int64)
    _check_known(path, "image_id", image, annotations.image_ids, annotations.path)
    _check_known(path, "category_id", category, np.asarray(annotations.category_ids), annotations.path)
    image_ids = annotations.image_ids if image_ids is None else image_ids
    rows = np.argsort(image, kind="stable")
    rows = rows[np.isin(image[rows], image_ids)]
    boxes = np.array([result.bbox for result in results]).reshape(-1, 4)[rows]
    boxes[:, 2:] += boxes[:, :2]
    ends = np.searchsorted(image[rows], image_ids, side="right")
    labels = np.searchsorted(annotations.category_ids, category[rows]) + 1
    scores = np.array([result.score for result in results])[rows]
    return Detections(image_ids, np.diff(ends, prepend=0), boxes, scores, labels.astype(np.int16))


def _check_known(path: Path, key: str, found: np.ndarray, known: np.ndarray, where: Path) -> None:
    unknown = np.flatnonzero(~np.isin(found, known))
    if len(unknown):
        raise AnnotationError(
            f"{path}: [{unknown[0]}].{key} is {found[unknown[0]]}, which is not in {where} ({len(unknown)} of "
            f"{len(found)} detections are like that). Give the annotations that the results were made with."
        )
