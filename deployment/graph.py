"""What is exported: from uint8 pictures to raw outputs, and on to detections in operators of ONNX."""

import numpy as np
import torch
from torch import Tensor, nn

from coco.augment import IMAGENET_MEAN, IMAGENET_STD
from ssd.boxes import cxcywh_to_xyxy, decode_offsets
from ssd.default_boxes import ssd300_default_boxes
from ssd.fold import fold_batch_norm
from ssd.model import SSD300
from ssd.postprocess import Thresholds


class RawGraph(nn.Module):
    """uint8 RGB [B, 3, 300, 300] -> offsets float32 [B, A, 4], logits float32 [B, A, C + 1].

    Normalisation is inside, and batch normalisation folded; float32 weights in evaluation mode, a copy of the model's.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: SSD300) -> None:
        super().__init__()
        self.model = fold_batch_norm(model).float().cpu()
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD).view(3, 1, 1))
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.model((images.float() - self.mean) / self.std)


class Suppression(nn.Module):
    """offsets [B, A, 4], logits [B, A, C + 1] -> `detect`'s boxes [B, D, 4], scores [B, D] and labels int64 [B, D].

    Only for an exporter to ONNX: suppression is ONNX's own operator, one call for the whole batch. As in `detect` it
    sees the best `candidates_per_class` of each class, every class of every image as an image of its own.
    """

    default_boxes: Tensor

    def __init__(self, thresholds: Thresholds) -> None:
        super().__init__()
        thresholds.check()
        self.thresholds = thresholds
        self.register_buffer("default_boxes", ssd300_default_boxes())

    def forward(self, offsets: Tensor, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scores = logits.softmax(dim=-1)[..., 1:].transpose(1, 2)  # [B, C, A]
        scores, anchors = scores.topk(self.thresholds.candidates_per_class)  # [B, C, K], descending
        num_classes, count = scores.shape[1:]
        anchors = anchors.flatten(1)  # [B, C * K]
        all_boxes = cxcywh_to_xyxy(decode_offsets(offsets, self.default_boxes))
        boxes = all_boxes.gather(1, anchors.unsqueeze(-1).expand(-1, -1, 4))  # [B, C * K, 4]
        kept = self._suppress(boxes.reshape(-1, count, 4), scores.reshape(-1, 1, count))
        kept = kept[:, 0] * count + kept[:, 2]
        keep = torch.zeros_like(scores).flatten().scatter(0, kept, (kept >= 0).float())
        scores = scores.flatten(1) * keep.reshape(-1, num_classes * count)
        scores, order = scores.topk(min(self.thresholds.max_detections, num_classes * count))
        boxes = boxes.gather(1, order.unsqueeze(-1).expand(-1, -1, 4))
        found = scores > 0
        labels = torch.where(found, torch.div(order, count, rounding_mode="trunc") + 1, 0)
        return torch.where(found.unsqueeze(-1), boxes, 0.0), scores, labels

    def _suppress(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """[N, K, 4], [N, 1, K] -> int64 [kept, 3]: row, 0, place. (Of `kept` the exporter wants to see some number.)"""
        # The operator suppresses above its threshold, `detect` at it: the next smaller float32.
        iou = float(np.nextafter(np.float32(self.thresholds.iou), np.float32(0)))
        limits = (torch.tensor(boxes.shape[1]), torch.tensor(iou), torch.tensor(self.thresholds.score))
        return torch.onnx.ops.symbolic(
            "NonMaxSuppression", (boxes, scores, *limits), dtype=torch.int64, shape=(7, 3), version=11
        )


class DetectionGraph(nn.Module):
    """uint8 RGB [B, 3, 300, 300] -> detections: `RawGraph`, then `Suppression`."""

    def __init__(self, raw: RawGraph, thresholds: Thresholds) -> None:
        super().__init__()
        self.raw, self.suppression = raw, Suppression(thresholds)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.suppression(*self.raw(images))
