"""A trained network and images for every test of this folder."""

import pytest
from digits_samples import trained_digits


@pytest.fixture(scope="session")
def digits():
    """A small CNN trained on most of the digits, and 200 of the rest."""
    model, data = trained_digits()
    return model, data.subset(range(200))
