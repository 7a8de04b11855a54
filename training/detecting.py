"""What validation and prediction are to a LightningModule that detects, whatever computes its detections."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from checkpoints.operating_point import OperatingPoint
from coco.tiles import Tiling
from coco.views import Views
from evaluation.metric import CocoMeanAveragePrecision
from ssd.merging import merge_views
from training.evaluated_data import evaluated_annotations

Detected = tuple[Tensor, Tensor, Tensor]


class DetectingModule(pl.LightningModule):
    """The base of SSDModule and of exported detectors.

    Its hparams have score_threshold, iou_threshold and max_detections.

    Attributes:
        class_names, category_ids: C each; label l of the detections is the l-th.
        operating_point: score thresholds of the checkpoint, for prediction.
        tiling: of the run that trained it, for prediction; evaluation does as its data module says.
        metric, numbers: of the last validation (float64; Lightning logs them as float32).
    """

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __init__(self) -> None:
        super().__init__()
        self.metric: CocoMeanAveragePrecision | None = None
        self.operating_point: OperatingPoint | None = None
        self.tiling: Tiling | None = None
        self.numbers: dict[str, float] = {}

    @abstractmethod
    def outputs(self, batch: dict[str, Any]) -> Any:
        """What the network makes of a batch's images [B, 3, 300, 300]: normalised by a data module, or else uint8."""

    @abstractmethod
    def detections(self, outputs: Any, score_threshold: float) -> Detected:
        """boxes [B, D, 4] normalised xyxy, scores [B, D], labels [B, D], as `ssd.postprocess.detect`'s."""

    def on_validation_epoch_start(self) -> None:
        annotations = evaluated_annotations(self.trainer)
        if self.metric is None or self.metric.annotations is not annotations:
            self.metric = CocoMeanAveragePrecision(annotations)
        self.metric.reset()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> Detected:
        """batch: images, image_ids, sizes and, with tiles, views of `COCODataModule`; an empty one (see its sampler)
        adds nothing.

        Returns boxes [B, D, 4] in pixels of the original images, scores [B, D], labels [B, D], on the CPU.
        """
        return self.evaluate(batch, self.outputs)

    def evaluate(self, batch: dict[str, Any], outputs_of: Callable[[dict[str, Any]], Any]) -> Detected:
        """Adds a batch to the metric; `validation_step` says more. outputs_of: `outputs`, or more than it."""
        detections = self._detect(batch, outputs_of=outputs_of)
        assert self.metric is not None  # made when the epoch starts
        self.metric.update(batch["image_ids"], *detections)
        return detections

    def on_validation_epoch_end(self) -> None:
        """Every rank computes the same numbers from all ranks' detections, so nothing is left to reduce."""
        assert self.metric is not None  # made when the epoch starts
        self.numbers = numbers = self.metric.compute()
        if not self.trainer.sanity_checking:
            stage = "test" if self.trainer.testing else "val"
            self.log_dict({f"{stage}/{name}": value for name, value in numbers.items()}, prog_bar=False)
            self.log("mAP", numbers["mAP"], logger=False)  # for checkpoints and early stopping

    # `trainer.test` evaluates as `trainer.validate` does: COCO's test split has no annotations.
    on_test_epoch_start = on_validation_epoch_start
    on_test_epoch_end = on_validation_epoch_end

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> Detected:
        return self.validation_step(batch, batch_idx)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[dict[str, Any]]:
        """`predict` at the checkpoint's score_threshold."""
        return self.predict(batch)

    def predict(self, batch: dict[str, Any], score_threshold: float | None = None) -> list[dict[str, Any]]:
        """One dict an image, by descending score: image_id, boxes float32 [n, 4] xyxy in pixels of the original image,
        scores float32 [n], labels int64 [n] (label l is category_ids[l - 1]); all on the CPU.

        Args:
            batch: as in `validation_step`. score_threshold: of this call; by default the checkpoint's.
        """
        boxes, scores, labels = self._detect(batch, score_threshold)
        found = labels > 0
        return [
            {
                "image_id": int(image_id),
                "boxes": boxes[i, found[i]],
                "scores": scores[i, found[i]],
                "labels": labels[i, found[i]],
            }
            for i, image_id in enumerate(batch["image_ids"])
        ]

    def _detect(
        self,
        batch: dict[str, Any],
        score_threshold: float | None = None,
        outputs_of: Callable[[dict[str, Any]], Any] | None = None,
    ) -> Detected:
        """boxes [B, D, 4] in pixels of the original images, scores [B, D], labels [B, D], all on the CPU."""
        outputs_of = outputs_of or self.outputs
        if len(batch["images"]) == 0:
            boxes = torch.zeros(0, self.hparams.max_detections, 4, dtype=torch.float32)
            return boxes, boxes[..., 0], torch.zeros(0, self.hparams.max_detections, dtype=torch.int64)
        threshold = self.hparams.score_threshold if score_threshold is None else score_threshold
        if "views" not in batch:
            boxes, scores, labels = self.detections(outputs_of(batch), threshold)
            size = torch.as_tensor(batch["sizes"], dtype=torch.float32)  # [B, 2], width and height
            return boxes.cpu() * size.repeat(1, 2).unsqueeze(1), scores.cpu(), labels.cpu()
        parts = (self.detections(outputs_of(part), threshold) for part in _parts(batch))
        return self._merged(batch["views"], [[each.cpu() for each in part] for part in parts])

    def _merged(self, views: Views, parts: Sequence[Sequence[Tensor]]) -> Detected:
        """Detections of views, in parts, -> those of their pictures, in the shapes of `_detect`."""
        found = (torch.cat(column) for column in zip(*parts, strict=True))
        of_views = (*found, torch.from_numpy(views.windows), torch.from_numpy(views.shared))
        columns = (each.split(views.counts.tolist()) for each in of_views)
        kept = {name: self.hparams[name] for name in ("iou_threshold", "max_detections")}
        merged = [merge_views(*of_picture, **kept) for of_picture in zip(*columns, strict=True)]
        boxes, scores, labels = (torch.stack(column) for column in zip(*merged, strict=True))
        return boxes, scores, labels


def _parts(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The views of a batch, as many as the network is to see at once."""
    for start in range(0, len(batch["images"]), at_once := batch["views"].at_once):
        yield {key: batch[key][start : start + at_once] for key in ("images", "boxes", "labels") if key in batch}
