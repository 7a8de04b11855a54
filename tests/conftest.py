"""Shared fixtures: the golden figures of the published recipe, and real data where they lie beside the project."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

PROJECT = Path(__file__).resolve().parent.parent
SHARED = PROJECT.parent / "shared"
sys.path.insert(0, str(PROJECT))

import tests.thin  # noqa: E402, F401 - makes the backbone `thin` known
from ssd.default_boxes import BOXES_PER_CELL, FEATURE_SIZES  # noqa: E402

# Of whole runs. A file goes to one process: begun last, it would keep a single core busy when all else is done.
# While the first compiles the stand-in MLU, the second does not wait for it.
LONGEST = (
    *("test_mlu.py", "test_fit.py", "test_on_standin.py", "test_standin.py", "test_resuming.py", "test_scripts.py"),
    *("test_start.py", "test_portable.py", "test_published.py", "test_faults.py", "test_fuzz_inputs.py"),
    *("test_ended_within_an_epoch.py", "test_datamodule.py", "test_predict.py", "test_detector.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def golden():
    """Opens a file of golden figures by name."""

    def load(name: str) -> dict[str, np.ndarray]:
        path = SHARED / "golden" / name
        if not path.exists():
            pytest.skip(f"golden figures are not here: {path}")
        return dict(np.load(path))

    return load


@pytest.fixture(scope="session")
def shared_data():
    """The path of a data set below shared/data."""

    def find(name: str) -> Path:
        path = SHARED / "data" / name
        if not path.exists():
            pytest.skip(f"real data is not here: {path}")
        return path

    return find


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Path:
    """A small built-in sample data set: 24 training and 10 validation pictures."""
    from coco.sample import write_sample

    directory = tmp_path_factory.mktemp("sample")
    write_sample(directory, train_images=24, val_images=10)
    return directory


@pytest.fixture(scope="session")
def random_detector(tmp_path_factory) -> Path:
    """A checkpoint with the sample's classes whose random weights find many boxes, of several classes, everywhere."""
    from ssd_module import SSDModule

    torch.manual_seed(0)
    names, ids = ("disc", "square", "triangle", "cross"), (2, 3, 7, 40)
    module = SSDModule("resnet18", 4, names, ids)
    for head in module.model.logit_heads:
        torch.nn.init.normal_(head.weight, std=0.02)
    path = tmp_path_factory.mktemp("random") / "random.ckpt"
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams)}, path)
    return path


@pytest.fixture(scope="session")
def thin_detector(tmp_path_factory):
    """A checkpoint with the sample's classes whose random weights find boxes of every class, and with thresholds."""
    from ssd_module import SSDModule

    torch.manual_seed(0)
    names, ids = ("disc", "square", "triangle", "cross"), (2, 3, 7, 40)
    module = SSDModule("thin", 4, names, ids)
    for head in module.model.logit_heads:
        torch.nn.init.normal_(head.weight, std=0.02)
    path = tmp_path_factory.mktemp("thin") / "thin.ckpt"
    point = {"rule": "f1", "thresholds": [0.1, 0.12, 0.11, 0.13], "images": 10, "annotations": "abc"}
    content = {"state_dict": module.state_dict(), "hyper_parameters": dict(module.hparams), "operating_point": point}
    torch.save(content, path)
    return path


@pytest.fixture
def data(sample, tmp_path):
    """A copy of the sample data set that a test may damage."""
    return shutil.copytree(sample, tmp_path / "data")


@pytest.fixture(scope="session")
def reference_order() -> torch.Tensor:
    """int64 [8732]: for each default box in the recipe's order (shape by shape in a map) its index in ours."""
    order, start = [], 0
    for size, shapes in zip(FEATURE_SIZES, BOXES_PER_CELL, strict=True):
        order.append(torch.arange(start, start + size * size * shapes).view(size * size, shapes).t().flatten())
        start += size * size * shapes
    return torch.cat(order)


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Lets `change` alter the content of a json file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
