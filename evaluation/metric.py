"""COCO box mAP as a torchmetrics Metric: COCOeval's semantics, every image once, the same numbers on every rank."""

import contextlib
import gc
import importlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torchmetrics import Metric

from coco.annotations import CocoAnnotations
from evaluation.detections import Detections

# COCOeval's twelve numbers, in its order.
NUMBERS = (
    *("mAP", "mAP_50", "mAP_75", "mAP_small", "mAP_medium", "mAP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)
BACKENDS = {  # name -> (module of COCO, module and class of COCOeval)
    "faster_coco_eval": ("faster_coco_eval", "faster_coco_eval", "COCOeval_faster"),
    "pycocotools": ("pycocotools.coco", "pycocotools.cocoeval", "COCOeval"),
}


class CocoMeanAveragePrecision(Metric):
    """COCO box mAP over the images that `update` was given, with crowd regions and areas of the annotation file.

    Detections wait in compact arrays on the CPU (image ids need 64 bits, which an MLU does not keep). `compute` gathers
    them as objects, evaluates on rank 0 and gives every rank the result.

    Args:
        annotations: of the evaluated split.
        backend: `faster_coco_eval` (C++), or `pycocotools`, which gives the same numbers, slowly.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, annotations: CocoAnnotations, backend: str = "faster_coco_eval", **kwargs: Any) -> None:
        super().__init__(sync_on_compute=False, **kwargs)  # `compute` gathers by itself, see above
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}")
        self.annotations = annotations
        self.backend = backend
        self.evaluation: dict[str, np.ndarray] | None = None  # COCOeval's `eval` after `compute`, on rank 0
        self.evaluated_ids = np.zeros(0, np.int64)  # image ids that `compute` counted, on rank 0
        self.detections: Detections | None = None  # that `compute` counted, on rank 0, until the next `reset`
        self._ground_truth: Any = None
        self._batches: list[tuple[np.ndarray, ...]] = []

    @property
    def found_evaluation(self) -> dict[str, np.ndarray]:
        """`evaluation`, after `compute` on rank 0; RuntimeError elsewhere."""
        if self.evaluation is None:
            raise RuntimeError("the metric has COCOeval's arrays on rank 0, after `compute`")
        return self.evaluation

    @property
    def found_detections(self) -> Detections:
        """`detections`, after `compute` on rank 0; RuntimeError elsewhere."""
        if self.detections is None:
            raise RuntimeError("the metric has its detections on rank 0, after `compute`")
        return self.detections

    def reset(self) -> None:
        super().reset()
        self._batches = []
        self.detections = None

    def update(self, image_ids: Sequence[int], boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor) -> None:
        """Adds the detections of some images, each image once in an epoch over all ranks.

        Args:
            image_ids: n ids of the annotation file.
            boxes: [n, D, 4] xyxy in pixels of the original image. scores: [n, D]. labels: [n, D], 1..C, 0 = none.
        """
        found = labels.cpu().numpy() > 0  # [n, D]
        self._batches.append(
            (
                np.asarray(image_ids, dtype=np.int64),
                found.sum(axis=1),
                boxes.cpu().numpy()[found],
                scores.cpu().numpy()[found],
                labels.cpu().numpy()[found].astype(np.int16),
            )
        )

    def compute(self) -> dict[str, float]:
        """The twelve numbers by name (`NUMBERS`), float64; -1 where there is nothing to measure, as in COCOeval.

        Raises:
            ValueError: on every rank, if an image was given twice or is not in the annotation file.
        """
        own = self._collected()
        if not (dist.is_available() and dist.is_initialized()):
            return self._evaluate([own])
        gathered: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, own)
        outcome: list[Any] = [None]
        if dist.get_rank() == 0:
            try:
                outcome = [self._evaluate(gathered)]
            except ValueError as error:  # the other ranks wait for a result: tell them
                outcome = [error]
        dist.broadcast_object_list(outcome, src=0)
        if isinstance(outcome[0], ValueError):
            raise outcome[0]
        return outcome[0]

    def per_class(self) -> list[dict[str, Any]]:
        """After `compute`, on rank 0: per class its name, number of ground truths, AP, AP50, AP75 and AR at 100."""
        found = self.found_evaluation
        precision, recall = found["precision"], found["recall"]  # [T, R, C, area, max], [T, C, area, max]

        def mean(values: np.ndarray) -> float:
            values = values[values > -1]
            return float(values.mean()) if values.size else -1.0

        counts = np.bincount(self._evaluated_labels(), minlength=len(self.annotations.class_names) + 1)[1:]
        return [
            {
                "name": name,
                "category_id": self.annotations.category_ids[c],
                "ground_truths": int(counts[c]),
                "AP": mean(precision[:, :, c, 0, -1]),
                "AP50": mean(precision[0, :, c, 0, -1]),
                "AP75": mean(precision[5, :, c, 0, -1]),
                "AR": mean(recall[:, c, 0, -1]),
            }
            for c, name in enumerate(self.annotations.class_names)
        ]

    def _collected(self) -> tuple[np.ndarray, ...]:
        """This rank's image ids [n], detections per image [n], boxes [m, 4], scores [m], labels [m]."""
        empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int16))
        return tuple(np.concatenate(parts) for parts in zip(*self._batches, strict=True)) if self._batches else empty

    def _evaluate(self, shards: list[tuple[np.ndarray, ...]]) -> dict[str, float]:
        detections = Detections.joined([Detections(*shard) for shard in shards])
        self._check(detections.image_ids)
        self.detections, self.evaluated_ids = detections, detections.image_ids
        coco_class, eval_class = _backend(self.backend)
        # pycocotools prints its progress. A million records are no garbage, but looking through them takes time.
        with contextlib.redirect_stdout(io.StringIO()), _no_garbage_collection():
            if self._ground_truth is None:
                self._ground_truth = _coco(coco_class, self.annotations, _ground_truths(self.annotations))
            found = _detections(self.annotations, detections)
            evaluator = eval_class(self._ground_truth, _coco(coco_class, self.annotations, found), "bbox")
            evaluator.params.imgIds = detections.image_ids.tolist()
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
        self.evaluation = {key: np.asarray(evaluator.eval[key]) for key in ("precision", "recall", "scores")}
        return dict(zip(NUMBERS, map(float, evaluator.stats[: len(NUMBERS)]), strict=True))

    def _check(self, image_ids: np.ndarray) -> None:
        unique, counts = np.unique(image_ids, return_counts=True)
        if (counts > 1).any():
            raise ValueError(
                f"image {unique[counts > 1][0]} was evaluated {counts.max()} times; every image counts once"
            )
        unknown = np.setdiff1d(unique, self.annotations.image_ids)
        if len(unknown):
            raise ValueError(f"image {unknown[0]} is not in {self.annotations.path}")

    def _evaluated_labels(self) -> np.ndarray:
        image = np.repeat(self.annotations.image_ids, np.diff(self.annotations.first))
        return self.annotations.labels[np.isin(image, self.evaluated_ids) & ~self.annotations.iscrowd]


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _backend(name: str) -> tuple[Any, Any]:
    coco_module, eval_module, eval_class = BACKENDS[name]
    return importlib.import_module(coco_module).COCO, getattr(importlib.import_module(eval_module), eval_class)


def _coco(coco_class: Any, annotations: CocoAnnotations, records: list[dict]) -> Any:
    coco = coco_class()
    coco.dataset = {
        "images": [{"id": image_id} for image_id in annotations.image_ids.tolist()],
        "categories": [{"id": category_id} for category_id in annotations.category_ids],
        "annotations": records,
    }
    coco.createIndex()
    return coco


def _ground_truths(annotations: CocoAnnotations) -> list[dict]:
    images = np.repeat(annotations.image_ids, np.diff(annotations.first))
    categories = np.asarray(annotations.category_ids)[annotations.labels - 1]
    columns = (images, categories, annotations.bboxes, annotations.areas, annotations.iscrowd.astype(int))
    return [
        {"id": i, "image_id": image, "category_id": category, "bbox": bbox, "area": area, "iscrowd": crowd}
        # ids from 1: COCOeval takes a match with id 0 for none
        for i, (image, category, bbox, area, crowd) in enumerate(
            zip(*(c.tolist() for c in columns), strict=True), start=1
        )
    ]


def _detections(annotations: CocoAnnotations, detections: Detections) -> list[dict]:
    boxes = detections.xywh
    categories = np.asarray(annotations.category_ids)[detections.labels - 1]
    columns = (detections.image, categories, boxes, boxes[:, 2] * boxes[:, 3], detections.scores.astype(np.float64))
    return [
        {"id": i, "image_id": image, "category_id": category, "bbox": bbox, "area": area, "score": score, "iscrowd": 0}
        for i, (image, category, bbox, area, score) in enumerate(
            zip(*(c.tolist() for c in columns), strict=True), start=1
        )
    ]
