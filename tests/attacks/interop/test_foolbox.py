"""Our models and attacks in foolbox."""

from __future__ import annotations

import copy

import pytest
import torch
from attack_samples import RADII, for_every, images, seeded, small_net
from torch import nn

from inoculate.attacks.bim import BIM
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.interop.foolbox import FoolboxAttack, as_foolbox, to_foolbox
from inoculate.attacks.pgd import PGD
from inoculate.core.errors import InputError
from inoculate.core.threat import Norm, Threat
from inoculate.models.acceleration.fast import fast
from inoculate.models.normalize import Normalize


def test_to_foolbox() -> None:
    peer = pytest.importorskip("foolbox")
    model, (x, y) = small_net().eval(), images()
    wrapped = to_foolbox(model, Threat("linf", 0.03))
    assert tuple(wrapped.bounds) == (0, 1)
    assert torch.equal(wrapped(x), model(x))
    assert torch.equal(peer.attacks.FGSM()(wrapped, x, y, epsilons=0.03)[0], FGSM()(model, x, y, Threat("linf", 0.03)))


@for_every(["linf", "l2", "l1"])
def test_our_attacks_in_foolbox(norm: Norm) -> None:
    peer = pytest.importorskip("foolbox")
    model, (x, y) = small_net().eval(), images()
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    theirs = peer.PyTorchModel(model, bounds=(0, 1), device="cpu", preprocessing={"mean": mean, "std": std, "axis": -3})
    ours = nn.Sequential(Normalize(tuple(mean.tolist()), tuple(std.tolist())), model)
    epsilons = [0.0, RADII[norm] / 2, RADII[norm]]
    for labels in (y, peer.criteria.Misclassification(y)):
        raw, clipped, success = as_foolbox(BIM(steps=3), norm)(theirs, x, labels, epsilons=epsilons)
        for eps, x_adv, same, broken in zip(epsilons, raw, clipped, success, strict=True):
            expected = BIM(steps=3)(ours, x, y, Threat(norm, eps))
            torch.testing.assert_close(x_adv, expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(same, x_adv, rtol=0, atol=1e-5)
            assert torch.equal(broken, ours(x_adv).argmax(1) != y)
    drawn = [as_foolbox(PGD(), generator=seeded(s))(theirs, x, y, epsilons=0.03)[0] for s in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    plain = peer.criteria.Misclassification(y)
    for criterion in (peer.criteria.TargetedMisclassification(y), plain & plain):
        with pytest.raises(InputError, match="belongs to the attack"):
            as_foolbox(PGD(), norm)(theirs, x, criterion, epsilons=0.03)
    double = peer.PyTorchModel(copy.deepcopy(model).double(), bounds=(0, 1), device="cpu")
    exact = as_foolbox(BIM(steps=3), norm)(double, x.double(), y, epsilons=RADII[norm])[0]
    assert exact.dtype is torch.float64


def test_a_fast_copy_is_replaced_by_its_original() -> None:
    """These attacks stop at the boundary: at that of a copy in bf16 the model itself would still be right."""
    pytest.importorskip("foolbox")
    model, (x, y) = small_net(), images()
    attack, threat = FoolboxAttack("LinfDeepFoolAttack"), Threat("linf", 0.3)
    found = [attack(each, x, y, threat, generator=seeded(1)) for each in (model, fast(model))]
    assert torch.equal(*found)
