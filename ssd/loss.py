"""The multibox loss: smooth L1 on positives, cross-entropy with hard negative mining (SSD paper, section 2.2)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssd.boxes import encode_offsets
from ssd.default_boxes import ssd300_default_boxes


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
        # Sums over thousands of boxes need float32, under autocast too.
        offsets, logits = (part.to(torch.promote_types(part.dtype, torch.float32)) for part in (offsets, logits))
        positive = matched_labels > 0  # [B, A]
        num_positive = positive.sum(dim=1)  # [B]

        distance = F.smooth_l1_loss(offsets, encode_offsets(matched_boxes, self.default_boxes), reduction="none").sum(
            -1
        )
        localisation = torch.where(positive, distance, 0.0).sum(dim=1)

        weights = None if self.class_weights is None else self.class_weights.to(logits.dtype)
        cross_entropy = F.cross_entropy(logits.flatten(0, 1), matched_labels.flatten(), weights, reduction="none")
        cross_entropy = cross_entropy.view_as(matched_labels)
        # Sorting the losses themselves, instead of ranking boxes, needs one sort and selects the same sum.
        hardest = torch.where(positive, 0.0, cross_entropy).sort(dim=1, descending=True).values
        rank = torch.arange(hardest.shape[1], device=hardest.device)
        negatives = self.negatives_per_positive * num_positive + self.background_negatives * (num_positive == 0)
        mined = rank < negatives.unsqueeze(1)
        confidence = (cross_entropy * positive).sum(dim=1) + (hardest * mined).sum(dim=1)

        divisor = num_positive.clamp(min=1)
        return (localisation / divisor).mean(), (confidence / divisor).mean()
