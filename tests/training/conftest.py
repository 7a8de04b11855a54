"""What the tests of resuming begin with: a small data set, and an undisturbed run on it."""

from pathlib import Path

import pytest

from coco.sample import write_sample
from tests.training.test_resuming import run


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """Seven training pictures: three steps of two, and one left over."""
    directory = tmp_path_factory.mktemp("small")
    write_sample(directory, train_images=8, val_images=2)
    return directory


@pytest.fixture(scope="session")
def straight(small, tmp_path_factory) -> Path:
    """An undisturbed run, with every state that it saved."""
    run_dir = tmp_path_factory.mktemp("straight") / "run"
    run(small, run_dir, "--trainer.callbacks+=tests.training.test_resuming.KeepEverySave")
    return run_dir
