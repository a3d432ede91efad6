"""Momentum and smoothing written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from attack_samples import images, small_net

from inoculate.attacks.mifgsm import MIFGSM, gaussian_blur
from inoculate.core.threat import Threat


def test_momentum_follows_the_paper() -> None:
    """Two steps by hand: g₁ = ∇/‖∇‖₁, then μ·g₁ + ∇/‖∇‖₁, each step eps·step along the sign."""
    model, (x, y) = small_net().double(), images(4)
    x, threat, velocity = x.double(), Threat("linf", 0.1), torch.zeros(4, 3, 8, 8, dtype=torch.float64)
    x_adv = x
    for _ in range(2):
        leaf = x_adv.clone().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
        velocity = 0.7 * velocity + g / g.abs().sum((1, 2, 3), keepdim=True)
        x_adv = (x_adv + 0.05 * velocity.sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1)
    torch.testing.assert_close(MIFGSM(steps=2, step=0.5, decay=0.7)(model, x, y, threat), x_adv)


def test_smoothing_keeps_the_sum_and_spreads_a_point() -> None:
    point = torch.zeros(1, 2, 9, 9)
    point[0, 0, 4, 4] = 1.0
    wide = gaussian_blur(point, 5)
    assert wide.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert wide[0, 1].abs().max() == 0  # channels do not mix
    assert int((wide > 0).sum()) == 25
    torch.testing.assert_close(wide, wide.flip(2, 3))
