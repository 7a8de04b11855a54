"""The multibox loss: smooth L1 on positives, cross-entropy with hard negative mining (SSD paper, section 2.2)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssd.boxes import encode_offsets
from ssd.default_boxes import ssd300_default_boxes
from ssd.matching import match


class MultiBoxLoss(nn.Module):
    """Localisation and confidence losses; their sum is the published recipe's loss.

    Per image: smooth L1 (beta 1) summed over positive default boxes; cross-entropy summed over them and the
    `negatives_per_positive` x as many negatives of highest loss; both divided by the number of positives (an image
    without any contributes 0, as in the recipe, which trains on none), then averaged over the batch. Fixed shapes, no
    loop over images, no host sync.

    Args:
        negatives_per_positive: of hard negative mining.
        background_negatives: negatives of an image without positives, whose sum counts as it is: such an image weighs
            like one with a single positive at 3, the ratio above. (TensorFlow's object detection API has the same as
            `min_negatives_per_image` of its HardExampleMiner.)

    `class_weights`, float32 [C + 1] or None, are factors of the cross-entropy by true class; negatives are mined by
    loss, which no weight of an object's class changes. `default_boxes`, float32 [A, 4] cxcywh. Both follow the module
    to its device.
    """

    default_boxes: Tensor
    class_weights: Tensor | None

    def __init__(self, negatives_per_positive: int = 3, background_negatives: int = 0) -> None:
        super().__init__()
        self.negatives_per_positive = negatives_per_positive
        self.background_negatives = background_negatives
        self.register_buffer("class_weights", None, persistent=False)
        self.register_buffer("default_boxes", ssd300_default_boxes(), persistent=False)

    def _apply(self, fn: Callable, recurse: bool = True) -> "MultiBoxLoss":
        """Geometry stays float32 in a network of another precision: in bfloat16 a box would move by a pixel."""
        super()._apply(fn, recurse)
        if self.default_boxes.dtype != torch.float32:
            self.default_boxes = ssd300_default_boxes().to(self.default_boxes.device)
        return self

    def forward(
        self, offsets: Tensor, logits: Tensor, matched_boxes: Tensor, matched_labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """offsets [B, A, 4], logits [B, A, C + 1], matched_boxes [B, A, 4] cxcywh, matched_labels int64 [B, A].

        Returns (localisation, confidence), two scalars: float32, float64 of a float64 network.
        """
        if logits.device.type == "cpu" and not torch.compiler.is_compiling():
            return self.of_rows(offsets, logits, matched_boxes, matched_labels)
        return self.in_fixed_shapes(offsets, logits, matched_boxes, matched_labels)

    def in_fixed_shapes(
        self, offsets: Tensor, logits: Tensor, matched_boxes: Tensor, matched_labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`forward` for accelerators: no shape depends on the data."""
        offsets, logits = _summable(offsets), _summable(logits)
        positive = matched_labels > 0  # [B, A]
        num_positive = positive.sum(dim=1)  # [B]
        target = encode_offsets(matched_boxes, self.default_boxes)
        distance = F.smooth_l1_loss(offsets, target, reduction="none").sum(-1)
        localisation = torch.where(positive, distance, 0.0).sum(dim=1)

        cross_entropy = self._cross_entropy(logits, matched_labels)
        # Sorting the losses themselves, instead of ranking boxes, needs one sort and selects the same sum.
        hardest = torch.where(positive, 0.0, cross_entropy).sort(dim=1, descending=True).values
        rank = torch.arange(hardest.shape[1], device=hardest.device)
        mined = rank < self._negatives(num_positive).unsqueeze(1)
        confidence = (cross_entropy * positive).sum(dim=1) + (hardest * mined).sum(dim=1)

        divisor = num_positive.clamp(min=1)
        return (localisation / divisor).mean(), (confidence / divisor).mean()

    def of_rows(
        self, offsets: Tensor, logits: Tensor, matched_boxes: Tensor, matched_labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`forward` for the CPU: the same but for the order of sums, with a graph for the default boxes alone that
        count, a few in a hundred."""
        positive = matched_labels > 0  # [B, A]
        num_positive = positive.sum(dim=1)  # [B]
        with torch.no_grad():
            # Picture by picture: what is computed along the way stays in the cache.
            by_image = map(self._cross_entropy, map(_summable, logits), matched_labels)
            losses = torch.stack(list(by_image)).masked_fill_(positive, 0)
            negatives = self._negatives(num_positive).clamp(max=losses.shape[1])
            hardest = losses.topk(int(negatives.max()), dim=1).indices  # [B, K], descending
            mined = torch.zeros_like(positive).scatter_(1, hardest, _first(negatives, hardest.shape[1]))
        counted = num_positive.clamp(min=1) * len(matched_labels)
        share = counted.to(losses.dtype).reciprocal()  # [B], of an image's sum in the mean

        image, box = positive.nonzero(as_tuple=True)
        target = encode_offsets(matched_boxes[image, box], self.default_boxes[box])
        distance = F.smooth_l1_loss(_rows(offsets, image, box), target, reduction="none").sum(-1)
        localisation = (distance * share[image]).sum()

        image, box = (positive | mined).nonzero(as_tuple=True)
        cross_entropy = self._cross_entropy(_rows(logits, image, box), matched_labels[image, box])
        return localisation, (cross_entropy * share[image]).sum()

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[..., C + 1] and [...] -> [...]."""
        weights = None if self.class_weights is None else self.class_weights.to(logits.dtype)
        losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), weights, reduction="none")
        return losses.view_as(labels)

    def _negatives(self, num_positive: Tensor) -> Tensor:
        """int64 [B], how many negatives of each image count."""
        return self.negatives_per_positive * num_positive + self.background_negatives * (num_positive == 0)


def loss_of_boxes(
    criterion: MultiBoxLoss, offsets: Tensor, logits: Tensor, boxes: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """(localisation, confidence) of ground truths as they come: boxes [B, G, 4] and labels [B, G] as `match` takes
    them."""
    return criterion(offsets, logits, *match(boxes, labels, criterion.default_boxes))


def _summable(values: Tensor) -> Tensor:
    """Sums over thousands of boxes need float32, under autocast too."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _rows(values: Tensor, image: Tensor, box: Tensor) -> Tensor:
    """[B, A, n] -> [rows, n]."""
    return _summable(values.flatten(0, 1).index_select(0, image * values.shape[1] + box))


def _first(counts: Tensor, width: int) -> Tensor:
    """[B] -> bool [B, width], the first of each row."""
    return torch.arange(width) < counts.unsqueeze(1)
