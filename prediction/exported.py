"""Exported detectors wherever a checkpoint is taken: `load_detector` opens either."""

from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from coco.augment import denormalise
from deployment.about import About
from deployment.engine import is_exported, open_exported, run_detector
from ssd.postprocess import Thresholds
from ssd_module import SSDModule, load_module
from training.detecting import Detected, DetectingModule
from training.run_record import project_version

CANDIDATES_PER_CLASS = 200  # `ssd.postprocess.detect`'s


class ExportedDetector(DetectingModule):
    """An exported file as a LightningModule, for `trainer.validate`, `trainer.predict` and `Detector`; on the CPU.

    Raises:
        CheckpointError: a file that cannot be used.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.engine = open_exported(path)
        about = self.engine.about
        self.class_names, self.category_ids = about.class_names, about.category_ids
        self.operating_point = about.operating_point
        thresholds = about.thresholds
        self.save_hyperparameters(
            {
                "score_threshold": thresholds.score,
                "iou_threshold": thresholds.iou,
                "max_detections": thresholds.max_detections,
            }
        )

    def outputs(self, batch: dict[str, Any]) -> Tensor:
        """uint8, which the file normalises itself: what a data module made of them comes back exactly."""
        images = batch["images"]
        return denormalise(images) if images.is_floating_point() else images

    def detections(self, outputs: Tensor, score_threshold: float) -> Detected:
        return run_detector(self.engine, outputs, score_threshold)


def load_detector(path: str | Path) -> DetectingModule:
    """A checkpoint of ours, a published `.pt` file or an exported file, by its name, as a LightningModule on the CPU.

    Raises:
        CheckpointError: as `load_module`, or an exported file that cannot be used.
    """
    return ExportedDetector(path) if is_exported(path) else load_module(path)


def check_exported(path: str | Path, accelerator: Any, precision: Any) -> None:
    """Raises MisconfigurationException for a device or a precision that an exported file is not run in; checks nothing
    of a checkpoint."""
    if not is_exported(path):
        return
    if accelerator not in ("auto", "cpu"):
        raise MisconfigurationException(f"--accelerator {accelerator}: {path} runs on the CPU; give its checkpoint")
    if str(precision or "auto") not in ("auto", "32", "32-true"):
        raise MisconfigurationException(
            f"--precision {precision}: {path} computes as it was exported; leave it out, or give its checkpoint"
        )


def about_of(
    module: SSDModule, form: str, batch: int | None = None, checkpoint: str = "", numbers: str = "float32"
) -> About:
    """What is to travel with an export of a module. checkpoint: SHA-256 of its file; the rest as in `About`."""
    hparams = module.hparams
    thresholds = (hparams.score_threshold, hparams.iou_threshold, CANDIDATES_PER_CLASS, hparams.max_detections)
    return About(
        form,
        batch,
        hparams.backbone,
        tuple(module.class_names),
        tuple(module.category_ids),
        Thresholds(*thresholds),
        module.operating_point,
        numbers,
        project_version(),
        checkpoint,
    )
