"""Assigns ground truths to default boxes (SSD paper, section 2.2, "Matching strategy"), for a whole batch."""

import functools

import torch
from torch import Tensor

from ssd.boxes import box_iou, cxcywh_to_xyxy, paired_iou, xyxy_to_cxcywh
from ssd.default_boxes import tie_rank
from ssd.grid import candidates, grids


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
    # What is compiled has fixed shapes on the CPU too.
    on_cpu = labels.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_cpu and torch.equal(default_boxes, grids().default_boxes):
        return match_by_grid(boxes, labels, iou_threshold)
    return match_in_fixed_shapes(boxes, labels, cxcywh_to_xyxy(default_boxes), iou_threshold)


def match_in_fixed_shapes(
    boxes: Tensor, labels: Tensor, default_xyxy: Tensor, iou_threshold: float
) -> tuple[Tensor, Tensor]:
    """`match` for accelerators and default boxes of any kind: nothing read on the host, no shape that depends on the
    data.

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


def match_by_grid(boxes: Tensor, labels: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor]:
    """`match` on the CPU for SSD300's own default boxes: of them only those are looked at that can be matched.

    Arguments and result as there.
    """
    default_xyxy = grids().default_xyxy
    num_boxes = len(default_xyxy)
    image, place = (labels > 0).nonzero(as_tuple=True)
    boxes, own_labels = boxes[image, place], labels[image, place]  # [N, 4], [N]
    truth, box = candidates(boxes, iou_threshold)  # [E], truths ascending
    iou = paired_iou(boxes[truth], default_xyxy[box])

    # Each truth's best default box, of equals the one of lowest rank.
    attained = iou == _of_group(iou, truth, len(boxes), "amax")[truth]
    rank, by_rank = _tie_order(num_boxes, labels.device)
    best_default = by_rank[_of_group(rank[box[attained]], truth[attained], len(boxes), "amin")]

    # Who is written where, in this order: a later one replaces an earlier one. The first truth of equal IoU wins, and
    # of forced ones the last.
    above = (iou > iou_threshold).nonzero().squeeze(1).flip(0)
    above = above[iou[above].argsort(stable=True)]
    truths = torch.cat((truth[above], torch.arange(len(boxes))))
    where = image[truths] * num_boxes + torch.cat((box[above], best_default))
    order = torch.arange(len(where))
    stays = order == _of_group(order, where, len(labels) * num_boxes, "amax")[where]
    where, truths = where[stays], truths[stays]

    matched_boxes = _unmatched(default_xyxy).repeat(len(labels), 1)
    matched_labels = labels.new_zeros(len(matched_boxes))
    matched_boxes[where] = xyxy_to_cxcywh(boxes)[truths]
    matched_labels[where] = own_labels[truths]
    return matched_boxes.view(-1, num_boxes, 4), matched_labels.view(-1, num_boxes)


def _of_group(values: Tensor, group: Tensor, groups: int, reduce: str) -> Tensor:
    """[E] values and the group of each -> [groups], the highest ("amax") or lowest ("amin") of each group."""
    return values.new_empty(groups).scatter_reduce_(0, group, values, reduce, include_self=False)


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


@torch.compiler.assume_constant_result  # a compiler would trace what is cached, and not cache it
def _tie_order(num_boxes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The rank of every default box, and the default box of every rank: [A] each."""
    return _cached_tie_order(num_boxes, device)


@functools.cache
def _cached_tie_order(num_boxes: int, device: torch.device) -> tuple[Tensor, Tensor]:
    rank = tie_rank(num_boxes, device)
    return rank, rank.argsort()
