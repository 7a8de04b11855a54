"""Model output -> detections: decode, score threshold, exact per-class NMS, best of the image; batched, on the device.

Only the best few hundred candidates of an image can reach its detections, so greedy NMS runs on a prefix of the score
order, which is exact for every candidate in it, and the prefix grows until the detections are certain.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssd.boxes import cxcywh_to_xyxy, decode_offsets
from ssd.suppression import suppress_with_kernel, suppress_with_tensors

FIRST_PREFIX = 512  # candidates; enough for nearly every image of a trained model
FIRST_ROUNDS = 8  # fixed-point rounds before convergence is checked; suppression chains are rarely longer


@torch.no_grad()
def detect(
    offsets: Tensor,
    logits: Tensor,
    default_boxes: Tensor,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    candidates_per_class: int = 200,
    max_detections: int = 200,
    use_kernel: bool | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Detections of a batch, exactly those of greedy NMS per class (published recipe, "Evaluation").

    Per class the boxes scoring above `score_threshold`, at most the best `candidates_per_class` of them; of these a box
    survives if its IoU with every better survivor of its class is below `iou_threshold` (equality suppresses); the best
    `max_detections` survivors of the image are returned. Boxes are not clipped to the image.

    Args:
        offsets: [B, A, 4]. logits: [B, A, C + 1], class 0 = background. default_boxes: [A, 4] cxcywh.
        use_kernel: suppress with torchvision's C++ operator (True) or with plain tensor operations of fixed shape
            (False), the same result either way. By default the operator on the CPU, tensors on accelerators, where a
            call per image and class would cost a sync each. There each attempt reads one pair of flags on the host;
            a second attempt (a longer prefix or chain) is rare.

    Returns, with D = max_detections, by descending score and 0-padded:
        boxes: float32 [B, D, 4] normalised xyxy; scores: float32 [B, D]; labels: int64 [B, D] (0 = none).

    Raises:
        ValueError: a threshold outside its range, or `use_kernel` on an MLU, which has no float64.
    """
    thresholds = Thresholds(score_threshold, iou_threshold, candidates_per_class, max_detections)
    if use_kernel and logits.device.type == "mlu":
        raise ValueError("use_kernel=True on an MLU: the operator's boxes are shifted apart in float64, which it lacks")
    use_kernel = logits.device.type == "cpu" if use_kernel is None else use_kernel
    prefix, rounds = FIRST_PREFIX, FIRST_ROUNDS
    while True:
        found, certain, converged = _attempt(
            offsets.float(), logits.float(), default_boxes, thresholds, prefix, rounds, use_kernel, may_read=True
        )
        certain, converged = torch.stack((certain, converged)).tolist()  # the one host sync of an attempt
        if certain and converged:
            return found
        prefix, rounds = prefix if certain else prefix * 4, rounds if converged else rounds * 4


def detect_bounded(
    offsets: Tensor,
    logits: Tensor,
    default_boxes: Tensor,
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    candidates_per_class: int = 200,
    max_detections: int = 200,
    prefix: int = 1024,
    rounds: int = 32,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`detect` as one fixed sequence of plain tensor operations, for export: no loop on data, no read on the host.

    Looks at the best `prefix` candidates of an image and resolves suppression chains of up to `rounds`. The fourth
    output is a 0-dim bool: True if that was enough for the whole batch, and the detections are exactly `detect`'s.
    """
    thresholds = Thresholds(score_threshold, iou_threshold, candidates_per_class, max_detections)
    found, certain, converged = _attempt(
        offsets.float(), logits.float(), default_boxes, thresholds, prefix, rounds, use_kernel=False, may_read=False
    )
    return *found, certain & converged


class Thresholds(NamedTuple):
    """What `detect` keeps; see there."""

    score: float
    iou: float
    candidates_per_class: int
    max_detections: int

    def check(self) -> None:
        if not 0 <= self.score < 1 or not 0 < self.iou <= 1:
            raise ValueError(
                "score_threshold must be in [0, 1) and iou_threshold in (0, 1]; "
                f"got score_threshold={self.score}, iou_threshold={self.iou}"
            )


def _attempt(
    offsets: Tensor,
    logits: Tensor,
    default_boxes: Tensor,
    thresholds: Thresholds,
    prefix: int,
    rounds: int,
    use_kernel: bool,
    may_read: bool,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
    """Detections from the best `prefix` candidates, and two 0-dim flags: whether longer prefixes could not change them,
    and whether `rounds` sufficed. `may_read`: let CPU tensors choose the work by their values."""
    thresholds.check()
    log_scores, anchor, labels, exhausted = _top_candidates(logits, prefix, thresholds.score, may_read)
    scores = log_scores.exp()  # [B, P], descending
    boxes = cxcywh_to_xyxy(decode_offsets(_rows(offsets, anchor), default_boxes[anchor]))
    rank = _rank_in_class(labels, logits.shape[-1] - 1)
    candidate = (scores > thresholds.score) & (rank < thresholds.candidates_per_class)
    if use_kernel:
        keep = suppress_with_kernel(boxes, labels, candidate, thresholds.iou)
        converged = keep.new_ones(())
    else:
        keep, converged = suppress_with_tensors(boxes, labels, candidate, thresholds.iou, rounds)
    # Certain if enough survive, or if the prefix reached below the threshold: nothing is left to come.
    enough = keep.sum(dim=1) >= thresholds.max_detections
    certain = (enough | (scores[:, -1] <= thresholds.score) | exhausted).all()
    return _best(keep, boxes, scores, labels, thresholds.max_detections), certain, converged


def _top_candidates(
    logits: Tensor, count: int, score_threshold: float, may_read: bool
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """The best `count` pairs of default box and class of each image: log-scores [B, P], descending, anchors [B, P],
    labels [B, P], and whether these are all that can exceed the threshold.

    They lie in the `count` default boxes of highest best score, so the top-k over all pairs is one over boxes, then one
    over the classes of those boxes.
    """
    foreground = logits[..., 1:]
    best = foreground.amax(dim=-1)  # [B, A]
    num_anchors, num_classes = foreground.shape[1:]
    possible = num_anchors
    if may_read and logits.device.type == "cpu" and score_threshold > 0:
        # A class scores at most as if it and background were alone. Where few boxes can pass that way (any trained
        # model), only their softmax is needed. On an accelerator reading the number would cost more than it saves.
        margin = best - logits[..., 0]
        least = math.log(score_threshold / (1 - score_threshold)) - 1e-3  # less a margin for rounding
        possible = int((margin > least).sum(dim=1).max())
    if possible <= count < num_anchors:
        rows = margin.topk(max(possible, 1)).indices
        log_scores = _rows(logits, rows).log_softmax(dim=-1)[..., 1:]  # [B, K, C]
        everything = True
    else:
        normaliser = _log_sum_exp(logits, best, may_read)
        rows = (best - normaliser).topk(min(count, num_anchors)).indices
        log_scores = _rows(foreground, rows) - normaliser.gather(1, rows).unsqueeze(-1)
        everything = count >= num_anchors
    log_scores, position = log_scores.flatten(1).topk(min(count, log_scores[0].numel()))
    exhausted = everything and log_scores.shape[1] == rows.shape[1] * num_classes
    return log_scores, rows.gather(1, position // num_classes), position % num_classes + 1, exhausted


def _log_sum_exp(logits: Tensor, best: Tensor, may_read: bool) -> Tensor:
    """logits [B, A, C + 1] and the best of their foreground [B, A] -> logsumexp over classes [B, A]."""
    if may_read and logits.device.type == "cpu" and torch.maximum(best, logits[..., 0]).abs().max() < 80:
        return logits.exp().sum(dim=-1).log()  # nothing over- or underflows, and twice as fast on a CPU
    return logits.logsumexp(dim=-1)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """values [B, A, K], index [B, P] -> [B, P, K]."""
    return values.gather(1, index.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def _rank_in_class(labels: Tensor, num_classes: int) -> Tensor:
    """labels [B, P] by descending score -> how many earlier candidates share the label, [B, P]."""
    seen = F.one_hot(labels - 1, num_classes).to(torch.int32).cumsum(dim=1, dtype=torch.int32)
    return seen.gather(2, (labels - 1).unsqueeze(-1)).squeeze(-1) - 1


def _best(keep: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first `count` kept candidates, 0-padded to that many."""
    length = keep.shape[1]
    # Distinct keys, descending in score order, exact in float32: a top-k without ties on any device.
    key = torch.where(keep, torch.arange(length, 0, -1, device=keep.device), 0).float()
    key, position = key.topk(min(count, length))
    real = key > 0
    boxes = torch.where(real.unsqueeze(-1), _rows(boxes, position), 0.0)
    scores = torch.where(real, scores.gather(1, position), 0.0)
    labels = torch.where(real, labels.gather(1, position), 0)
    missing = count - position.shape[1]
    return F.pad(boxes, (0, 0, 0, missing)), F.pad(scores, (0, missing)), F.pad(labels, (0, missing))
