"""Assigns ground truths to default boxes, batched and without loops (SSD paper, section 2.2, "Matching strategy")."""

import torch
from torch import Tensor

from ssd.boxes import box_iou, cxcywh_to_xyxy, xyxy_to_cxcywh
from ssd.default_boxes import tie_rank


def match(boxes: Tensor, labels: Tensor, default_boxes: Tensor, iou_threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """Gives every default box its ground truth, or background.

    A default box takes the ground truth of highest IoU if that IoU exceeds `iou_threshold`; and every ground truth gets
    its best default box whatever their IoU, the later ground truth winning where two want the same one.

    Args:
        boxes: float32 [B, G, 4] xyxy, normalised, 0-padded.
        labels: int64 [B, G], 1..C; 0 marks padding.
        default_boxes: float32 [A, 4] cxcywh.

    Returns:
        matched_boxes: float32 [B, A, 4] cxcywh; the default box itself where nothing matched.
        matched_labels: int64 [B, A]; 0 (background) where nothing matched.
    """
    num_boxes, num_truths = len(default_boxes), labels.shape[1]
    if num_truths == 0:
        return default_boxes.expand(len(labels), -1, -1), labels.new_zeros((len(labels), num_boxes))
    default_xyxy = cxcywh_to_xyxy(default_boxes)
    is_truth = labels > 0  # [B, G]
    # Padding has no area, so its IoU is 0 everywhere and it never exceeds a threshold.
    iou = box_iou(boxes * is_truth.unsqueeze(-1), default_xyxy)  # [B, G, A]
    best_iou, best_truth = iou.max(dim=1)  # [B, A]
    rank = tie_rank(num_boxes, labels.device)
    best_default = torch.where(iou == iou.amax(dim=2, keepdim=True), rank, num_boxes).argmin(dim=2)  # [B, G]

    # Forced matches: a ground truth yields if a later one wants the same box, so the boxes written are distinct and the
    # scatter is deterministic on every device. Column A takes what is not to be written.
    same = best_default.unsqueeze(2) == best_default.unsqueeze(1)  # [B, earlier, later]
    yields = (same & is_truth.unsqueeze(1)).triu(diagonal=1).any(dim=2)
    wanted = torch.where(is_truth & ~yields, best_default, num_boxes)
    order = torch.arange(1, num_truths + 1, device=labels.device).expand_as(wanted)
    forced = labels.new_zeros((len(labels), num_boxes + 1)).scatter(1, wanted, order)[:, :-1]  # [B, A], 0 = not forced

    truth = torch.where(forced > 0, forced - 1, best_truth)
    positive = (forced > 0) | (best_iou > iou_threshold)
    gathered = boxes.gather(1, truth.unsqueeze(-1).expand(-1, -1, 4))
    # The unmatched row goes through the corner form too, as the reference's does, so both agree to the last bit.
    matched_boxes = xyxy_to_cxcywh(torch.where(positive.unsqueeze(-1), gathered, default_xyxy))
    return matched_boxes, torch.where(positive, labels.gather(1, truth), 0)


def best_iou(boxes: Tensor, default_boxes: Tensor) -> Tensor:
    """The IoU of each box with the default box that fits it best: [N, 4] xyxy, [A, 4] cxcywh -> [N].

    Default boxes of one shape stand on a grid, and of these the one whose centre is nearest, in x and in y, overlaps
    most. So the [N, A] matrix is not needed, and the boxes of a whole data set (860,000 in COCO) take seconds.

    Raises:
        ValueError: the default boxes of a shape are no full grid.
    """
    best = boxes.new_zeros(len(boxes))
    centre = xyxy_to_cxcywh(boxes)[:, :2]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for shape in default_boxes[:, 2:].unique(dim=0):
        of_shape = default_boxes[(default_boxes[:, 2:] == shape).all(dim=1), :2]
        columns, rows = of_shape[:, 0].unique(), of_shape[:, 1].unique()
        if len(columns) * len(rows) != len(of_shape):
            raise ValueError(f"the {len(of_shape)} default boxes of {shape.tolist()} are no grid of rows and columns")
        nearest = torch.stack((_nearest(columns, centre[:, 0]), _nearest(rows, centre[:, 1])), dim=1)
        corners = cxcywh_to_xyxy(torch.cat((nearest, shape.expand_as(nearest)), dim=1))
        overlap = torch.minimum(boxes, corners)[:, 2:] - torch.maximum(boxes, corners)[:, :2]
        intersection = overlap.clamp_(min=0).prod(dim=1)
        union = (area + shape.prod() - intersection).clamp_(min=torch.finfo(boxes.dtype).tiny)
        best = torch.maximum(best, intersection / union)
    return best


def _nearest(points: Tensor, values: Tensor) -> Tensor:
    """Of the ascending points the one nearest to each value."""
    right = torch.searchsorted(points, values.contiguous()).clamp_(max=len(points) - 1)
    left = (right - 1).clamp_(min=0)
    return torch.where(values - points[left] <= points[right] - values, points[left], points[right])
