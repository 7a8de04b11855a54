"""Cases that need the stand-in torch_mlu for a whole process: test_mlu.py runs them in a child, which gets SAMPLE."""

import os
from pathlib import Path

import pytest
import torch

collect_ignore_glob = [] if os.environ.get("STANDIN_MLU_DEVICES") else ["test_*.py"]
if os.environ.get("STANDIN_MLU_DEVICES"):
    import torch_mlu  # noqa: F401 - before any backward pass: autograd counts a process's devices once, at its first
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sample() -> Path:
    """The sample data set that the parent has written."""
    return Path(os.environ["SAMPLE"])


@pytest.fixture(scope="session")
def out() -> Path:
    """Where runs go that the parent looks at, too."""
    return Path(os.environ["OUT"])
