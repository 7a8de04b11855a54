"""Box geometry: corner and centre forms, IoU, and the offsets that SSD regresses (SSD paper, section 2.2).

Boxes are normalised to the image: xyxy is (left, top, right, bottom), cxcywh is (centre x, centre y, width, height).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# SSD's "variances": offsets are divided by them so that targets have about unit scale (reference recipe).
CENTRE_SCALE = 0.1
SIZE_SCALE = 0.2


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """[..., 4] cxcywh -> [..., 4] xyxy."""
    centre, half = boxes[..., :2], boxes[..., 2:] * 0.5
    return torch.cat((centre - half, centre + half), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """[..., 4] xyxy -> [..., 4] cxcywh."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) * 0.5, high - low), dim=-1)


@torch.no_grad()
def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every pair of xyxy boxes: [..., N, 4] and [..., M, 4] -> [..., N, M].

    Two boxes without area have IoU 0, never NaN. Not differentiable (it works in place).
    """
    # One plane per coordinate, [..., N, 1] against [..., 1, M] without [..., N, M, 2] temporaries; those along M lie
    # contiguous, or nothing would vectorise.
    return _iou([p.unsqueeze(-1) for p in a.unbind(-1)], [p.unsqueeze(-2) for p in b.movedim(-1, 0).contiguous()])


@torch.no_grad()
def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of pairs of xyxy boxes: [..., 4] and [..., 4] -> [...], to the bit as `box_iou`."""
    return _iou(a.unbind(-1), b.unbind(-1))


def _iou(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Of planes: left, top, right and bottom of boxes."""
    a_left, a_top, a_right, a_bottom = a
    b_left, b_top, b_right, b_bottom = b
    width = torch.minimum(a_right, b_right).sub_(torch.maximum(a_left, b_left)).clamp_(min=0)
    height = torch.minimum(a_bottom, b_bottom).sub_(torch.maximum(a_top, b_top)).clamp_(min=0)
    intersection = width.mul_(height)
    a_area = (a_right - a_left) * (a_bottom - a_top)
    b_area = (b_right - b_left) * (b_bottom - b_top)
    union = (a_area + b_area).sub_(intersection).clamp_(min=torch.finfo(intersection.dtype).tiny)
    return intersection.div_(union)


def encode_offsets(boxes_cxcywh: Tensor, default_boxes: Tensor) -> Tensor:
    """What the model should predict for each box: [..., A, 4] cxcywh boxes, [A, 4] cxcywh default boxes -> [..., A, 4].

    Sizes must be positive; the data layer drops degenerate boxes (log(0) would be -inf).
    """
    centres = (boxes_cxcywh[..., :2] - default_boxes[..., :2]) / (CENTRE_SCALE * default_boxes[..., 2:])
    sizes = torch.log(boxes_cxcywh[..., 2:] / default_boxes[..., 2:]) / SIZE_SCALE
    return torch.cat((centres, sizes), dim=-1)


def decode_offsets(offsets: Tensor, default_boxes: Tensor) -> Tensor:
    """Inverse of `encode_offsets`: offsets and cxcywh default boxes, both [..., A, 4] -> cxcywh boxes [..., A, 4]."""
    centres = offsets[..., :2] * CENTRE_SCALE * default_boxes[..., 2:] + default_boxes[..., :2]
    sizes = torch.exp(offsets[..., 2:] * SIZE_SCALE) * default_boxes[..., 2:]
    return torch.cat((centres, sizes), dim=-1)
