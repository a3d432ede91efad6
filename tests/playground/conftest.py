"""A trained network, a second one as if hardened, and a session with both."""

from __future__ import annotations

import copy

import pytest
import torch
from digits_samples import trained_digits
from playground_samples import OFFERED
from torch import nn

from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.playground.play import open_session
from inoculate.playground.session import Session


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """Forty digits."""
    return trained_digits()[1].subset(range(40))


@pytest.fixture(scope="session")
def other() -> nn.Module:
    """The trained network with slightly other weights."""
    model = copy.deepcopy(trained_digits()[0])
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=draw))
    return model


@pytest.fixture(scope="session")
def session(digits: Dataset, other: nn.Module) -> Session:
    """Two networks, forty digits, four attacks."""
    return open_session(trained_digits()[0], digits, OFFERED, Threat("linf", 0.1), hardened=other)
