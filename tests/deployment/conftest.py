"""A small network that detects much, as it is exported."""

import pytest

from deployment.graph import RawGraph
from prediction.exported import about_of
from ssd_module import load_module


@pytest.fixture(scope="session")
def module(thin_detector):
    return load_module(thin_detector).eval()


@pytest.fixture(scope="session")
def raw(module):
    return RawGraph(module.model)


@pytest.fixture(scope="session")
def about(module):
    """What an export of it says: a function of form and batch."""

    def make(form, batch=None):
        return about_of(module, form, batch, "0" * 64)

    return make
