"""Quantises the kit's network and builds it for MagicMind: python build.py [model.mm]. Needs MagicMind and an MLU.

Written after public examples of MagicMind's Python interface; never run on MagicMind by those who wrote it.
"""

import json
import sys
from pathlib import Path

import magicmind.python.runtime as mm
import numpy as np
from magicmind.python.runtime.parser import Parser

KIT = Path(__file__).resolve().parent


class Pictures(mm.CalibDataInterface):
    """The calibration pictures, a batch at a time."""

    def __init__(self, pictures: np.ndarray, batch: int) -> None:
        super().__init__()
        self.pictures, self.batch, self.start = pictures, batch, -batch

    def get_shape(self) -> mm.Dims:
        return mm.Dims([self.batch, *self.pictures.shape[1:]])

    def get_data_type(self) -> mm.DataType:
        return mm.DataType.UINT8

    def get_sample(self) -> np.ndarray:
        return self.pictures[self.start : self.start + self.batch]

    def next(self) -> mm.Status:
        self.start += self.batch
        if self.start + self.batch > len(self.pictures):
            return mm.Status(mm.Code.OUT_OF_RANGE, "no more pictures")
        return mm.Status.OK()

    def reset(self) -> mm.Status:
        self.start = -self.batch
        return mm.Status.OK()


def main() -> None:
    settings = json.loads((KIT / "build.json").read_text())
    batch = int(np.load(KIT / "reference.npz")["batch"])
    network, config = mm.Network(), mm.BuilderConfig()
    assert Parser(mm.ModelKind.kOnnx).parse(network, str(KIT / "model.onnx")).ok()
    assert network.get_input(0).set_dimension(mm.Dims([batch, 3, 300, 300])).ok()
    assert config.parse_from_string(json.dumps(settings)).ok()
    if settings["precision_config"]["precision_mode"].startswith("qint"):
        calibrator = mm.Calibrator([Pictures(np.load(KIT / "calibration.npy"), batch)])
        assert calibrator.set_quantization_algorithm(mm.QuantizationAlgorithm.LINEAR_ALGORITHM).ok()
        assert calibrator.calibrate(network, config).ok()
    model = mm.Builder().build_model("ssd300", network, config)
    assert model.serialize_to_file(sys.argv[1] if len(sys.argv) > 1 else str(KIT / "model.mm")).ok()


if __name__ == "__main__":
    main()
