"""Copies of modules that torch alone refuses to copy."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from inoculate.core.copying import copy_module


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weight_norm_after_a_pass_with_gradients() -> None:
    model, x = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 2))), torch.rand(4, 3)
    expected = model(x)
    expected.sum().backward()
    with pytest.raises(RuntimeError):
        copy.deepcopy(model)
    copied = copy_module(model)
    assert torch.equal(copied(x), expected)
    with torch.no_grad():
        copied[0].weight_g.zero_()
    assert torch.equal(model(x), expected)
    assert not torch.equal(copied(x), expected)


def test_what_cannot_be_copied_raises() -> None:
    model = nn.Linear(3, 2)
    model.rows = (each for each in ())
    with pytest.raises(TypeError):
        copy_module(model)
