"""Exported detectors beside checkpoints: what an export says of its checkpoint."""

from deployment.about import About
from ssd.postprocess import Thresholds
from ssd_module import SSDModule
from training.run_record import project_version

CANDIDATES_PER_CLASS = 200  # `ssd.postprocess.detect`'s


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
