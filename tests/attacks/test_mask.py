"""A mask of the pixels that may change: every attack keeps to it, and is as strong as if there were no other pixels."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from attack_samples import CASES, IN_NORMS, RADII, for_every, images, linear_net, seeded, small_net
from scipy.optimize import brentq
from torch import Tensor, nn

from inoculate.attacks.base import Attack, MinimumNorm, shortened
from inoculate.attacks.bim import BIM
from inoculate.attacks.carlini_wagner import CarliniWagner
from inoculate.attacks.craft import craft
from inoculate.attacks.deepfool import DeepFool
from inoculate.attacks.fab import FAB
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.fmn import FMN
from inoculate.attacks.losses import cross_entropy, margin
from inoculate.attacks.pgd import PGD
from inoculate.attacks.registry import ATTACKS, get_attack
from inoculate.attacks.square import Square
from inoculate.attacks.sweep import sweep
from inoculate.core.errors import InputError
from inoculate.core.mask import Mask
from inoculate.core.rng import Draws
from inoculate.core.threat import Norm, Threat, distance, sample
from inoculate.data.dataset import Dataset

NORMS: list[Norm] = ["linf", "l2", "l1"]
SHARED = torch.zeros(8, 8, dtype=torch.bool)
SHARED[2:6, 1:5] = True
# Every attack of the law table and of the registry, in every norm that it takes.
EVERY: list[tuple[Attack, Norm]] = [
    *((CASES[name].attack, norm) for name, norm in IN_NORMS),
    *((attack, norm) for attack in (DeepFool(steps=5), FMN(steps=15)) for norm in NORMS),
    (CarliniWagner(steps=15, search=2, lr=0.1, constant=1), "l2"),
]


def own_masks(count: int, channels: int = 1) -> Tensor:
    """A mask for each image: others, and of other sizes."""
    masks = torch.rand(count, channels, 8, 8, generator=seeded(5)) < torch.linspace(0.2, 0.7, count).view(-1, 1, 1, 1)
    masks[:, :, 4, 4] = True
    return masks


def attacked(attack: Attack, norm: Norm, mask: object, *, eps: float | None = None, count: int = 6) -> Tensor:
    x, y = images(count)
    return attack(small_net(), x, y, Threat(norm, eps or RADII[norm], mask=mask), generator=seeded(9))  # type: ignore[arg-type]


@for_every(EVERY, [SHARED])
def test_only_pixels_of_the_mask_change(attack: Attack, norm: Norm, mask: Tensor) -> None:
    (x, _), x_adv = images(), attacked(attack, norm, mask)
    changed = x_adv != x
    assert not (changed & ~mask).any()
    assert changed.any()
    assert distance(x_adv, x, norm).max() <= RADII[norm] + 1e-6
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@for_every(EVERY)
def test_a_mask_follows_its_image_through_the_batch(attack: Attack, norm: Norm) -> None:
    """In another order, and alone: the runs of an attack that end early must not exchange masks."""
    model, masks, (x, y) = small_net().double(), own_masks(3, channels=3), images(3)
    x, eps = x.double(), 2 * RADII[norm]

    def run(rows: Tensor) -> Tensor:
        return attack(model, x[rows], y[rows], Threat(norm, eps, mask=masks[rows]), generator=seeded(9))

    whole, order = run(torch.arange(3)), torch.randperm(3, generator=seeded(2))
    assert not ((whole != x) & ~masks).any()
    torch.testing.assert_close(run(order), whole[order], rtol=0, atol=1e-6)
    alone = torch.cat([run(torch.tensor([row])) for row in range(3)])
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-6)


@pytest.mark.slow
@for_every(EVERY)
def test_a_mask_of_all_pixels_changes_nothing(attack: Attack, norm: Norm) -> None:
    masked = attacked(attack, norm, torch.ones(6, 3, 8, 8), count=6)
    torch.testing.assert_close(masked, attacked(attack, norm, None), rtol=0, atol=1e-5)


class _Held(nn.Module):
    """A model that sees `x` outside the mask, whatever it is given: its gradient is 0 there."""

    def __init__(self, model: nn.Module, mask: Tensor, x: Tensor) -> None:
        super().__init__()
        self.model, self.mask, self.x = model, mask, x

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.where(self.mask, self.x))


# Without random numbers; a blurred gradient reaches beyond the mask, and its length with it.
PLAIN = [case for case in EVERY if case[0] not in [each.attack for each in CASES.values() if each.random]]


@for_every([case for case in PLAIN if case[0] != CASES["mifgsm_blurred"].attack])
def test_it_is_the_attack_on_a_model_that_sees_the_other_pixels_as_they_are(attack: Attack, norm: Norm) -> None:
    """An attack that knows no mask takes the same steps on such a model."""
    x, y = images(3)
    model = small_net().double()
    for image, label in zip(x.double().split(1), y.split(1), strict=True):
        masked = attack(model, image, label, Threat(norm, RADII[norm], mask=SHARED))
        plain = attack(_Held(model, SHARED, image), image, label, Threat(norm, RADII[norm]))
        torch.testing.assert_close(masked, plain.where(SHARED, image), rtol=0, atol=1e-6)


@for_every(IN_NORMS, [own_masks(64)])
def test_the_loss_rises_inside_the_mask(name: str, norm: Norm, mask: Tensor) -> None:
    model, (x, _) = small_net(), images(64)
    with torch.no_grad():
        y = model(x).argmax(1)
        threat = Threat(norm, RADII[norm], mask=mask)  # type: ignore[arg-type]
        x_adv = CASES[name].attack(model, x, y, threat, generator=seeded(9))
        assert cross_entropy(model(x_adv), y).mean() > cross_entropy(model(x), y).mean()


# --- closed forms on a linear margin w·x, near the walls of the box too


def best_gain(weight: Tensor, x: Tensor, free: Tensor, norm: Norm, eps: float) -> float:
    """The most that w·delta can be with delta in ball, box and mask (all D)."""
    w = np.where(free, weight.double(), 0.0)
    room, steep = np.where(w > 0, 1 - x.double(), x.double()), np.abs(w)
    if norm == "linf":
        return float((steep * np.minimum(room, eps)).sum())
    if norm == "l1":
        order = np.argsort(-steep)
        before = np.cumsum(room[order]) - room[order]
        return float((steep[order] * np.clip(eps - before, 0, room[order])).sum())
    low, high = 0.0, 1e6
    for _ in range(60):  # delta = min(room, scale · |w|), as long as it is inside the ball
        scale = (low + high) / 2 if low else high / 1e3
        delta = np.minimum(room, scale * steep)
        low, high = (scale, high) if np.sqrt((delta**2).sum()) <= eps else (low, scale)
    return float((steep * np.minimum(room, low * steep)).sum())


def linear_case() -> tuple[Tensor, nn.Module, Tensor, Tensor, Tensor]:
    """Weights, model, 7 images of which many pixels are at the walls, labels and their masks."""
    weight = torch.randn(48, generator=seeded(3))
    x = torch.rand(7, 3, 4, 4, generator=seeded(4))
    x = torch.where(torch.rand(x.shape, generator=seeded(5)) < 0.3, x.round(), x)
    masks = torch.rand(7, 3, 4, 4, generator=seeded(6)) < 0.5
    return weight, linear_net([[0.0] * 48, weight.tolist()]), x, torch.zeros(7, dtype=torch.long), masks


EXACT = [(FGSM(), norm) for norm in ("linf", "l1")]
NEAR = [(attack, norm) for attack in (BIM(200, 0.03), PGD(200, 0.03)) for norm in NORMS]


@for_every([*EXACT, *NEAR], [0.3, 1.5])
def test_the_best_perturbation_of_a_linear_model_inside_a_mask(attack: Attack, norm: Norm, size: float) -> None:
    weight, net, x, y, masks = linear_case()
    eps = size * {"linf": 0.5, "l2": 1.0, "l1": 3.0}[norm]
    x_adv = attack(net, x, y, Threat(norm, eps, mask=masks), generator=seeded(0))
    gain = margin(net(x_adv), y) - margin(net(x), y)
    best = [best_gain(weight, *pair, norm, eps) for pair in zip(x.flatten(1), masks.flatten(1), strict=True)]
    torch.testing.assert_close(gain, torch.tensor(best), rtol=1e-4 if isinstance(attack, FGSM) else 0.01, atol=1e-4)


NEAREST = [
    *((attack, norm) for attack in (DeepFool(), FAB(steps=40, targets=1), FMN(steps=100, alpha=0.3)) for norm in NORMS),
    (CarliniWagner(steps=200, search=5, constant=1.0, lr=0.02), "l2"),
]


@for_every(NEAREST)
def test_the_nearest_error_of_a_linear_model_inside_a_mask(attack: FMN, norm: Norm) -> None:
    """The distance at which the best gain equals the lead; it is longer than without the mask."""
    weight, net, x, y, masks = linear_case()
    net[1].bias = nn.Parameter(torch.zeros(2))
    image, free = x[1:2], masks[1]
    half = best_gain(weight, image.flatten(), free.flatten(), "linf", 1.0) / 2  # of what can be gained is missing
    with torch.no_grad():
        net[1].bias.copy_(torch.tensor([0.0, -half]) - net[1].weight @ image.flatten())
    found = attack.closest(net, image, y[:1], Threat(norm, 1.0, mask=free), generator=seeded(0))
    assert not ((found != image) & ~free).any()
    assert net(found).argmax() == 1
    best = brentq(lambda eps: best_gain(weight, image.flatten(), free.flatten(), norm, eps) - half, 0, 48, xtol=1e-5)
    assert best * (1 - 1e-3) <= float(distance(found, image, norm)) <= best * 1.05


def test_square_searches_where_the_mask_is() -> None:
    """A 3×3 mask in 32×32: squares drawn over the whole image would hardly ever meet it."""
    weight = torch.randn(1024, generator=seeded(3))
    net, mask = linear_net([[0.0] * 1024, weight.tolist()]), torch.zeros(32, 32)
    mask[20:23, 5:8] = 1
    x, y = torch.full((2, 1, 32, 32), 0.5), torch.zeros(2, dtype=torch.long)
    attack = Square(queries=150, early_stop=False)
    gain: dict[Norm, float] = {"linf": 0.0, "l2": 0.0}
    for norm in gain:
        x_adv = attack(net, x, y, Threat(norm, 0.1, mask=mask), generator=seeded(0))
        gain[norm] = float((margin(net(x_adv), y) - margin(net(x), y)).detach().min())
    inside = weight.view(32, 32)[20:23, 5:8]
    assert gain["linf"] >= 0.999 * 0.1 * float(inside.abs().sum())
    assert gain["l2"] >= 0.6 * 0.1 * float(inside.norm())


@for_every(NORMS)
def test_a_random_start_is_uniform_in_the_ball_of_the_pixels_that_may_change(norm: Norm) -> None:
    mask = torch.tensor([[1, 0], [1, 1]])
    x = torch.full((20000, 1, 2, 2), 0.5)
    points = sample(x, Threat(norm, 0.1, mask=mask), Draws(torch.arange(20000.0)[:, None], None))
    share = (distance(points, x, norm) / 0.1) ** 3
    assert (points[:, 0, 0, 1] == 0.5).all()
    for quantile in (0.1, 0.5, 0.9):
        assert (share < quantile).float().mean().item() == pytest.approx(quantile, abs=0.015)


# --- what is made of attacks


@for_every([FGSM(), FMN(steps=5), PGD(steps=2)], NORMS)
def test_a_sweep_keeps_to_the_mask(attack: Attack, norm: Norm) -> None:
    x, y = images()
    threat, masks = Threat(norm, 1.0, mask=own_masks(6)), own_masks(6)
    for eps, x_adv in sweep(attack, small_net(), x, y, threat, (0.1, 0.2), generator=seeded(1)):
        assert not ((x_adv != x) & ~masks).any()
        assert distance(x_adv, x, norm).max() <= eps + 1e-6


@for_every([FGSM(), PGD(steps=2)])
def test_a_stored_set_keeps_to_the_mask_and_names_it(attack: Attack) -> None:
    data = Dataset.from_tensors((255 * images()[0]).to(torch.uint8), images()[1])
    found = [craft(attack, small_net(), data, Threat(mask=mask), batch_size=4) for mask in (own_masks(6), None)]
    assert not ((found[0].direction != 0) & ~own_masks(6)).any()
    assert found[0].provenance["mask"] == Mask.of(own_masks(6)).digest
    assert "mask" not in found[1].provenance


@for_every(ATTACKS, get_args(Norm))
def test_every_registered_attack_keeps_to_a_mask_in_every_norm_that_it_takes(name: str, norm: Norm) -> None:
    attack, classes = shortened(get_attack(name)), 3 if name == "autoattack_binary" else 10
    (x, y), model, eps = images(classes=classes), small_net(classes=classes), RADII.get(norm, 4.0)
    try:
        attack(model, x, y, Threat(norm, eps), generator=seeded(0))
    except InputError:
        return  # a norm that it does not take
    x_adv = attack(model, x, y, Threat(norm, eps, mask=own_masks(6)), generator=seeded(0))  # type: ignore[arg-type]
    assert not ((x_adv != x) & ~own_masks(6)).any()
    assert (x_adv != x).any() or isinstance(attack, MinimumNorm)  # which finds nothing in two steps


def test_attacks_of_other_libraries_refuse_a_mask() -> None:
    pytest.importorskip("torchattacks", reason="torchattacks is not installed")
    x, y = images()
    with pytest.raises(InputError, match="mask"):
        get_attack("torchattacks:PGD")(small_net(), x, y, Threat(mask=SHARED))


@for_every([torch.ones(7, 8), torch.ones(2, 8, 8), torch.ones(5, 1, 8, 8), torch.ones(6, 2, 8, 8)])
def test_a_mask_that_does_not_fit_is_refused_in_one_line(mask: Tensor) -> None:
    x, y = images()
    for attack in (FGSM(), PGD(steps=2), FMN(steps=2), Square(queries=2)):
        with pytest.raises(InputError, match="mask is") as caught:
            attack(small_net(), x, y, Threat(mask=mask))  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
