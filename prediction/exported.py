"""Exported detectors wherever a checkpoint is taken: `load_detector` opens either."""

from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from coco.augment import denormalise
from deployment.about import About
from deployment.engine import Engine, is_exported, open_exported, run_detector
from ssd.postprocess import Thresholds
from ssd_module import SSDModule, load_module
from training.detecting import Detected, DetectingModule
from training.run_record import project_version

CANDIDATES_PER_CLASS = 200  # `ssd.postprocess.detect`'s


class ExportedDetector(DetectingModule):
    """An engine as a LightningModule, for `trainer.validate`, `trainer.predict` and `Detector`; on the CPU."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.engine = engine
        about = engine.about
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
    return open_detector(path)


def open_detector(
    path: str | Path, accelerator: Any = "auto", precision: Any = None, is_auto: bool = False
) -> DetectingModule:
    """`load_detector` for a device and a precision, of which an exported file has few: see `runs_in_bf16`."""
    if not is_exported(path):
        return load_module(path)
    return ExportedDetector(open_exported(path, runs_in_bf16(path, accelerator, precision, is_auto)))


def runs_in_bf16(path: str | Path, accelerator: Any, precision: Any, is_auto: bool = False) -> bool:
    """Whether an exported file is to compute in bfloat16. is_auto: `precision` was not asked for, but `auto`.

    Raises MisconfigurationException for a device or a precision that it is not run in.
    """
    if accelerator not in ("auto", "cpu"):
        raise MisconfigurationException(f"--accelerator {accelerator}: {path} runs on the CPU; give its checkpoint")
    asked = str(precision or "32-true")
    can = Path(path).suffix.lower() == ".xml"
    if asked in ("bf16", "bf16-mixed") and (can or is_auto):
        return can
    if asked not in ("32", "32-true"):
        raise MisconfigurationException(
            f"--precision {precision}: {path} computes in 32-true{' or bf16-mixed' if can else ''}. Give its checkpoint"
        )
    return False


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
