"""One interface to whatever runs a detector: an exported file in its engine, or our own network in torch."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from checkpoints.files import CheckpointError
from deployment import onnx, openvino
from deployment.about import About
from deployment.graph import RawGraph
from deployment.onnx import OnnxEngine
from deployment.openvino import OpenVINOEngine
from ssd.default_boxes import ssd300_default_boxes
from ssd.postprocess import detect


class Engine(Protocol):
    """What runs the network, and maybe its post-processing."""

    name: str
    about: About

    def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """uint8 [B, 3, 300, 300] -> the arrays of `about.OUTPUTS`, of the form that `about` tells."""
        ...


ENGINES = {".onnx": "onnx", ".xml": "openvino"}  # suffix -> engine
OPEN: dict[str, Callable[[Path, bool], Engine]] = {"onnx": OnnxEngine, "openvino": OpenVINOEngine}
EXPORT: dict[str, Callable[[RawGraph, About, Path], None]] = {"onnx": onnx.export, "openvino": openvino.export}


class TorchEngine:
    """Our own network on the CPU, in float32: what exported files are compared with."""

    name = "torch"

    def __init__(self, raw: RawGraph, about: About) -> None:
        self._raw, self.about = raw, about

    def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        with torch.inference_mode():
            offsets, logits = self._raw(torch.from_numpy(images))
        return offsets.numpy(), logits.numpy()


def is_exported(path: str | Path) -> bool:
    """Whether a file is an exported one by its name."""
    return Path(path).suffix.lower() in ENGINES


def open_exported(path: str | Path, bf16: bool = False) -> Engine:
    """The engine of an exported file; nothing in the file is executed but its operators.

    Args:
        bf16: let it compute in bfloat16, where it can.

    Raises:
        CheckpointError: no such file, torn, of another kind, or not exported by this project.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    return OPEN[ENGINES[path.suffix.lower()]](path, bf16)


def converted(raw: RawGraph, about: About, name: str, bf16: bool = False) -> Engine:
    """Our own network in the engine of that name, by way of files that are gone afterwards."""
    (suffix,) = (suffix for suffix, engine in ENGINES.items() if engine == name)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        path = Path(directory) / f"model{suffix}"
        EXPORT[name](raw, about, path)
        return open_exported(path, bf16)


def run_detector(engine: Engine, images: Tensor, score_threshold: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Detections of uint8 images [B, 3, 300, 300] on the CPU, in the shapes of `ssd.postprocess.detect`.

    An engine of a fixed batch is called as often as needed, the last time with black pictures added.

    Args:
        score_threshold: by default the export's.

    Raises:
        CheckpointError: a threshold below that of the suppression inside the file.
    """
    about = engine.about
    thresholds = about.thresholds
    wanted = thresholds.score if score_threshold is None else score_threshold
    if about.form == "detections" and wanted < thresholds.score:
        raise CheckpointError(
            f"--score_threshold {wanted:g}: the exported file drops what scores {thresholds.score:g} or less; export "
            "it with --raw, which has no threshold inside"
        )
    outputs = tuple(torch.from_numpy(array) for array in _in_batches(engine, images.contiguous().numpy()))
    if about.form == "raw":
        offsets, logits = outputs
        return detect(offsets, logits, ssd300_default_boxes(), *thresholds._replace(score=wanted))
    boxes, scores, labels = outputs
    above = scores > wanted
    return boxes * above.unsqueeze(-1), scores * above, labels * above


def _in_batches(engine: Engine, images: np.ndarray) -> tuple[np.ndarray, ...]:
    size = engine.about.batch
    if size is None:
        return engine.run(images)
    parts = []
    for start in range(0, len(images), size):
        some = images[start : start + size]
        missing = size - len(some)
        padded = np.concatenate([some, np.zeros((missing, *images.shape[1:]), images.dtype)]) if missing else some
        parts.append([array[: len(some)] for array in engine.run(padded)])
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
