"""Detections of a picture's views, the whole and its tiles -> detections of the picture, each object once.

An object that a tile's border cuts is seen in parts, and suppression by IoU keeps a small part beside the whole. So:

1. What ends at a border between tiles and lies wholly within what the neighbour there shares is left to the neighbour,
   which sees all of it and what lies beyond. Every object that is not larger than the overlap is whole in some tile, so
   no part of one is left, whatever the scores. (What ends at the neighbour's border as well is whole in both.)
2. What ends at such a border and reaches deeper is left out where another view has it: where `COVERED` of its area lies
   in a detection of its class that no border cuts, and that scores at least `SURE` of its score, or in a part of a
   higher score.
3. Of all others the best survive, as in `postprocess.detect`: exact greedy suppression per class.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssd.default_boxes import IMAGE_SIZE
from ssd.suppression import suppress_with_kernel

# A box ends at a border that is nearer than this share of its side, or than one pixel of the network's: about how
# exactly SSD's boxes are placed. Where a whole object is taken for cut, the neighbour has it.
NEAR = 0.1
COVERED = 0.5
SURE = 0.5


@torch.no_grad()
def merge_views(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    windows: Tensor,
    shared: Tensor,
    iou_threshold: float = 0.5,
    max_detections: int = 200,
) -> tuple[Tensor, Tensor, Tensor]:
    """The detections of one picture from those of its V views; on the CPU.

    Args:
        boxes: float32 [V, D, 4] xyxy, normalised to the view. scores: float32 [V, D]. labels: int64 [V, D], 0 = none.
        windows: [V, 4] xyxy in pixels of the picture. shared: [V, 4], how many pixels deep the neighbours at the left,
            top, right and bottom reach into the view; -1: none there.

    Returns, by descending score and 0-padded: boxes float32 [max_detections, 4] xyxy in pixels of the picture, scores
    float32, labels int64.
    """
    view, place = labels.nonzero(as_tuple=True)
    order = scores[view, place].argsort(descending=True, stable=True)
    view, place = view[order], place[order]
    window = windows[view].float()
    side = window[:, 2:] - window[:, :2]
    boxes = boxes[view, place] * side.repeat(1, 2) + window[:, :2].repeat(1, 2)
    scores, labels = scores[view, place], labels[view, place]
    cut, elsewhere = _at_borders(boxes, window, shared[view].float())
    kept = ~elsewhere
    for row in (cut & kept).nonzero().squeeze(1).tolist():
        others = kept & (labels == labels[row]) & (view != view[row])
        others &= torch.where(cut, torch.arange(len(cut)) < row, scores >= SURE * scores[row])
        kept[row] = not (_share_within(boxes[row], boxes[others]) >= COVERED).any()
    boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
    if len(boxes):
        every = torch.ones(1, len(boxes), dtype=torch.bool)
        best = suppress_with_kernel(boxes[None], labels[None], every, iou_threshold)[0].nonzero().squeeze(1)
        boxes, scores, labels = (each[best[:max_detections]] for each in (boxes, scores, labels))
    missing = max_detections - len(boxes)
    return F.pad(boxes, (0, 0, 0, missing)), F.pad(scores, (0, missing)), F.pad(labels, (0, missing))


def _at_borders(boxes: Tensor, window: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
    """Of boxes [P, 4] in their views' windows, both in pixels: which end at a border between tiles, and which of those
    lie within what the neighbour there shares. bool [P]"""
    margin = torch.maximum(NEAR * (boxes[:, 2:] - boxes[:, :2]), (window[:, 2:] - window[:, :2]) / IMAGE_SIZE)
    gap = torch.cat((boxes[:, :2] - window[:, :2], window[:, 2:] - boxes[:, 2:]), 1)
    depth = torch.cat((boxes[:, 2:] - window[:, :2], window[:, 2:] - boxes[:, :2]), 1)
    ends = (gap <= margin.repeat(1, 2)) & (shared >= 0)
    return ends.any(1), (ends & (2 * gap.clamp(min=0) < shared - depth)).any(1)


def _share_within(box: Tensor, others: Tensor) -> Tensor:
    """What share of the area of a box [4] lies in each of others [n, 4]; [n]"""
    sides = torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])
    return (sides.clamp(min=0) / (box[2:] - box[:2]).clamp(min=torch.finfo(torch.float32).tiny)).prod(1)
