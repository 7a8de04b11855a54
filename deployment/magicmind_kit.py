"""A folder for Cambricon MagicMind: the raw network, calibration pictures, configuration, references, NumPy at the end.

kit/README.md, which comes with it, says what each file is. Never run on MagicMind.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coco.whole_files import replacing, write_text
from deployment import onnx
from deployment.about import About
from deployment.graph import RawGraph
from ssd.default_boxes import ssd300_default_boxes
from ssd.postprocess import detect

KIT = Path(__file__).with_name("kit")
COPIED = ("README.md", "build.py", "postprocess.py")
REFERENCES = 8  # pictures, at least one batch
BUILD = {
    "archs": [{"mtp_372": [6, 8]}],
    "graph_shape_mutable": False,
    "opt_config": {"type64to32_conversion": True, "conv_scale_fold": True},
    "precision_config": {"precision_mode": "qint8_mixed_float16"},
}


def write_kit(
    raw: RawGraph, about: About, directory: Path, calibration: Sequence[np.ndarray], names: Sequence[str]
) -> None:
    """Writes the folder's files.

    Args:
        about: of the raw form and a fixed batch. calibration: pictures, uint8 RGB [300, 300, 3]; names: of their files.

    Raises:
        CheckpointError: packages are missing.
        OSError: a file cannot be written.
    """
    assert about.batch is not None
    directory.mkdir(parents=True, exist_ok=True)
    onnx.export(raw, about, directory / "model.onnx")
    pictures = np.ascontiguousarray(np.stack(calibration).transpose(0, 3, 1, 2))
    whole = max(about.batch, REFERENCES // about.batch * about.batch)
    images = np.resize(pictures, (whole, *pictures.shape[1:]))  # in turn, where there are fewer
    with torch.inference_mode():
        offsets, logits = raw(torch.from_numpy(images))
        boxes, scores, labels = detect(offsets, logits, ssd300_default_boxes(), *about.thresholds)
    outputs = {"offsets": offsets, "logits": logits, "boxes": boxes, "scores": scores, "labels": labels}
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in outputs.items()}
    scripted = torch.jit.trace(raw, torch.from_numpy(pictures[:1].repeat(about.batch, axis=0)), check_trace=False)
    with replacing(directory / "model.pt") as file:
        file.write(scripted.save_to_buffer())
    with replacing(directory / "reference.npz") as file:
        np.savez(file, images=images, batch=np.array(about.batch), **arrays)
    for name, array in (("calibration.npy", pictures), ("default_boxes.npy", ssd300_default_boxes().numpy())):
        with replacing(directory / name) as file:
            np.save(file, array)
    write_text(directory / "calibration.txt", "".join(f"{name}\n" for name in names))
    write_text(directory / "build.json", json.dumps(BUILD, indent=1))
    write_text(directory / "about.json", about.to_text())
    for name in COPIED:
        shutil.copyfile(KIT / name, directory / name)
