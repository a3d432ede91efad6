"""Losses that can be worked out on paper."""

from __future__ import annotations

import pytest
import torch

from inoculate.attacks.losses import LOSSES, dlr, targeted_dlr
from inoculate.core.errors import InputError


def test_dlr_literally() -> None:
    logits, y = torch.tensor([[3.0, 1.0, 0.0, -1.0], [3.0, 1.0, 0.0, -1.0]]), torch.tensor([0, 2])
    torch.testing.assert_close(dlr(logits, y), torch.tensor([-2 / 3, 3 / 3]))
    torch.testing.assert_close(targeted_dlr(logits, y, torch.tensor([1, 1])), torch.tensor([-2 / 3.5, 1 / 3.5]))
    for name, few in (("dlr", 2), ("dlr", 3)):
        with pytest.raises(InputError, match="classes"):
            LOSSES[name].targeted(torch.rand(1, few), torch.tensor([0]), torch.tensor([1]))
    with pytest.raises(InputError, match="needs 3 classes"):
        dlr(torch.rand(1, 2), torch.tensor([0]))
