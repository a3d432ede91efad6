"""Losses of the user's own, in every attack that takes one: as a function, with a target, from a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attack_samples import for_every, images, linear_net, seeded, small_net
from torch import Tensor

from inoculate.attacks.apgd import APGD
from inoculate.attacks.bim import BIM
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.losses import LOSSES, Loss, get_loss, margin
from inoculate.attacks.mifgsm import MIFGSM
from inoculate.attacks.one_step_target import OneStepTarget
from inoculate.attacks.pgd import PGD
from inoculate.attacks.registry import get_attack
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.models.acceleration.fast import fast


def own_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


def own_margin(logits: Tensor, y: Tensor) -> Tensor:
    others = logits.masked_fill(F.one_hot(y, logits.shape[1]).bool(), -torch.inf)
    return others.amax(1) - logits.gather(1, y[:, None])[:, 0]


TAKES_LOSS: dict[str, Any] = {
    "fgsm": FGSM(),
    "one_step_target": OneStepTarget(1),
    "bim": BIM(steps=5),
    "pgd": PGD(steps=20, restarts=2),
    "pgd_target": PGD(steps=3, target=2, early_stop=True),
    "mifgsm": MIFGSM(steps=3, step=0.5),
    "apgd": APGD(steps=10),
    "apgd_t": APGD(steps=6, targets=2),
}


def with_loss(name: str, loss: Any) -> Any:
    return replace(TAKES_LOSS[name], loss=loss)


@for_every(TAKES_LOSS, [("cross_entropy", own_cross_entropy), ("margin", own_margin)], [False, True])
def test_ones_own_copy_of_a_loss_gives_the_same_images(name: str, built_in: str, own: Any, copied: bool) -> None:
    model, (x, y) = small_net(), images(8)
    model = fast(model) if copied else model
    results = [
        with_loss(name, loss)(model, x, y, Threat("linf", 0.05), generator=seeded(3)) for loss in (built_in, own)
    ]
    assert torch.equal(*results)
    assert not torch.equal(results[0], x)


@for_every([name for name in TAKES_LOSS if name not in ("pgd_target", "apgd_t")])
def test_another_loss_leads_elsewhere(name: str) -> None:
    """The loss decides: one's own raises the logit of class 1 alone, which is the second pixel."""
    net = linear_net([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], bias=[0, 0, 5])
    x, y = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([2])

    def raise_class_one(logits: Tensor, y: Tensor) -> Tensor:
        return torch.where(y == 2, logits[:, 1], -logits[:, 1])  # it is descended for a target, here class 1

    x_adv = with_loss(name, raise_class_one)(net, x, y, Threat("l2", 0.2), generator=seeded(1))
    torch.testing.assert_close(x_adv, torch.tensor([[[[0.5, 0.7]]]]), atol=0.02, rtol=0)


def test_a_targeted_form_of_ones_own() -> None:
    loss = Loss(own_margin, lambda logits, y, target: logits.gather(1, target[:, None])[:, 0])
    net = linear_net([[0.0, 0.0], [1.0, -1.0], [0.0, 0.0]])
    x, y = torch.tensor([[[[0.5, 0.5]]]]), torch.tensor([0])
    x_adv = OneStepTarget(1, loss)(net, x, y, Threat("linf", 0.1))
    torch.testing.assert_close(x_adv, torch.tensor([[[[0.6, 0.4]]]]))


def test_the_functions_of_the_package_are_their_names() -> None:
    for name, loss in LOSSES.items():
        assert get_loss(loss.untargeted) is get_loss(name)
    assert get_loss(margin).zero_at_boundary
    assert not get_loss(own_margin).zero_at_boundary


def mean_of_all(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y)


def without_gradient(logits: Tensor, y: Tensor) -> Tensor:
    return own_margin(logits.detach(), y)


def of_a_number(logits: Tensor, y: Tensor) -> Any:
    return float(own_margin(logits.detach(), y).sum())


def failing(logits: Tensor, y: Tensor) -> Tensor:
    return logits[:, 99]


def of_three(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    return logits[:, 0]


@for_every(
    TAKES_LOSS,
    [
        (mean_of_all, "the loss mean_of_all gives shape \\(\\) for"),
        (without_gradient, "no gradient passes through the loss without_gradient"),
        (of_a_number, "of_a_number gives float"),
        (failing, "failing does not take"),
        (of_three, "of_three does not take"),
    ],
)
def test_a_loss_that_is_none_is_refused_in_one_line(name: str, loss: Any, words: str) -> None:
    x, y = images(4)
    with pytest.raises(InputError, match=words) as caught:
        with_loss(name, loss)(small_net(), x, y, Threat(), generator=seeded(0))
    assert "\n" not in str(caught.value)


@for_every([3, None, Tensor, "hinge"])
def test_what_cannot_be_a_loss_is_refused_at_once(loss: Any) -> None:
    with pytest.raises(InputError, match="cross_entropy, margin, dlr"):
        PGD(loss=loss)


def test_a_loss_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "my_losses.py").write_text(
        "import torch.nn.functional as F\n\n"
        "def mine(logits, y):\n    return F.cross_entropy(logits, y, reduction='none')\n"
    )
    model, (x, y) = small_net(), images(4)
    attack = get_attack("pgd", loss=f"{tmp_path}/my_losses.py:mine", steps=3)
    found, expected = (
        each(model, x, y, Threat(), generator=seeded(2)) for each in (attack, get_attack("pgd", steps=3))
    )
    assert torch.equal(found, expected)
    for spec, words in (
        (f"{tmp_path}/my_losses.py:theirs", "has no function 'theirs'"),
        (f"{tmp_path}/none.py:mine", "is not there"),
    ):
        with pytest.raises(InputError, match=words):
            get_attack("pgd", loss=spec)


@for_every([("square", "loss"), ("fgsm", "restarts"), ("autoattack", "loss"), ("fgsm", "target")])
def test_an_attack_without_an_option_says_so(name: str, option: str) -> None:
    with pytest.raises(InputError, match=f"attack {name} has no option '{option}'") as caught:
        get_attack(name, **{option: 2})
    assert "\n" not in str(caught.value)
