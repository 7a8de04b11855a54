"""The published recipe's modules, by path, for the benchmarks that set ours beside them.

Every `--reference DIR` is a checkout of the recipe's directory: the one that holds `ssd/utils.py`.
"""

import importlib.util
from pathlib import Path
from types import ModuleType

import torch
import torchvision

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def load_utils(directory: Path) -> ModuleType:
    """Its `ssd/utils.py`: default boxes, encoder, pipeline."""
    return _load(directory, "utils")


def load_model(directory: Path) -> ModuleType:
    """Its `ssd/model.py`: network and loss; networks have random weights."""
    resnet = torchvision.models.resnet
    originals = {name: getattr(resnet, name) for name in BACKBONES}
    # It builds a pretrained network where it is imported; without this the import needs the internet.
    for name, original in originals.items():
        setattr(resnet, name, lambda weights=None, original=original: original(weights=None))
    try:
        return _load(directory, "model")
    finally:
        for name, original in originals.items():
            setattr(resnet, name, original)


def reference_order(utils: ModuleType, default_boxes: torch.Tensor) -> torch.Tensor:
    """int64 [A]: which of ours each of its default boxes is. Both lists hold the same boxes."""
    theirs = utils.dboxes300_coco()(order="xywh")
    # Sorting both by value gives the permutation.
    key = torch.tensor([1e9, 1e6, 1e3, 1.0], dtype=torch.float64)
    order = torch.empty(len(theirs), dtype=torch.int64)
    order[(theirs.double() @ key).argsort(stable=True)] = (default_boxes.double() @ key).argsort(stable=True)
    if not torch.allclose(default_boxes[order], theirs):
        raise SystemExit("the checkout's default boxes are not SSD300's")
    return order


def _load(directory: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"reference_{name}", directory / "ssd" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
