"""For tests of other libraries, some of which seed or draw from the global generators."""

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _own_random_state():
    with torch.random.fork_rng(devices=[]):
        before = np.random.get_state()
        yield
        np.random.set_state(before)
