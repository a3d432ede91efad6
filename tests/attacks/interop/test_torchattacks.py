"""Our attacks in torchattacks."""

from __future__ import annotations

import pytest
import torch
from attack_samples import images, seeded, small_net

from inoculate.attacks.bim import BIM
from inoculate.attacks.interop.torchattacks import as_torchattack
from inoculate.attacks.pgd import PGD
from inoculate.core.threat import Threat, distance


def test_our_attacks_among_torchattacks() -> None:
    peer = pytest.importorskip("torchattacks")
    model, (x, y) = small_net().eval(), images()
    threat = Threat("linf", 0.03)
    ours = as_torchattack(BIM(steps=3), threat, model)
    assert torch.equal(ours(x, y), BIM(steps=3)(model, x, y, threat))
    several = peer.MultiAttack(
        [as_torchattack(PGD(), threat, model, generator=seeded(1)), ours, peer.FGSM(model, 0.03)]
    )
    x_adv = several(x, y)
    broken = (model(x_adv).argmax(1) != y).sum()
    assert broken >= (model(ours(x, y)).argmax(1) != y).sum()
    assert distance(x_adv, x, "linf").max() <= 0.03 + 1e-6
