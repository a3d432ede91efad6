"""Attacks with a target: only an image that is taken for the target class is done, whatever else it is mistaken for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attack_samples import for_every, images, linear_net, seeded, small_net
from torch import Tensor

from inoculate.attacks.apgd import APGD
from inoculate.attacks.bim import BIM
from inoculate.attacks.carlini_wagner import CarliniWagner
from inoculate.attacks.deepfool import DeepFool
from inoculate.attacks.fab import FAB
from inoculate.attacks.fmn import FMN
from inoculate.attacks.mifgsm import MIFGSM
from inoculate.attacks.pgd import PGD
from inoculate.attacks.square import Square
from inoculate.attacks.targets import wrong_classes
from inoculate.core.errors import InputError
from inoculate.core.threat import Norm, Threat, distance
from inoculate.data.dataset import Dataset
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.models.acceleration.fast import fast

# The sum of the pixels s decides: class 0 up to 1.2, class 1 up to 1.5, class 2 beyond; class 3 never.
NET = linear_net([[0] * 4, [1] * 4, [3] * 4, [0] * 4], bias=[0, -1.2, -4.2, -9])
X, Y = torch.full((2, 1, 2, 2), 0.25), torch.zeros(2, dtype=torch.long)  # s = 1
WAYS: dict[Norm, float] = {"linf": 0.125, "l2": 0.25, "l1": 0.5}  # to class 2; class 1 is at two fifths of that
BALL: dict[str, Any] = {
    "bim": BIM(target=2, early_stop=True),
    "pgd": PGD(target=2, restarts=2),
    "pgd_early": PGD(target=2, early_stop=True),
    "mifgsm": MIFGSM(target=2),
    "apgd_ce": APGD(20, target=2),
    "apgd_margin": APGD(20, "margin", target=2, restarts=2),
    "apgd_dlr": APGD(20, "dlr", target=2),
    "square": Square(300, target=2),
}
NEAREST: dict[str, Any] = {
    "fab": FAB(target=2),
    "deepfool": DeepFool(target=2),
    "fmn": FMN(alpha=0.2, target=2),
    "carlini_wagner": CarliniWagner(steps=150, search=6, constant=0.1, target=2),
}
NO_WAY = ("square", "l2")  # its bumps have two halves of opposite sign: they cannot raise a sum
EACH = [
    *((name, attack, norm) for name, attack in BALL.items() for norm in ("linf", "l2") if (name, norm) != NO_WAY),
    *((name, attack, norm) for name, attack in NEAREST.items() for norm in WAYS if name != "carlini_wagner"),
    ("carlini_wagner", NEAREST["carlini_wagner"], "l2"),
]
EACH_NEAREST = [case for case in EACH if case[0] in NEAREST]


def predictions(model: torch.nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1)


@for_every(EACH, [False, True])
def test_another_class_on_the_way_is_not_the_end(name: str, attack: Any, norm: Norm, copied: bool) -> None:
    model = fast(NET) if copied else NET
    found = attack(model, X, Y, Threat(norm, 1.12 * WAYS[norm]), generator=seeded(1))
    assert predictions(NET, found).tolist() == [2, 2]


@for_every(EACH_NEAREST)
def test_the_nearest_image_of_the_target_class(name: str, attack: Any, norm: Norm) -> None:
    found = attack.closest(NET, X, Y, Threat(norm, 0.1))
    assert predictions(NET, found).tolist() == [2, 2]
    assert (1 - 1e-5) * WAYS[norm] <= distance(found, X, norm).max() <= 1.05 * WAYS[norm]


@for_every(EACH)
def test_an_image_of_the_target_class_is_driven_away(name: str, attack: Any, norm: Norm) -> None:
    x, y = torch.full((1, 1, 2, 2), 0.45), torch.full((1,), 2)  # s = 1.8; class 2 ends at 1.5, 0.075 away in linf
    found = attack(NET, x, y, Threat(norm, 0.9 * WAYS[norm]), generator=seeded(1))
    assert predictions(NET, found).tolist() != [2]


@for_every(EACH)
def test_an_image_that_is_taken_for_a_third_class_goes_on_to_the_target(name: str, attack: Any, norm: Norm) -> None:
    x = torch.full((1, 1, 2, 2), 0.32)  # s = 1.28: class 1, where 0 would be right
    found = attack(NET, x, Y[:1], Threat(norm, WAYS[norm]), generator=seeded(1))
    assert predictions(NET, found).tolist() == [2]


@for_every(EACH_NEAREST)
def test_an_image_that_is_taken_for_its_target_already_stays(name: str, attack: Any, norm: Norm) -> None:
    x = torch.full((1, 1, 2, 2), 0.45)
    assert torch.equal(attack.closest(NET, x, Y[:1], Threat(norm, 0.1)), x)
    assert torch.equal(attack(NET, x, Y[:1], Threat(norm, 0.1)), x)


@for_every([*BALL, *NEAREST])
def test_what_a_network_is_made_to_say(name: str) -> None:
    """On a network with convolutions, at an eps that suffices for most: the target, and no matter in what batch."""
    model, (x, _) = small_net(), images(24)
    x, model = x.double(), model.double()
    y = predictions(model, x)
    attack, threat = {**BALL, **NEAREST}[name], Threat("l2", 1.5)
    found = attack(model, x, y, threat, generator=seeded(1))
    others = y != 2
    assert 5 < int(others.sum()) < 24
    assert (predictions(model, found) == 2)[others].float().mean() >= 0.8
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1], threat, generator=seeded(1)) for i in range(4)])
    torch.testing.assert_close(alone, found[:4], rtol=0, atol=1e-6)


def test_a_target_is_as_often_reached_as_by_foolbox() -> None:
    foolbox = pytest.importorskip("foolbox")
    model, (x, _) = small_net(), images(64)
    y = predictions(model, x)
    x, y = x[y != 2], y[y != 2]
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    wanted = foolbox.criteria.TargetedMisclassification(torch.full_like(y, 2))
    for eps in (0.01, 0.02, 0.04):
        theirs = foolbox.attacks.LinfPGD(steps=40)(peer, x, wanted, epsilons=eps)[2].float().mean()
        for attack in (APGD(40, "margin", target=2), FAB(target=2), PGD(40, target=2, early_stop=True)):
            ours = predictions(model, attack(model, x, y, Threat("linf", eps), generator=seeded(2))) == 2
            assert ours.float().mean() >= theirs - 0.02


def test_evaluate_tells_what_the_model_was_made_to_say() -> None:
    """Through the fast copy too: most images end as the target, and the records say so."""
    model = small_net()
    pixels = torch.randint(256, (60, 3, 8, 8), generator=seeded(5), dtype=torch.uint8)
    y = predictions(model, pixels / 255)
    split = Dataset.from_tensors(pixels, y, classes=("a", "b", "c", "d"))
    for attack in (PGD(20, target=2), APGD(20, "margin", target=2), Square(200, target=2), FAB(target=2)):
        found = evaluate(model, split, {"it": attack}, [Threat("linf", 0.06)], options=EvaluationOptions(checks=False))
        outcome = found.per_image[found[1]]
        fell = (outcome.predicted == 2) & (y != 2)
        assert int(fell.sum()) > 0.5 * int((y != 2).sum())


@for_every([APGD, FAB, Square, DeepFool], ["likeliest", -1, 4])
def test_a_target_that_does_not_exist_is_refused_in_one_line(make: Any, target: Any) -> None:
    with pytest.raises(InputError, match="target") as caught:
        make(target=target)(NET, X, Y, Threat("linf", 0.1))
    assert "\n" not in str(caught.value)


def test_one_target_or_several() -> None:
    with pytest.raises(InputError, match="leave out targets=9, or the target"):
        APGD(targets=9, target=2)


def test_wrong_classes_are_ordered_and_leave_out_the_true_one() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0, 2.0], [3.0, 1.0, 0.0, 2.0]])
    assert wrong_classes(logits, torch.tensor([0, 3])).tolist() == [[3, 1, 2], [0, 1, 2]]
