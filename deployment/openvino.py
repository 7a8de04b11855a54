"""OpenVINO: a detector as its `.xml` and `.bin`, in float32, float16 (weights) or int8, and OpenVINO to run it."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from checkpoints.files import CheckpointError
from deployment.about import KEY, OUTPUTS, About, missing
from deployment.graph import RawGraph
from deployment.onnx import INPUT, suppression_model, to_model

WEIGHTS = f"{KEY}_weights"  # in the .xml: SHA-256 of its .bin


def export(raw: RawGraph, about: About, path: Path, calibration: Sequence[np.ndarray] = ()) -> None:
    """Writes `path` (.xml) and the .bin beside it.

    Args:
        about: its form and batch say what is written, as for ONNX, by way of which it goes; its numbers, whether the
            network is quantised to int8 or its weights are kept in float16, which halves the file. calibration:
            pictures that int8 is done by, uint8 RGB [300, 300, 3].

    Raises:
        CheckpointError: packages are missing.
        OSError: a file cannot be written.
    """
    openvino = _openvino()
    model = _quantised(raw, about, calibration) if about.numbers == "int8" else _read(to_model(raw, about))
    halved = about.numbers == "float16"
    model.set_rt_info(about.to_text(), KEY)
    openvino.save_model(model, path, compress_to_fp16=halved)
    model.set_rt_info(_digest(path), WEIGHTS)
    openvino.save_model(model, path, compress_to_fp16=halved)


def _quantised(raw: RawGraph, about: About, calibration: Sequence[np.ndarray]) -> Any:
    """NNCF's post-training quantisation of the network alone; what makes detections of its outputs stays float32."""
    try:
        import nncf
    except ImportError as error:
        raise missing("quantise", error) from None
    network = _read(to_model(raw, replace(about, form="raw")))
    pictures = [picture.transpose(2, 0, 1)[None] for picture in calibration]
    if about.batch is not None:
        pictures = [np.repeat(picture, about.batch, axis=0) for picture in pictures]
    network = nncf.quantize(network, nncf.Dataset(pictures), subset_size=len(pictures))
    if about.form == "raw":
        return network
    after = _read(suppression_model(about))
    for parameter, output in zip(after.get_parameters(), network.get_results(), strict=True):
        parameter.output(0).replace(output.input_value(0))
    return _openvino().Model(after.get_results(), network.get_parameters(), KEY)


def _read(model: Any) -> Any:
    """onnx.ModelProto -> openvino.Model."""
    return _openvino().Core().read_model(model.SerializeToString())


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise missing("openvino", error) from None
    return openvino


def _digest(path: Path) -> str:
    return hashlib.sha256(path.with_suffix(".bin").read_bytes()).hexdigest()


class OpenVINOEngine:
    """An exported `.xml` file, with its `.bin`, on the CPU, with as many threads as torch has.

    Args:
        bf16: compute convolutions in bfloat16; else in float32, also where OpenVINO would not by itself.

    Raises:
        CheckpointError: packages are missing; files that are torn, of two exports, or not an export of this project.
    """

    name = "openvino"

    def __init__(self, path: Path, bf16: bool = False) -> None:
        core = _openvino().Core()
        if not path.with_suffix(".bin").is_file():
            raise CheckpointError(f"{path}: {path.with_suffix('.bin').name}, its weights, is not beside it")
        try:
            model = core.read_model(path)
        except Exception as error:  # OpenVINO raises RuntimeError and its own classes
            reason = str(error).strip().splitlines()[-1][:200]
            raise CheckpointError(f"{path}: not a readable OpenVINO file, damaged or cut off ({reason})") from None
        self.about = About.from_text(_info(model, KEY), path)
        if _info(model, WEIGHTS) != _digest(path):
            raise CheckpointError(f"{path}: {path.with_suffix('.bin').name} beside it is damaged, or of another export")
        names = [each.any_name for each in model.inputs], [each.any_name for each in model.outputs]
        if names != ([INPUT], list(OUTPUTS[self.about.form])):
            raise CheckpointError(f"{path}: its inputs and outputs, {names}, are not those that its metadata tells of")
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        self._model = core.compile_model(model, "CPU", settings)

    def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """uint8 [B, 3, 300, 300] -> the arrays of `OUTPUTS`, of the form that `about` tells."""
        found = self._model(images)
        return tuple(
            found[name].copy() for name in OUTPUTS[self.about.form]
        )  # which are OpenVINO's, until it runs again


def _info(model: Any, key: str) -> str | None:
    return model.get_rt_info([key]).value if model.has_rt_info([key]) else None
