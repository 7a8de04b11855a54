"""ONNX: a detector as one file of standard operators, and ONNX Runtime to run it."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from checkpoints.files import CheckpointError
from coco.decoding import INPUT_SIZE
from coco.whole_files import replacing
from deployment.about import KEY, OUTPUTS, About, missing
from deployment.graph import DetectionGraph, RawGraph, Suppression

INPUT = "images"
NUM_BOXES = 8732  # default boxes of SSD300
STANDARD = ("", "ai.onnx")  # domains of operators that every runtime has


def export(raw: RawGraph, about: About, path: Path, opset: int | None = None) -> None:
    """Writes the file, whole or not at all.

    Args:
        about: its form and batch say what is written: `detections` have NonMaxSuppression inside. opset: by default
            the one that torch's exporter writes.

    Raises:
        CheckpointError: packages are missing, or the exporter does not write that opset.
        OSError: the file cannot be written.
    """
    model = to_model(raw, about, opset)
    with replacing(path, follow=True) as file:
        file.write(model.SerializeToString(deterministic=True))


def to_model(raw: RawGraph, about: About, opset: int | None = None) -> Any:
    """An onnx.ModelProto; see `export`."""
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it, and would say so at greater length
    except ImportError as error:
        raise missing("onnx", error) from None
    if not hasattr(torch.onnx, "ops"):
        raise CheckpointError(f"--format onnx: needs torch 2.8 or later; this is {torch.__version__}")
    graph = raw if about.form == "raw" else DetectionGraph(raw, about.thresholds)
    # The exporter takes a size of 1 for a constant: any number of pictures is shown as two.
    example = torch.zeros(about.batch or 2, 3, INPUT_SIZE, INPUT_SIZE, dtype=torch.uint8)
    model = _written(graph, {INPUT: example}, OUTPUTS[about.form], about.batch is None, opset)
    written = {each.domain: each.version for each in model.opset_import}
    if opset is not None and written.get("") != opset:
        raise CheckpointError(
            f"--opset {opset}: torch {torch.__version__} wrote opset {written.get('')} instead; leave --opset out"
        )
    used = {node.op_type for node in model.graph.node if node.domain not in STANDARD}
    assert not used and not model.functions, f"operators that are not ONNX's own: {used}"
    _drop_notes(model)
    model.producer_name, model.producer_version = KEY, about.version
    model.metadata_props.add(key=KEY, value=about.to_text())
    onnx.checker.check_model(model)
    return model


def suppression_model(about: About) -> Any:
    """An onnx.ModelProto from raw outputs to detections, for any number of pictures."""
    offsets, logits = torch.zeros(2, NUM_BOXES, 4), torch.zeros(2, NUM_BOXES, len(about.class_names) + 1)
    inputs = dict(zip(OUTPUTS["raw"], (offsets, logits), strict=True))
    return _written(Suppression(about.thresholds).eval(), inputs, OUTPUTS["detections"], True, None)


def _written(
    graph: nn.Module, inputs: dict[str, Tensor], outputs: tuple[str, ...], any_batch: bool, opset: int | None
) -> Any:
    with _silence():
        program = torch.onnx.export(
            graph,
            tuple(inputs.values()),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},) * len(inputs) if any_batch else None,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
    assert program is not None  # torch's type allows for the older exporter
    return program.model_proto


@contextmanager
def _silence() -> Iterator[None]:
    """The exporter logs tracebacks where it cannot write an opset, goes on with another, and warns of its own parts."""
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _drop_notes(model: Any) -> None:
    """What the exporter notes at each node for its own debugging, with paths of this machine."""
    graph = model.graph
    for each in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        each.ClearField("metadata_props")
        each.ClearField("doc_string")


class OnnxEngine:
    """An exported `.onnx` file in ONNX Runtime, on the CPU, with as many threads as torch has.

    Raises:
        CheckpointError: packages are missing; a file that is torn or not an export of this project.
    """

    name = "onnx"

    def __init__(self, path: Path, bf16: bool = False) -> None:
        if bf16:
            raise CheckpointError(
                f"{path}: ONNX Runtime computes in float32; export it for OpenVINO, which has bfloat16"
            )
        try:
            import onnxruntime
        except ImportError as error:
            raise missing("onnx", error) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            # From its bytes: what a file says of weights in other files is not followed.
            self._session = onnxruntime.InferenceSession(path.read_bytes(), options, ["CPUExecutionProvider"])
        except OSError:
            raise
        except Exception as error:  # ONNX Runtime's own classes, one for each of its codes
            reason = str(error).splitlines()[0][:200]
            raise CheckpointError(f"{path}: not a readable ONNX file, damaged or cut off ({reason})") from None
        self.about = About.from_text(self._session.get_modelmeta().custom_metadata_map.get(KEY), path)
        names = [each.name for each in self._session.get_inputs()], [each.name for each in self._session.get_outputs()]
        if names != ([INPUT], list(OUTPUTS[self.about.form])):
            raise CheckpointError(f"{path}: its inputs and outputs, {names}, are not those that its metadata tells of")

    def run(self, images: np.ndarray) -> tuple[np.ndarray, ...]:
        """uint8 [B, 3, 300, 300] -> the arrays of `OUTPUTS`, of the form that `about` tells."""
        return tuple(self._session.run(None, {INPUT: images}))
