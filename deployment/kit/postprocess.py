"""Raw outputs of SSD300 -> detections, in NumPy: decoding, score threshold, NMS per class, best of the picture."""

import numpy as np

Detections = tuple[np.ndarray, np.ndarray, np.ndarray]


def detect(
    offsets: np.ndarray,
    logits: np.ndarray,
    default_boxes: np.ndarray,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    candidates_per_class: int = 200,
    max_detections: int = 200,
) -> list[Detections]:
    """The detections of each picture, by descending score.

    Args:
        offsets: float [B, 8732, 4]. logits: float [B, 8732, C + 1], class 0 = background. default_boxes: float32
            [8732, 4], centre x, centre y, width, height in parts of the picture.

    Returns, of each picture:
        boxes float32 [n, 4], left, top, right, bottom in parts of the picture (times its width and height: pixels);
        scores float32 [n]; labels int64 [n], 1..C.
    """
    offsets, logits = offsets.astype(np.float32), logits.astype(np.float32)
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores = exponentials / exponentials.sum(axis=-1, keepdims=True)
    boxes = decode(offsets, default_boxes)
    found = []
    for picture_boxes, picture_scores in zip(boxes, scores, strict=True):
        kept = []
        for label in range(1, picture_scores.shape[1]):
            of_class = picture_scores[:, label]
            candidates = np.flatnonzero(of_class > score_threshold)
            order = candidates[np.argsort(-of_class[candidates], kind="stable")][:candidates_per_class]
            kept += [(of_class[i], label, i) for i in order[suppress(picture_boxes[order], iou_threshold)]]
        kept = sorted(kept, key=lambda each: -each[0])[:max_detections]
        rows = np.array([i for _, _, i in kept], np.int64)
        labels = np.array([label for _, label, _ in kept], np.int64)
        found.append((picture_boxes[rows], picture_scores[rows, labels], labels))
    return found


def decode(offsets: np.ndarray, default_boxes: np.ndarray) -> np.ndarray:
    """[..., 8732, 4] -> left, top, right, bottom; SSD's variances are 0.1 and 0.2."""
    centres = offsets[..., :2] * np.float32(0.1) * default_boxes[:, 2:] + default_boxes[:, :2]
    halves = np.exp(offsets[..., 2:] * np.float32(0.2)) * default_boxes[:, 2:] * np.float32(0.5)
    return np.concatenate([centres - halves, centres + halves], axis=-1)


def suppress(boxes: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Boxes [n, 4] by descending score -> bool [n]: its IoU with every better kept one is below the threshold."""
    keep = np.ones(len(boxes), bool)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i in range(len(boxes)):
        if keep[i]:
            low, high = np.maximum(boxes[i, :2], boxes[:, :2]), np.minimum(boxes[i, 2:], boxes[:, 2:])
            intersection = np.prod(np.clip(high - low, 0, None), axis=1)
            union = np.maximum(areas[i] + areas - intersection, np.finfo(np.float32).tiny)
            keep[i + 1 :] &= (intersection / union < iou_threshold)[i + 1 :]
    return keep
