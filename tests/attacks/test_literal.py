"""Answers that can be checked on paper: a 2×2 image and one linear layer; and the closed form for linear models."""

from __future__ import annotations

import itertools

import torch
from attack_samples import for_every, linear_net, seeded
from torch import Tensor, nn

from inoculate.attacks.base import Attack
from inoculate.attacks.bim import BIM
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.losses import Objective, cross_entropy, get_loss, margin
from inoculate.attacks.mifgsm import MIFGSM
from inoculate.attacks.one_step_target import OneStepTarget
from inoculate.attacks.pgd import PGD, _is_worse
from inoculate.core.rng import Draws
from inoculate.core.threat import Norm, Threat, sample
from inoculate.models.acceleration.fast import CraftingCopy

NORMS: list[Norm] = ["linf", "l2", "l1"]
ZERO, ONE = torch.tensor([0]), torch.tensor([1])


def image(*pixels: float) -> Tensor:
    return torch.tensor(pixels, dtype=torch.float32).view(1, 1, 2, 2)


def close(got: Tensor, expected: Tensor, atol: float = 1e-6) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=atol)


def apart(x: Tensor) -> Tensor:
    """The same images, a hair's breadth from one another: identical ones would draw the same random numbers."""
    return x + 1e-6 * torch.arange(float(len(x))).view(-1, 1, 1, 1)


X = image(0.2, 0.4, 0.6, 0.8)
# Class 1 has the logit 0·a + 3·b − 4·c + 0·d, class 0 none: the loss of class 0 rises along (0, 3, −4, 0).
NET = linear_net([[0, 0, 0, 0], [0, 3, -4, 0]])


@for_every([FGSM(), FGSM(loss="margin"), BIM(steps=4, step=0.5), OneStepTarget(1)])
def test_one_linear_layer(attack: Attack) -> None:
    """Away from class 0 and towards class 1 are the same way; a pixel without gradient stays as it is."""
    close(attack(NET, X, ZERO, Threat("linf", 0.1)), image(0.2, 0.5, 0.5, 0.8))
    close(attack(NET, X, ZERO, Threat("l2", 0.5)), image(0.2, 0.7, 0.2, 0.8))  # 0.5 · (0, 0.6, −0.8, 0)
    close(attack(NET, X, ZERO, Threat("l1", 0.5)), image(0.2, 0.4, 0.1, 0.8))  # all of it on the strongest pixel


def test_the_true_class_decides_the_sign() -> None:
    close(FGSM()(NET, X, ONE, Threat("linf", 0.1)), image(0.2, 0.3, 0.7, 0.8))
    both = FGSM()(NET, X.repeat(2, 1, 1, 1), torch.tensor([0, 1]), Threat("linf", 0.1))
    close(both, torch.cat([image(0.2, 0.5, 0.5, 0.8), image(0.2, 0.3, 0.7, 0.8)]))


def test_the_range_cuts_what_the_ball_allows() -> None:
    close(FGSM()(NET, X, ZERO, Threat("linf", 0.7)), image(0.2, 1.0, 0.0, 0.8))
    close(FGSM()(NET, X, ZERO, Threat("linf", 0.1, low=0.2, high=0.8)), image(0.2, 0.5, 0.5, 0.8))
    close(FGSM()(NET, X, ZERO, Threat("linf", 0.5, low=0.2, high=0.8)), image(0.2, 0.8, 0.2, 0.8))


def test_bim_walks_in_steps_relative_to_eps() -> None:
    threat = Threat("linf", 0.2)
    close(BIM(steps=1, step=0.25)(NET, X, ZERO, threat), image(0.2, 0.45, 0.55, 0.8))
    close(BIM(steps=3, step=0.25)(NET, X, ZERO, threat), image(0.2, 0.55, 0.45, 0.8))
    close(BIM(steps=9, step=0.25)(NET, X, ZERO, threat), image(0.2, 0.6, 0.4, 0.8))  # held by the ball


def test_bim_goes_up_the_true_class_and_down_the_target() -> None:
    """Equation 3 of the paper as printed has the other sign."""
    up = BIM(steps=1, step=1.0)(NET, X, ZERO, Threat("linf", 0.1))
    down = BIM(steps=1, step=1.0, target=0)(NET, X, ONE, Threat("linf", 0.1))
    close(up, image(0.2, 0.5, 0.5, 0.8))
    close(down, image(0.2, 0.3, 0.7, 0.8))


# Logits a, b and −c on (0.2, 0.4, 0.6, 0.8): 0.2, 0.4, −0.6. The best is class 1, the least likely class 2.
THREE = linear_net([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0]])


@for_every(["least_likely", 2])
def test_one_step_towards_a_class(target: str | int) -> None:
    """With the margin loss: raise the target's logit −c, lower the best other one, b; a does not count."""
    got = OneStepTarget(target, loss="margin")(THREE, X, ONE, Threat("linf", 0.1))
    close(got, image(0.2, 0.3, 0.5, 0.8))
    # Cross-entropy weighs every other class, so it also lowers a.
    close(OneStepTarget(target)(THREE, X, ONE, Threat("linf", 0.1)), image(0.1, 0.3, 0.5, 0.8))


def test_a_sample_of_the_target_class_is_attacked_untargeted() -> None:
    got = OneStepTarget(1, loss="margin")(THREE, X, ONE, Threat("linf", 0.1))
    close(got, image(0.3, 0.3, 0.6, 0.8))  # away from b, towards the next best, a
    close(got, FGSM(loss="margin")(THREE, X, ONE, Threat("linf", 0.1)))


def test_a_random_target_is_any_wrong_class() -> None:
    x, y = X.repeat(300, 1, 1, 1) + 1e-8 * torch.arange(300.0).view(-1, 1, 1, 1), torch.full((300,), 1)
    got = OneStepTarget("random", loss="margin")(THREE, x, y, Threat("linf", 0.1), generator=seeded(0))
    towards_0, towards_2 = image(0.3, 0.3, 0.6, 0.8), image(0.2, 0.3, 0.5, 0.8)
    to_0 = (got - towards_0).abs().flatten(1).amax(1) < 1e-5
    to_2 = (got - towards_2).abs().flatten(1).amax(1) < 1e-5
    assert bool((to_0 ^ to_2).all())
    assert 100 < int(to_0.sum()) < 200


def test_losses_literally() -> None:
    logits = torch.tensor([[0.0, 0.0], [1.0, 3.0], [1.0, 3.0]])
    y = torch.tensor([0, 1, 0])
    close(margin(logits, y), torch.tensor([0.0, -2.0, 2.0]))
    close(cross_entropy(logits, y), torch.tensor([0.693147, 0.126928, 2.126928]))


DUAL = {"linf": 1, "l2": 2, "l1": float("inf")}


@for_every(NORMS, ["fgsm", "bim", "pgd"])
def test_the_best_perturbation_of_a_linear_model_is_found(norm: Norm, name: str) -> None:
    """A linear margin w·x grows by eps times the dual norm of w at most, wherever the range does not interfere."""
    weight = torch.randn(48, generator=seeded(3))
    net = linear_net([[0.0] * 48, weight.tolist()])
    attacks = {"fgsm": FGSM(), "bim": BIM(steps=40, step=0.25), "pgd": PGD(steps=60, step=0.25)}
    x, y = torch.full((5, 3, 4, 4), 0.5), torch.zeros(5, dtype=torch.long)
    eps = {"linf": 0.05, "l2": 0.3, "l1": 0.4}[norm]
    x_adv = attacks[name](net, x, y, Threat(norm, eps), generator=seeded(0))
    gain = margin(net(x_adv), y) - margin(net(x), y)
    best = eps * weight.norm(p=DUAL[norm])
    torch.testing.assert_close(gain, best.expand(5), rtol=1e-3 if name == "pgd" else 1e-4, atol=0)


def test_the_best_linf_perturbation_where_the_range_cuts_it() -> None:
    weight = torch.randn(48, generator=seeded(3))
    net = linear_net([[0.0] * 48, weight.tolist()])
    x, y = torch.rand(7, 3, 4, 4, generator=seeded(4)), torch.zeros(7, dtype=torch.long)
    room = torch.where(weight.view(3, 4, 4) > 0, (1 - x).clamp_max(0.3), x.clamp_max(0.3))
    best = (room * weight.view(3, 4, 4).abs()).flatten(1).sum(1)
    for attack in (FGSM(), PGD(steps=30, step=0.2)):
        gain = margin(net(attack(net, x, y, Threat("linf", 0.3), generator=seeded(0))), y) - margin(net(x), y)
        torch.testing.assert_close(gain, best, rtol=1e-4, atol=1e-5)


@for_every([FGSM(), BIM(steps=40), MIFGSM(steps=40), PGD(steps=40)])
def test_l1_steps_go_where_there_is_room(attack: Attack) -> None:
    """Class 1 wins where 2a + b > 2.6. At (1, 0.5) the steeper pixel is at the top of the range: only b can move."""
    net = linear_net([[-2, -1], [2, 1]], [2.6, -2.6])
    x = torch.tensor([1.0, 0.5]).view(1, 1, 1, 2)
    x_adv = attack(net, x, ZERO, Threat("l1", 0.4), generator=seeded(0))
    torch.testing.assert_close(x_adv.flatten(), torch.tensor([1.0, 0.9]), rtol=0, atol=2e-3)
    assert net(x_adv).argmax() == 1


@for_every([FGSM(), BIM(steps=150, step=0.02), PGD(steps=150, step=0.02)], [0.4, 3.0, 9.0])
def test_the_best_l1_perturbation_where_the_range_cuts_it(attack: Attack, eps: float) -> None:
    """The steepest pixels use up their room one after the other, until eps is spent."""
    weight = torch.randn(48, generator=seeded(3))
    net = linear_net([[0.0] * 48, weight.tolist()])
    x, y = torch.rand(7, 3, 4, 4, generator=seeded(4)), torch.zeros(7, dtype=torch.long)
    room = torch.where(weight > 0, 1 - x.flatten(1), x.flatten(1))
    best = []
    for each in room.tolist():
        left, gain = eps, 0.0
        for slope, space in sorted(zip(weight.abs().tolist(), each, strict=True), reverse=True):
            gain += slope * min(space, left)
            left -= min(space, left)
        best.append(gain)
    x_adv = attack(net, x, y, Threat("l1", eps), generator=seeded(0))
    gain = margin(net(x_adv), y) - margin(net(x), y)
    torch.testing.assert_close(gain, torch.tensor(best), rtol=1e-4 if isinstance(attack, FGSM) else 0.01, atol=0)


@for_every(NORMS)
def test_more_pgd_steps_never_help_the_defender(norm: Norm) -> None:
    """On a convex loss from one start: the longer the walk, the higher every sample's loss."""
    net = linear_net(torch.randn(2, 48, generator=seeded(5)).tolist())
    x, y = 0.3 + 0.4 * torch.rand(8, 3, 4, 4, generator=seeded(6)), torch.arange(8) % 2
    threat = Threat(norm, {"linf": 0.05, "l2": 0.25, "l1": 0.25}[norm])
    losses = [cross_entropy(net(PGD(n, 0.1)(net, x, y, threat, generator=seeded(7))), y) for n in (1, 2, 4, 8, 16)]
    for shorter, longer in itertools.pairwise(losses):
        assert bool((longer >= shorter - 1e-5).all())
    assert bool((losses[-1] > losses[0] + 1e-3).all())


class _Valley(nn.Module):
    """One pixel; class 0 is certain at 0.5 and loses ground to both sides, by other amounts (logits of t = 10(x−½)).

    Right, class 1 just wins, at a loss of 0.74. Left, classes 1 and 2 come close without winning, at a loss of 1.09.
    """

    def forward(self, x: Tensor) -> Tensor:
        t = 10 * (x.flatten(1) - 0.5)
        right, left = t.clamp_min(0), (-t).clamp_min(0)
        return torch.cat([0 * t, -5 + 5.1 * right + 4.99 * left, -10 + 9.99 * left], dim=1)


class _Slope(nn.Module):
    """Two pixels and two classes; the loss of class 0 rises with |first − ½|, twice as fast above as below ½.

    Where the second pixel is bright, the two sides change places.
    """

    def forward(self, x: Tensor) -> Tensor:
        flip = torch.where(x[:, 0, 0, 1] > 0.5, -1.0, 1.0)
        t = flip * (x[:, 0, 0, 0] - 0.5)
        rise = 2 * t.clamp_min(0) + (-t).clamp_min(0)
        return torch.stack([rise * 0, rise - 1], dim=1)


def test_restarts_keep_the_worst_per_sample() -> None:
    """From ½ a start on the wrong side ends on the lesser summit; with restarts every sample finds the higher one."""
    bright = torch.arange(40) % 2
    x = apart(torch.stack([torch.full((40,), 0.5), 0.3 + 0.4 * bright], dim=1).view(40, 1, 1, 2))
    y, threat = torch.zeros(40, dtype=torch.long), Threat("linf", 0.1)
    high = torch.where(bright == 1, 0.4, 0.6)
    single = PGD(steps=10, step=0.25)(_Slope(), x, y, threat, generator=seeded(0))[:, 0, 0, 0]
    many = PGD(steps=10, step=0.25, restarts=15)(_Slope(), x, y, threat, generator=seeded(0))[:, 0, 0, 0]
    assert 5 < int((single - high).abs().lt(1e-4).sum()) < 35
    close(many, high, atol=1e-4)


def test_restarts_equal_the_worse_of_single_runs_sample_by_sample() -> None:
    x = apart(torch.tensor([0.5, 0.3]).view(1, 1, 1, 2).repeat(40, 1, 1, 1))
    y, threat = torch.zeros(40, dtype=torch.long), Threat("linf", 0.1)
    draws = Draws(x, seeded(1))
    one, two = (PGD(steps=10)(_Slope(), x, y, threat, start=sample(x, threat, draws)) for _ in range(2))
    both = PGD(steps=10, restarts=2)(_Slope(), x, y, threat, generator=seeded(1))
    second = cross_entropy(_Slope()(two), y) > cross_entropy(_Slope()(one), y) + 1e-6
    first = cross_entropy(_Slope()(one), y) > cross_entropy(_Slope()(two), y) + 1e-6
    assert int(second.sum()) > 3
    assert int(first.sum()) > 3
    close(both[second], two[second])
    close(both[first], one[first])


def test_a_misclassified_restart_is_worse_than_a_correct_one_of_higher_loss() -> None:
    x, y, threat = apart(torch.full((30, 1, 1, 1), 0.5)), torch.zeros(30, dtype=torch.long), Threat("linf", 0.1)
    single = PGD(steps=10)(_Valley(), x, y, threat, generator=seeded(0))
    left = single.flatten() < 0.5
    assert 3 < int(left.sum()) < 27
    assert bool((_Valley()(single).argmax(1).eq(0) == left).all())
    assert cross_entropy(_Valley()(single), y)[left].min() > cross_entropy(_Valley()(single), y)[~left].max()
    many = PGD(steps=10, restarts=15)(_Valley(), x, y, threat, generator=seeded(0))
    close(many.flatten(), torch.full((30,), 0.6), atol=1e-4)


class _Off(nn.Module):
    """One pixel, two classes: class 1 wins above `bound`; the loss of class 0 rises to both sides of it."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, x: Tensor) -> Tensor:
        t = x.flatten(1).mean(dim=1) - self.bound
        return torch.stack([0 * t, torch.where(t > 0, t, (-0.1 - t).clamp_max(-0.001))], dim=1)


def test_a_restart_does_not_undo_what_the_original_has_confirmed() -> None:
    """To the copy the first image is right, and its loss lower than the second's; to the original it is wrong."""
    model = _Off(0.50)
    copy = CraftingCopy(_Off(0.52), model, None)
    copy.is_verified = True
    broken, other = torch.full((1, 1, 1, 1), 0.51), torch.full((1, 1, 1, 1), 0.3)
    assert (model(broken).argmax(), model(other).argmax(), copy(broken).argmax()) == (1, 0, 0)
    assert not _is_worse(copy, other, broken, Objective(get_loss("cross_entropy"), ZERO))
    assert _is_worse(copy, broken, other, Objective(get_loss("cross_entropy"), ZERO))


def test_the_last_iterate_is_judged_and_a_given_start_is_projected() -> None:
    threat = Threat("linf", 0.1)
    start = image(0.9, 0.4, 0.6, 0.8)
    close(PGD(steps=1, step=1e-9)(NET, X, ZERO, threat, start=start), image(0.3, 0.4, 0.6, 0.8))
    close(PGD(steps=1, step=0.5)(NET, X, ZERO, threat, start=start), image(0.3, 0.45, 0.55, 0.8))
    close(start, image(0.9, 0.4, 0.6, 0.8))
