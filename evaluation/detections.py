"""Detections of many images as compact arrays."""

from typing import NamedTuple

import numpy as np


class Detections(NamedTuple):
    """The detections of n images, by ascending image id; those of image i are the next counts[i] of the m rows."""

    image_ids: np.ndarray  # int64 [n]
    counts: np.ndarray  # int64 [n]
    boxes: np.ndarray  # [m, 4] xyxy in pixels of the original image
    scores: np.ndarray  # [m]
    labels: np.ndarray  # int16 [m], 1..C

    @property
    def image(self) -> np.ndarray:
        """int64 [m], the image id of each row."""
        return np.repeat(self.image_ids, self.counts)

    @property
    def xywh(self) -> np.ndarray:
        """float64 [m, 4], the boxes as COCO writes them."""
        boxes = self.boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        return boxes

    @classmethod
    def joined(cls, parts: "list[Detections]") -> "Detections":
        """Of several parts, their images in one order whatever the parts were."""
        if not parts:
            none = np.zeros(0, np.int64)
            return cls(none, none, np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int16))
        image_ids, counts, boxes, scores, labels = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        images, rows = np.argsort(image_ids), np.argsort(np.repeat(image_ids, counts), kind="stable")
        return cls(image_ids[images], counts[images], boxes[rows], scores[rows], labels[rows])
