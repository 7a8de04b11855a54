"""What travels inside an exported file: enough to use it without its checkpoint, and to tell it from any other."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from checkpoints.files import CheckpointError
from checkpoints.operating_point import OperatingPoint
from coco.tiles import saved_tiling
from ssd.postprocess import Thresholds

KEY = "ssd300"  # of the JSON text in a file's metadata
# What the outputs of a file are called, by its form.
OUTPUTS = {"detections": ("boxes", "scores", "labels"), "raw": ("offsets", "logits")}
# What pip installs for an engine.
EXTRAS = {"onnx": "onnx onnxscript onnxruntime", "openvino": "openvino", "quantise": "openvino nncf"}


@dataclass(frozen=True)
class About:
    """Facts of an exported detector.

    form: a key of `OUTPUTS`. batch: pictures a call, None for any number. thresholds: what `detections` were made with,
    and what `raw` is meant for. operating_point: the checkpoint's, for prediction. numbers: `float32`, `float16` (of
    weights) or `int8`. version: of this project. checkpoint: SHA-256 of the file that was exported. selection: the
    classes, validation part and tiles that its run chose, as its checkpoint has them.
    """

    form: str
    batch: int | None
    backbone: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    thresholds: Thresholds
    operating_point: OperatingPoint | None
    numbers: str
    version: str
    checkpoint: str
    selection: dict[str, Any] = field(default_factory=dict)

    def to_text(self) -> str:
        """One line of JSON, ASCII."""
        return json.dumps({**asdict(self), **{name: _named(getattr(self, name)) for name in TUPLES}})

    @classmethod
    def from_text(cls, text: str | None, path: str | Path) -> "About":
        """What `to_text` wrote. path: for messages.

        Raises:
            CheckpointError: there is none, or it does not say what it should.
        """
        if text is None:
            raise CheckpointError(
                f"{path}: not exported by this project (no `{KEY}` in its metadata), so that neither its classes nor "
                "its outputs are known. Export a checkpoint anew: export.py --ckpt_path FILE --format ..."
            )
        try:
            about = cls(**_parsed(json.loads(text)))
            about._check()
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"{type(error).__name__}: {str(error)[:200]}"
            raise CheckpointError(f"{path}: its metadata `{KEY}` is damaged ({reason}). Export it anew") from None
        return about

    def _check(self) -> None:
        self.thresholds.check()
        saved_tiling(self.selection)
        point = self.operating_point
        texts = (self.backbone, self.numbers, self.version, self.checkpoint, *self.class_names)
        if (
            self.form not in OUTPUTS
            or not all(isinstance(text, str) for text in texts)
            or not isinstance(self.selection, dict)
            or not 0 < len(self.class_names) == len(self.category_ids)
            or any(type(number) is not int for number in self.category_ids)
            or not (self.batch is None or (type(self.batch) is int and self.batch > 0))
            or (point is not None and len(point.thresholds) != len(self.class_names))
        ):
            raise ValueError("contradicts itself")


TUPLES = ("thresholds", "operating_point")


def _named(value: Any) -> dict[str, Any] | None:
    return None if value is None else value._asdict()


def _parsed(fields: dict[str, Any]) -> dict[str, Any]:
    point = fields["operating_point"]
    return {
        **fields,
        "class_names": tuple(fields["class_names"]),
        "category_ids": tuple(fields["category_ids"]),
        "thresholds": Thresholds(**fields["thresholds"]),
        "operating_point": point and OperatingPoint(**{**point, "thresholds": tuple(point["thresholds"])}),
    }


def missing(engine: str, error: ImportError) -> CheckpointError:
    """The error of an engine whose packages are not installed, with the line that installs them."""
    return CheckpointError(
        f"{engine}: the Python package {error.name} is not installed; pip install {EXTRAS[engine]}, or install this "
        f"project with its extra: pip install -e '.[{engine}]'"
    )
