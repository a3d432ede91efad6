"""For every test: random numbers of its own, one thread, and a cache of the session's own beside the user's."""

import os
import random

import numpy as np
import pytest
import torch


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """What a test draws does not depend on the tests before it, also while its fixtures are made."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """The nets here are small: threads would only wait for each other (many times slower on a busy machine)."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    before = os.environ.get("INOCULATE_CACHE")
    os.environ["INOCULATE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("INOCULATE_CACHE") if before is None else os.environ.update(INOCULATE_CACHE=before)
