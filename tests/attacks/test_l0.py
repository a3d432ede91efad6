"""L0, which counts pixels: projection, the optimum of linear models near the walls, and what has no such version."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from attack_samples import for_every, images, linear_net, seeded, small_net
from torch import Tensor

from inoculate.attacks.base import MinimumNorm
from inoculate.attacks.bim import BIM
from inoculate.attacks.carlini_wagner import CarliniWagner
from inoculate.attacks.deepfool import DeepFool
from inoculate.attacks.fab import FAB
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.fmn import FMN
from inoculate.attacks.losses import margin
from inoculate.attacks.pgd import PGD
from inoculate.attacks.registry import get_attack
from inoculate.attacks.sigma_zero import SigmaZero
from inoculate.attacks.sparse_rs import SparseRS, schedule
from inoculate.core.errors import InputError
from inoculate.core.pixels import eight_bits, to_float
from inoculate.core.threat import Threat, distance, dual_norm, first_order_distance, project

CHANNELS, HEIGHT, WIDTH = 2, 2, 3


def walled_images(count: int, seed: int) -> Tensor:
    """Images (N×2×2×3), a third of whose values lie at an end of the range."""
    x = torch.rand(count, CHANNELS, HEIGHT, WIDTH, generator=seeded(seed))
    return torch.where(torch.rand(x.shape, generator=seeded(seed + 1)) < 0.35, x.round(), x)


def two_classes(seed: int, missing: float) -> tuple[Any, Tensor]:
    """A linear model of two classes with the margin w · x − b, and w; at all of `walled_images` it is below 0."""
    weight = torch.randn(CHANNELS * HEIGHT * WIDTH, generator=seeded(seed))
    bias = float(weight.clamp_min(0).sum()) * missing
    return linear_net([[0.0] * len(weight), weight.tolist()], bias=[bias, 0.0]), weight.view(CHANNELS, HEIGHT, WIDTH)


def gains(x: Tensor, weight: Tensor) -> Tensor:
    """By how much each pixel can raise the margin within the range (N×pixels): all of its channels go to a wall."""
    return (torch.where(weight > 0, 1 - x, x) * weight.abs()).sum(dim=1).flatten(1)


def test_the_projection_is_the_nearest_image_of_ball_and_range() -> None:
    """Against all choices of two of six pixels: what lies outside the range must not use up the ball."""
    x = walled_images(30, 1)
    far = x + torch.randn(x.shape, generator=seeded(3))
    found, clamped = project(far, x, Threat("l0", 2)), far.clamp(0, 1)
    nearest = torch.full((len(x),), torch.inf)
    for pixels in itertools.combinations(range(HEIGHT * WIDTH), 2):
        mask = torch.zeros(HEIGHT * WIDTH, dtype=torch.bool)
        mask[list(pixels)] = True
        candidate = torch.where(mask.view(HEIGHT, WIDTH), clamped, x)
        nearest = nearest.minimum((candidate - far).flatten(1).norm(dim=1))
    torch.testing.assert_close((found - far).flatten(1).norm(dim=1), nearest)
    assert distance(found, x, "l0").max() == 2
    assert torch.equal(project(found, x, Threat("l0", 2)), found)
    assert torch.equal(project(far, x, Threat("l0", 6)), clamped)
    assert torch.equal(project(far, x, Threat("l0", 0)), x)


def test_a_pixel_counts_once_whatever_its_channels_do() -> None:
    x = torch.zeros(3, 3, 2, 2)
    x_adv = x.clone()
    x_adv[0, :, 0, 0] = 0.5
    x_adv[1, 0, 0, 0], x_adv[1, 2, 1, 1] = 1e-6, 1.0
    assert distance(x_adv, x, "l0").tolist() == [1, 2, 0]
    assert distance(x_adv.bfloat16(), x.bfloat16(), "l0").dtype is torch.float32  # which holds 224 · 224
    assert dual_norm(torch.tensor([3.0, -1.0, 0.5, 2.0]).view(1, 2, 1, 2), "l0").item() == 3.5


def test_the_first_order_distance_counts_pixels() -> None:
    gradient = torch.tensor([3.0, 0.0, 2.0, -1.0]).view(1, 1, 2, 2).expand(6, 1, 2, 2)
    rise = torch.tensor([0.0, 3.0, 3.5, 5.5, -5.0, 7.0])
    assert first_order_distance(rise, gradient, "l0").tolist() == [0, 1, 2, 3, -2, math.inf]


@for_every(
    [
        *itertools.product(
            [FGSM(), BIM(steps=4, loss="margin"), PGD(), PGD(steps=12, early_stop=True, loss="margin")], [1, 2, 3]
        ),
        (SparseRS(600), 1),
    ]
)
def test_a_linear_model_is_moved_by_the_pixels_of_the_largest_gain(attack: Any, eps: int) -> None:
    x, y = walled_images(12, 5), torch.zeros(12, dtype=torch.long)
    net, weight = two_classes(9, missing=2.0)
    x_adv = attack(net, x, y, Threat("l0", eps), generator=seeded(0))
    best = gains(x, weight).topk(eps, dim=1).values.sum(dim=1)
    with torch.no_grad():
        torch.testing.assert_close(margin(net(x_adv), y) - margin(net(x), y), best, rtol=0, atol=1e-5)
    assert distance(x_adv, x, "l0").max() <= eps


def test_a_random_search_comes_near_the_optimum_of_a_linear_model() -> None:
    """Only a change of two pixels at once would help a few images further."""
    x, y = walled_images(12, 5), torch.zeros(12, dtype=torch.long)
    net, weight = two_classes(9, missing=2.0)
    x_adv = SparseRS(600)(net, x, y, Threat("l0", 3), generator=seeded(0))
    best = gains(x, weight).topk(3, dim=1).values.sum(dim=1)
    with torch.no_grad():
        risen = margin(net(x_adv), y) - margin(net(x), y)
    assert bool((risen <= best + 1e-5).all())
    assert (risen / best).mean() > 0.95


@for_every([SigmaZero(steps=300), FMN(steps=100)])
def test_the_fewest_pixels_that_break_a_linear_model(attack: MinimumNorm) -> None:
    x = walled_images(24, 5)
    net, weight = two_classes(9, missing=0.7)
    with torch.no_grad():
        x = x[net(x).argmax(1) == 0]
        y = torch.zeros(len(x), dtype=torch.long)
        short = -margin(net(x), y)
        fewest = (gains(x, weight).sort(dim=1, descending=True).values.cumsum(dim=1) < short[:, None]).sum(dim=1) + 1
        found = attack.closest(net, x, y, Threat("l0", 1))
        assert bool((net(found).argmax(1) == 1).all())
    assert fewest.unique().numel() > 2
    assert len(x) > 12
    more = distance(found, x, "l0") - fewest
    assert bool((more >= 0).all())
    assert more.max() <= 1
    assert (more == 0).float().mean() > 0.8


def test_the_walls_of_another_range_are_used() -> None:
    x, y = 4 * walled_images(6, 5) - 1, torch.zeros(6, dtype=torch.long)
    net, weight = two_classes(9, missing=9.0)
    threat = Threat("l0", 2, low=-1, high=3)
    best = gains((x + 1) / 4, weight).topk(2, dim=1).values.sum(dim=1) * 4
    for attack in (FGSM(loss="margin"), PGD(loss="margin", steps=12)):
        with torch.no_grad():
            risen = margin(net(attack(net, x, y, threat, generator=seeded(0))), y) - margin(net(x), y)
        torch.testing.assert_close(risen, best, rtol=0, atol=1e-4)


def test_one_pixel_of_a_model_without_gradient_is_found() -> None:
    """Su et al. 2019: one pixel. Only a white pixel at (1, 2) of the black images changes the class."""

    def model(x: Tensor) -> Tensor:
        white = (x[:, 0, 1, 2] > 0.9).float()
        return torch.stack([1 - white, white], dim=1)

    x, y = torch.zeros(4, 1, 4, 4) + torch.arange(4)[:, None, None, None] / 100, torch.zeros(4, dtype=torch.long)
    x_adv = SparseRS(queries=400)(model, x, y, Threat("l0", 1), generator=seeded(0))  # type: ignore[arg-type]
    assert bool((model(x_adv).argmax(1) == 1).all())
    assert distance(x_adv, x, "l0").tolist() == [1, 1, 1, 1]


def test_the_schedule_of_sparse_rs_literally() -> None:
    """Fractions of the first exchange: a half at once, a twentieth in the end; rescaled to the number of queries."""
    at = [0, 1, 50, 51, 200, 500, 1000, 2000, 4000, 6000, 8000, 8001]
    shares = [1, 2, 2, 4, 4, 5, 6, 8, 10, 12, 15, 20]
    assert [schedule(query, 10_000) for query in at] == [1 / share for share in shares]
    assert [schedule(query, 1000) for query in (5, 6, 900)] == [1 / 2, 1 / 4, 1 / 20]


def test_few_images_take_the_same_way_as_many() -> None:
    """Several proposals share a pass where there are few images: the search is that of one proposal at a time."""
    model, (x, y) = small_net(1).double(), images(40, 1)
    x = x.double()
    attack, threat = SparseRS(queries=60, early_stop=False), Threat("l0", 6)
    together = attack(model, x, y, threat, generator=seeded(1))
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1], threat, generator=seeded(1)) for i in range(4)])
    torch.testing.assert_close(alone, together[:4], rtol=0, atol=0)


@for_every(["apgd_ce", "apgd_t", "fab_t", "square", "deepfool", "carlini_wagner", "autoattack"])
def test_an_attack_without_l0_names_those_that_have_it(name: str) -> None:
    with pytest.raises(InputError, match="use sigma_zero, sparse_rs, pgd or fmn") as caught:
        get_attack(name)(small_net(), *images(), Threat("l0", 3))
    assert "\n" not in str(caught.value)


@for_every([FAB(), DeepFool(), CarliniWagner()])
def test_no_search_without_l0_starts(attack: MinimumNorm) -> None:
    with pytest.raises(InputError, match="no version for l0"):
        attack.closest(small_net(), *images(), Threat("l0", 3))


@for_every([SigmaZero(), SparseRS()], ["linf", "l2", "l1"])
def test_an_attack_for_l0_refuses_other_norms(attack: Any, norm: Any) -> None:
    with pytest.raises(InputError, match="give norm l0") as caught:
        attack(small_net(), *images(), Threat(norm, 0.5))
    assert "\n" not in str(caught.value)


@for_every(
    [
        *((SigmaZero, {option: value}) for option, value in (("steps", 0), ("sigma", 0), ("threshold", -1), ("lr", 0))),
        *((SparseRS, {option: value}) for option, value in (("queries", 1.5), ("alpha", 2), ("target", "any"))),
    ]
)
def test_an_option_that_makes_no_attack_is_refused(attack: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        attack(**options)
    assert "\n" not in str(caught.value)


def test_eight_bits_change_no_further_pixel() -> None:
    original = torch.randint(256, (4, 3, 5, 5), generator=seeded(0), dtype=torch.uint8)
    x = to_float(original)
    x_adv = SparseRS(queries=5)(small_net(), x, torch.zeros(4).long(), Threat("l0", 4), generator=seeded(0))
    saved = eight_bits(x_adv, original, Threat("l0", 4))
    assert distance(to_float(saved), x, "l0").max() <= 4
