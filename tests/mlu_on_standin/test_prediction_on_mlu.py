"""Prediction on one MLU: what predict.py and Detector find there is what they find on the CPU."""

import numpy as np
import pytest
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from prediction import Detector
from prediction.devices import check_compile
from ssd_module import SSDModule


@pytest.fixture(scope="module")
def pictures(sample):
    return sorted((sample / "val2017").glob("*.jpg"))[:3]


@pytest.fixture
def module():
    torch.manual_seed(0)
    module = SSDModule("resnet18", 4)
    for head in module.model.logit_heads:
        torch.nn.init.normal_(head.weight, std=0.02)  # scores far above the threshold
    return module


def test_the_detections_on_an_mlu_are_the_cpus(module, pictures):
    on_cpu = Detector(module, "cpu")(pictures)
    detector = Detector(module, "auto")
    assert detector.device == torch.device("mlu", 0) == next(module.parameters()).device
    for mlu, cpu in zip(detector(pictures, batch_size=2), on_cpu, strict=True):
        assert len(cpu) > 50 and np.array_equal(mlu.labels, cpu.labels)
        assert np.allclose(mlu.boxes, cpu.boxes, atol=1e-3) and np.allclose(mlu.scores, cpu.scores, atol=1e-6)


def test_mixed_precision_on_an_mlu_runs_in_it(module, pictures):
    full, mixed = (Detector(module, "mlu", precision=each)(pictures[0])[0] for each in (None, "bf16-mixed"))
    assert len(mixed) and not np.array_equal(full.scores[:5], mixed.scores[:5])
    assert np.allclose(full.scores[:5], mixed.scores[:5], atol=0.05)


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "32"])
def test_weights_of_fewer_digits_on_an_mlu_find_the_same_but_for_rounding(module, pictures, precision):
    full = Detector(module, "mlu")(pictures[0])[0]
    found = Detector(module, "mlu", precision=precision)(pictures[0])[0]
    assert len(found) and np.allclose(full.scores[:5], found.scores[:5], atol=0.05)


def test_float64_is_refused_on_an_mlu(module):
    with pytest.raises(MisconfigurationException, match="precision='64-true' on an MLU would compute in fp32"):
        Detector(module, "mlu", precision="64-true")


def test_compiling_is_refused_where_torch_mlu_has_no_inductor():
    check_compile({"accelerator": "cpu"})
    with pytest.raises(MisconfigurationException, match=r"--compile true: this torch_mlu brings no inductor"):
        check_compile({"accelerator": "mlu"})
