"""Exported detectors wherever a checkpoint is taken: `load_detector` opens either."""

from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

from checkpoints.fetching import local_file
from coco.augment import denormalise
from coco.tiles import saved_tiling, settings_of
from deployment.about import About
from deployment.engine import ENGINES, Engine, converted, is_exported, open_exported, run_detector
from deployment.graph import RawGraph
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
        self.operating_point, self.tiling = about.operating_point, saved_tiling(about.selection)
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
    """A checkpoint of ours, a published `.pt` file or an exported file (a path, or what `local_file` fetches) as a
    LightningModule on the CPU.

    Raises:
        CheckpointError: as `load_module`, or an exported file that cannot be used.
    """
    return open_detector(path)


def open_detector(
    path: str | Path, accelerator: Any = "auto", precision: Any = None, is_auto: bool = False, engine: str = "auto"
) -> DetectingModule:
    """`load_detector` for a device and a precision, of which engines but torch have few: see `runs_in_bf16`."""
    path = local_file(path)
    name = engine_for(path, engine)
    if name == "torch":
        return load_module(path)
    bf16 = runs_in_bf16(path, accelerator, precision, is_auto, engine)
    if is_exported(path):
        return ExportedDetector(open_exported(path, bf16))
    module = load_module(path)
    return ExportedDetector(converted(RawGraph(module.model), about_of(module, "detections"), name, bf16))


def engine_for(path: str | Path, engine: str = "auto") -> str:
    """What runs a file, `torch`, `onnx` or `openvino`: that of an exported file, torch for a checkpoint, or `engine`.

    Raises MisconfigurationException where an exported file is of another one, or a `.pt2` file.
    """
    if Path(path).suffix.lower() == ".pt2":
        raise MisconfigurationException(
            f"{path}: is for other programs that have torch; it is not opened here, since torch.export.load reads "
            "pickles, which can run code. Give its checkpoint, or an .onnx or .xml file"
        )
    own = ENGINES.get(Path(path).suffix.lower())
    if engine == "auto":
        return own or "torch"
    if own not in (None, engine):
        raise MisconfigurationException(f"--engine {engine}: {path} is for {own}; leave it out, or give its checkpoint")
    return engine


def runs_in_bf16(
    path: str | Path, accelerator: Any, precision: Any, is_auto: bool = False, engine: str = "auto"
) -> bool:
    """Whether what does not run in torch is to compute in bfloat16. is_auto: `precision` is what `auto` means here.

    Raises MisconfigurationException for a device or a precision that it is not run in.
    """
    name = engine_for(path, engine)
    if accelerator not in ("auto", "cpu"):
        raise MisconfigurationException(
            f"--accelerator {accelerator}: {name} runs on the CPU here; leave it out, or give a checkpoint to torch"
        )
    asked, can = str(precision or "32-true"), name == "openvino"
    if asked in ("bf16", "bf16-mixed") and (can or is_auto):
        return can
    if asked not in ("32", "32-true"):
        raise MisconfigurationException(
            f"--precision {precision}: {name} computes in 32-true{' or bf16-mixed' if can else ''} here; leave it out, "
            "or give a checkpoint to torch"
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
        settings_of(module.tiling),
    )
