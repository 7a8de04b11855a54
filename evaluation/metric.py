"""COCO box mAP as a torchmetrics Metric: COCOeval's semantics, every image once, the same numbers on every rank."""

from collections.abc import Sequence
from typing import Any

import hotcoco
import numpy as np
import torch
import torch.distributed as dist
from torchmetrics import Metric

from coco.annotations import CocoAnnotations
from evaluation import coco_sets, reference
from evaluation.detections import Detections
from evaluation.numbers import NUMBERS, class_rows

BACKENDS = ("hotcoco", "pycocotools")


class CocoMeanAveragePrecision(Metric):
    """COCO box mAP over the images that `update` was given, with crowd regions and areas of the annotation file.

    `update` matches its images' detections at once, so little is left for the end of an epoch. `compute` gathers the
    matches and the detections (compact arrays on the CPU: image ids need 64 bits, which an MLU does not keep) as
    objects, evaluates on rank 0 and gives every rank the result.

    Args:
        annotations: of the evaluated split.
        backend: `hotcoco` (Rust), or `pycocotools`, which gives the same numbers to the bit, slowly and at the end.
    """

    full_state_update = False
    higher_is_better = True

    def __init__(self, annotations: CocoAnnotations, backend: str = "hotcoco", **kwargs: Any) -> None:
        super().__init__(sync_on_compute=False, **kwargs)  # `compute` gathers by itself, see above
        if backend not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {backend!r}")
        self.annotations = annotations
        self.backend = backend
        self.evaluation: dict[str, np.ndarray] | None = None  # COCOeval's `eval` after `compute`, on rank 0
        self.evaluated_ids = np.zeros(0, np.int64)  # image ids that `compute` counted, on rank 0
        self.detections: Detections | None = None  # that `compute` counted, on rank 0, until the next `reset`
        self._parts: list[Detections] = []  # a batch each
        self._matches = coco_sets.stream(annotations)

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
        self._parts = []
        self._matches = coco_sets.stream(self.annotations)
        self.detections = None

    def update(self, image_ids: Sequence[int], boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor) -> None:
        """Adds the detections of some images, each image once in an epoch over all ranks.

        Args:
            image_ids: n ids of the annotation file.
            boxes: [n, D, 4] xyxy in pixels of the original image. scores: [n, D]. labels: [n, D], 1..C, 0 = none.
        """
        found = labels.cpu().numpy() > 0  # [n, D]
        part = Detections(
            np.asarray(image_ids, dtype=np.int64),
            found.sum(axis=1),
            boxes.cpu().numpy()[found],
            scores.cpu().numpy()[found],
            labels.cpu().numpy()[found].astype(np.int16),
        )
        self._parts.append(part)
        if self.backend == "hotcoco" and not _problem([part], self.annotations):  # `compute` says it, on all ranks
            coco_sets.add(self._matches, self.annotations, part)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """`update`; returns the numbers of these images alone, those of this rank."""
        self.update(*args, **kwargs)
        alone = type(self)(self.annotations, self.backend)
        alone.update(*args, **kwargs)
        return alone._evaluate([alone._shard()])

    def compute(self) -> dict[str, float]:
        """The twelve numbers by name (`NUMBERS`), float64; -1 where there is nothing to measure, as in COCOeval.

        Raises:
            ValueError: on every rank, if an image was given twice or is not in the annotation file, or a score is NaN.
        """
        if not (dist.is_available() and dist.is_initialized()):
            return self._evaluate([self._shard()])
        shards: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(shards, self._shard())
        _check(shards, self.annotations)
        numbers: list[Any] = [self._evaluate(shards) if dist.get_rank() == 0 else None]
        dist.broadcast_object_list(numbers, src=0)
        return numbers[0]

    def per_class(self) -> list[dict[str, Any]]:
        """After `compute`, on rank 0: per class its name, number of ground truths, AP, AP50, AP75 and AR at 100."""
        return class_rows(self.annotations, self.evaluated_ids, self.found_evaluation)

    def _shard(self) -> "Shard":
        return Detections.joined(self._parts), self._matches

    def _evaluate(self, shards: "Sequence[Shard]") -> dict[str, float]:
        _check(shards, self.annotations)
        detections = Detections.joined([detections for detections, _ in shards])
        if self.backend == "hotcoco":
            coco_sets.check_threads()
            evaluator = hotcoco.StreamingEval.merge(matches for _, matches in shards).finalize()  # of a copy
            evaluator.accumulate()
            evaluator.summary_lines()  # which makes `stats`, and prints nothing
        else:
            evaluator = reference.evaluate(self.annotations, detections)
        self.detections, self.evaluated_ids = detections, detections.image_ids
        found: Any = evaluator.eval
        self.evaluation = {key: np.asarray(found[key]) for key in ("precision", "recall", "scores")}
        return dict(zip(NUMBERS, map(float, evaluator.stats[: len(NUMBERS)]), strict=True))


Shard = tuple[Detections, hotcoco.StreamingEval]  # what one rank has


def _check(shards: Sequence[Shard], annotations: CocoAnnotations) -> None:
    problem = _problem([detections for detections, _ in shards], annotations)
    if problem:
        raise ValueError(problem)


def _problem(parts: Sequence[Detections], annotations: CocoAnnotations) -> str | None:
    """Why these detections cannot be evaluated."""
    unique, counts = np.unique(np.concatenate([part.image_ids for part in parts]), return_counts=True)
    if (counts > 1).any():
        return f"image {unique[counts > 1][0]} was evaluated {counts.max()} times; every image counts once"
    place = np.searchsorted(annotations.image_ids, unique).clip(max=len(annotations) - 1)
    unknown = unique[annotations.image_ids[place] != unique]
    if len(unknown):
        return f"image {unknown[0]} is not in {annotations.path}"
    for part in parts:
        if np.isnan(part.scores).any():
            return f"a detection in image {part.image[np.isnan(part.scores)][0]} has the score NaN"
    return None
