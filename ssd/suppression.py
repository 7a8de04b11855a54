"""Exact greedy suppression per image and class: torchvision's operator, or plain tensor operations of fixed shape."""

import math

import torch
import torchvision
from torch import Tensor

from ssd.boxes import box_iou

BLOCK = 512  # candidates whose pairwise IoUs are held at once: bounds the memory of the tensor form
LARGEST_SHIFTED = 2.0**16  # images; see `suppress_with_kernel`


def suppress_with_kernel(boxes: Tensor, labels: Tensor, candidate: Tensor, iou_threshold: float) -> Tensor:
    """Greedy NMS per image and class by torchvision's operator: [B, P, ...] -> keep [B, P].

    Classes are kept apart by shifting each by a multiple of a power of two. In float64 that moves no coordinate by more
    than 2^-29 of the image, far below the float32 rounding of boxes; in float32 it would move IoUs. Where a box is so
    large that even float64 would round (or infinite: a network that diverges), classes are taken one by one.
    """
    largest = float(boxes.abs().amax())
    shift = largest < LARGEST_SHIFTED
    span = 2.0 ** math.ceil(math.log2(2 * largest + 2)) if shift else 0.0
    shifted = boxes.double() + span * labels.unsqueeze(-1)
    order = torch.arange(boxes.shape[1], 0, -1, device=boxes.device, dtype=torch.float64)  # by position, ties included
    threshold = math.nextafter(iou_threshold, 0)  # the operator suppresses above its threshold, we at it
    keep = torch.zeros_like(candidate)
    for image in range(len(boxes)):
        members = candidate[image].nonzero().squeeze(1)
        classes = labels[image, members]
        for group in [members] if shift else [members[classes == label] for label in classes.unique()]:
            keep[image, group[torchvision.ops.nms(shifted[image, group], order[group], threshold)]] = True
    return keep


def suppress_with_tensors(
    boxes: Tensor, labels: Tensor, candidate: Tensor, iou_threshold: float, rounds: int
) -> tuple[Tensor, Tensor]:
    """The same in plain tensor operations: keep [B, P] and a 0-dim flag that says whether `rounds` were enough.

    A candidate is kept if no kept better one conflicts with it. Iterating that from "all kept" settles the candidates
    in score order, at least one of a suppression chain per round, and ends in the greedy result.
    """
    kept: list[Tensor] = []
    converged = torch.ones((), dtype=torch.bool, device=boxes.device)
    for start in range(0, boxes.shape[1], BLOCK):
        block = slice(start, start + BLOCK)
        alive = candidate[:, block]
        for earlier, previous in enumerate(kept):
            before = slice(earlier * BLOCK, earlier * BLOCK + BLOCK)
            conflict = _conflicts(boxes, labels, before, block, iou_threshold)
            alive = alive & ~_any_kept(previous, conflict)
        conflict = _conflicts(boxes, labels, block, block, iou_threshold).triu(diagonal=1)
        keep = alive
        for _ in range(min(rounds, BLOCK)):
            keep, last = alive & ~_any_kept(keep, conflict), keep
        converged = converged & ((keep == last).all() if rounds < BLOCK else True)
        kept.append(keep)
    return torch.cat(kept, dim=1), converged


def _conflicts(boxes: Tensor, labels: Tensor, better: slice, worse: slice, iou_threshold: float) -> Tensor:
    """float32 [B, better, worse]: 1 where two boxes of one class overlap by the threshold or more."""
    overlap = box_iou(boxes[:, better], boxes[:, worse]) >= iou_threshold
    return (overlap & (labels[:, better].unsqueeze(2) == labels[:, worse].unsqueeze(1))).float()


def _any_kept(keep: Tensor, conflict: Tensor) -> Tensor:
    """[B, better] bool, [B, better, worse] -> [B, worse]: does any kept better candidate conflict with it?"""
    return torch.bmm(keep.float().unsqueeze(1), conflict).squeeze(1) > 0
