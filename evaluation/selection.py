"""Part of an evaluation: only some classes, all classes as one, only some images. Slices are files that list images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from coco.annotation_checks import AnnotationError
from coco.annotations import CocoAnnotations
from coco.names import look_alikes, shown, told_apart
from coco.selection import ANY_CLASS
from evaluation.detections import Detections


def of_classes(
    annotations: CocoAnnotations, detections: Detections, labels: Sequence[int]
) -> tuple[CocoAnnotations, Detections]:
    """Only the annotations and detections of some labels (1..C, ascending), which become 1, 2, ..."""
    new = np.zeros(len(annotations.class_names) + 1, np.int64)
    new[list(labels)] = np.arange(1, len(labels) + 1)
    names, ids = annotations.class_names, annotations.category_ids
    chosen = annotations.relabelled(new, [names[i - 1] for i in labels], [ids[i - 1] for i in labels])
    return chosen, _relabelled(detections, new)


def as_one_class(annotations: CocoAnnotations, detections: Detections) -> tuple[CocoAnnotations, Detections]:
    """Annotations and detections without their classes: what COCOeval counts with `useCats` 0."""
    new = np.ones(len(annotations.class_names) + 1, np.int64)
    return annotations.relabelled(new, [ANY_CLASS], [1]), _relabelled(detections, new)


def of_images(detections: Detections, image_ids: np.ndarray) -> Detections:
    """The detections of the images among `image_ids`."""
    images, rows = np.isin(detections.image_ids, image_ids), np.isin(detections.image, image_ids)
    boxes, scores, labels = (column[rows] for column in detections[2:])
    return Detections(detections.image_ids[images], detections.counts[images], boxes, scores, labels)


def read_slice(path: Path, annotations: CocoAnnotations) -> np.ndarray:
    """int64, the image ids that a file lists: a file name or an image id of the annotations in each line.

    Raises:
        AnnotationError: naming file and line: it cannot be read, lists none, or an image that is not there.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}. Expected a file that lists images") from None
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: no text in UTF-8 ({error.reason}). Expected a file that lists images") from None
    by_name = dict(zip(annotations.file_names(), annotations.image_ids.tolist(), strict=True))
    by_id = {str(image_id): image_id for image_id in annotations.image_ids.tolist()}
    found = []
    for number, line in enumerate(lines, start=1):
        if not (text := line.strip()):
            continue
        meant = {each[text] for each in (by_name, by_id) if text in each}
        if len(meant) != 1:
            why = "is the file name of one image and the id of another" if meant else "is no file name or image id"
            alike = "" if meant else told_apart(look_alikes([text], by_name))
            raise AnnotationError(f"{path}, line {number}: {shown(text)} {why} in {annotations.path}.{alike}")
        found.append(meant.pop())
    if not found:
        raise AnnotationError(f"{path}: lists no image. Expected a file name or an image id in each line")
    return np.unique(np.array(found, np.int64))


def _relabelled(detections: Detections, new: np.ndarray) -> Detections:
    labels = new[detections.labels]
    kept = labels > 0
    image = np.repeat(np.arange(len(detections.counts)), detections.counts)[kept]
    counts = np.bincount(image, minlength=len(detections.counts))
    boxes, scores = detections.boxes[kept], detections.scores[kept]
    return Detections(detections.image_ids, counts, boxes, scores, labels[kept].astype(np.int16))
