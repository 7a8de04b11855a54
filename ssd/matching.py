"""Assigns ground truths to default boxes (SSD paper, section 2.2, "Matching strategy"), for a whole batch."""

import functools

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
    default_xyxy = cxcywh_to_xyxy(default_boxes)
    if labels.device.type == "cpu":
        return match_by_image(boxes, labels, default_xyxy, iou_threshold)
    return match_in_fixed_shapes(boxes, labels, default_xyxy, iou_threshold)


def match_in_fixed_shapes(
    boxes: Tensor, labels: Tensor, default_xyxy: Tensor, iou_threshold: float
) -> tuple[Tensor, Tensor]:
    """`match` for accelerators: no loop, nothing read on the host, no shape that depends on the data.

    Arguments and result as there, but for default_xyxy: float32 [A, 4] xyxy, normalised, not clamped.
    """
    num_boxes, num_truths = len(default_xyxy), labels.shape[1]
    unmatched = _unmatched(default_xyxy)
    if num_truths == 0:
        return unmatched.expand(len(labels), -1, -1), labels.new_zeros((len(labels), num_boxes))
    is_truth = labels > 0  # [B, G]
    # Padding has no area, so its IoU is 0 everywhere and it never exceeds a threshold.
    iou = box_iou(boxes * is_truth.unsqueeze(-1), default_xyxy)  # [B, G, A]
    truths = torch.arange(num_truths, device=labels.device)
    best_iou, best_truth = _max_and_first(iou, 1, truths.view(-1, 1))  # [B, A]
    best_default = _best_default(iou)  # [B, G]

    # Forced matches: a ground truth yields if a later one wants the same box, so the boxes written are distinct and the
    # scatter is deterministic on every device. Column A takes what is not to be written.
    same = best_default.unsqueeze(2) == best_default.unsqueeze(1)  # [B, earlier, later]
    yields = (same & is_truth.unsqueeze(1)).triu(diagonal=1).any(dim=2)
    wanted = torch.where(is_truth & ~yields, best_default, num_boxes)
    order = (truths + 1).expand_as(wanted)
    forced = labels.new_zeros((len(labels), num_boxes + 1)).scatter(1, wanted, order)[:, :-1]  # [B, A], 0 = not forced

    truth = torch.where(forced > 0, forced - 1, best_truth)
    positive = (forced > 0) | (best_iou > iou_threshold)
    gathered = xyxy_to_cxcywh(boxes).gather(1, truth.unsqueeze(-1).expand(-1, -1, 4))
    return torch.where(positive.unsqueeze(-1), gathered, unmatched), torch.where(positive, labels.gather(1, truth), 0)


def match_by_image(boxes: Tensor, labels: Tensor, default_xyxy: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """`match` for the CPU: an image's planes stay in the cache, its padding and the default boxes that match nothing
    (nearly all) cost little.

    Arguments and result as there, but for default_xyxy: float32 [A, 4] xyxy, normalised, not clamped.
    """
    matched_boxes = _unmatched(default_xyxy).repeat(len(labels), 1, 1)
    matched_labels = labels.new_zeros((len(labels), len(default_xyxy)))
    for image, is_truth in enumerate(labels > 0):
        own_boxes, own_labels = boxes[image, is_truth], labels[image, is_truth]
        if len(own_labels) == 0:
            continue
        iou = box_iou(own_boxes, default_xyxy)  # [G, A]
        above = (iou.amax(dim=0) > iou_threshold).nonzero().squeeze(1)
        best_truth = iou[:, above].argmax(dim=0)  # the first of equals
        forced = dict(zip(_best_default(iou).tolist(), range(len(own_labels)), strict=True))  # the later one wins
        own_boxes = xyxy_to_cxcywh(own_boxes)
        for where, truth in ((above, best_truth), (list(forced), list(forced.values()))):
            matched_boxes[image, where] = own_boxes[truth]
            matched_labels[image, where] = own_labels[truth]
    return matched_boxes, matched_labels


def _unmatched(default_xyxy: Tensor) -> Tensor:
    """What a default box without a ground truth gets: itself, [A, 4] cxcywh.

    By way of its corners, as every box in the reference, so both agree to the last bit.
    """
    return xyxy_to_cxcywh(default_xyxy)


def _best_default(iou: Tensor) -> Tensor:
    """[..., G, A] -> [..., G]: every ground truth's default box of highest IoU."""
    rank, by_rank = _tie_order(iou.shape[-1], iou.device)
    return by_rank[_max_and_first(iou, -1, rank)[1]]


def _max_and_first(values: Tensor, dim: int, rank: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum over `dim`, and the lowest of the integer `rank`s (0 .. size - 1, broadcast) that attain it.

    In float32, which vectorises, unlike argmax; and no backend's order among equals is relied on.
    """
    highest = values.amax(dim, keepdim=True)
    size = values.shape[dim]
    attained = (values - highest).eq_(0).mul_(size - rank)  # exact: no size reaches 2^24
    return highest.squeeze(dim), size - attained.amax(dim).long()


@functools.cache
def _tie_order(num_boxes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The rank of every default box, and the default box of every rank: [A] each."""
    rank = tie_rank(num_boxes, device)
    return rank, rank.argsort()


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
