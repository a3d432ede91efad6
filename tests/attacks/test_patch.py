"""Patches: one square per image, at a random place, of any values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attack_samples import for_every, images, linear_net, seeded, small_net
from torch import Tensor, nn

from inoculate.attacks._pasting import cut, paste
from inoculate.attacks.patch import Patch
from inoculate.attacks.universal_patch import FixedPatch
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat, distance


def linear(missing: float) -> tuple[nn.Module, Tensor]:
    weight = torch.randn(2 * 5 * 6, generator=seeded(1))
    return linear_net([[0.0] * 60, weight.tolist()], bias=[missing, 0.0]), weight.view(2, 5, 6)


def square_of(x_adv: Tensor, x: Tensor) -> tuple[int, int, int, int]:
    """Top, left, height and width of what changed."""
    rows, columns = (x_adv != x).any(dim=0).nonzero().unbind(dim=1)
    return int(rows.min()), int(columns.min()), int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1


def test_laying_and_cutting_out_literally() -> None:
    x, patch = torch.zeros(2, 1, 3, 4), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[5.0, 6.0], [7.0, 8.0]]]])
    place = torch.tensor([0, 1]), torch.tensor([2, 0])
    laid = paste(x, patch, place)
    assert laid[0, 0].tolist() == [[0, 0, 1, 2], [0, 0, 3, 4], [0, 0, 0, 0]]
    assert laid[1, 0].tolist() == [[0, 0, 0, 0], [5, 6, 0, 0], [7, 8, 0, 0]]
    assert torch.equal(cut(laid, place, 2), patch)
    assert x.abs().sum() == 0


@for_every([Patch(), Patch(steps=30), Patch(early_stop=True, restarts=2)], [(4, 2), (11, 3)])
def test_the_optimum_of_a_linear_model_inside_the_square(attack: Patch, eps: int, side: int) -> None:
    """Every value in the square goes to the wall that its weight points to; nothing else changes."""
    x, y = 0.1 + 0.8 * torch.rand(8, 2, 5, 6, generator=seeded(2)), torch.zeros(8, dtype=torch.long)
    net, weight = linear(missing=99.0)
    x_adv = attack(net, x, y, Threat("l0", eps), generator=seeded(3))
    places = set()
    for image, attacked in zip(x, x_adv, strict=True):
        top, left, height, width = square_of(attacked, image)
        assert (height, width) == (side, side)
        places.add((top, left))
        inside = (slice(None), slice(top, top + side), slice(left, left + side))
        assert torch.equal(attacked[inside], (weight[inside] > 0).float())
    assert len(places) > 2


@for_every([Patch(eot=4, steps=40), Patch(eot=4, steps=40, early_stop=True)])
def test_a_patch_for_any_place_is_bright_where_brightness_helps_anywhere(attack: Patch) -> None:
    net = linear_net([[0.0] * 25, [1.0] * 25], bias=[99.0, 0.0])
    x, y = 0.5 * torch.rand(4, 1, 5, 5, generator=seeded(2)), torch.zeros(4, dtype=torch.long)
    x_adv = attack(net, x, y, Threat("l0", 4), generator=seeded(3))
    assert ((x_adv == 1).flatten(1).sum(1) == 4).all()


def test_another_place_is_tried_where_the_first_does_not_break_the_image() -> None:
    """Only one corner of the image decides: a patch of 3×3 covers it at one place of nine."""

    class Corner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            bright = x[:, 0, 0, 0]
            return torch.stack([0.9 - bright, bright - 0.9], dim=1) + 0 * x.sum((1, 2, 3))[:, None]

    x, y = 0.5 * torch.rand(20, 1, 5, 5, generator=seeded(2)), torch.zeros(20, dtype=torch.long)
    net, threat = Corner(), Threat("l0", 9)
    broken = [
        int((net(Patch(steps=25, restarts=n)(net, x, y, threat, generator=seeded(0))).argmax(1) == 1).sum())
        for n in (1, 40)
    ]
    assert broken[0] < 10
    assert broken[1] > 16


def test_a_target_is_reached_and_early_stop_changes_less() -> None:
    model, (x, _) = small_net(), images(24)
    with torch.no_grad():
        y = model(x).argmax(1)
    threat, g = Threat("l0", 36), seeded
    x_adv = Patch(target=2)(model, x, y, threat, generator=g(0))
    with torch.no_grad():
        reached = (model(x_adv).argmax(1) == 2)[y != 2].float().mean()
        before = (model(x).argmax(1) == 2)[y != 2].float().mean()
    assert reached > before + 0.5
    passes: list[int] = []
    model.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    full, some = (
        (passes.clear(), attack(model, x, y, threat, generator=g(0)), sum(passes))[2]
        for attack in (Patch(steps=30), Patch(steps=30).with_early_stop())
    )
    assert some < full


def test_a_fixed_patch_lies_at_random_places_and_has_to_fit() -> None:
    x, y = images(16)
    values = torch.rand(3, 2, 2, generator=seeded(5))
    x_adv = FixedPatch(values)(small_net(), x, y, Threat("l0", 4), generator=seeded(1))
    squares = {square_of(*pair)[:2] for pair in zip(x_adv, x, strict=True)}
    assert len(squares) > 8
    top, left, *_ = square_of(x_adv[0], x[0])
    assert torch.equal(x_adv[0, :, top : top + 2, left : left + 2], values)
    assert torch.equal(FixedPatch(values)(small_net(), x, y, Threat("l0", 0)), x)
    for patch, threat, said in (
        (values, Threat("l0", 3), "needs an l0 eps of 4"),
        (values, Threat("linf", 0.5), "give norm l0"),
        (values[:1], Threat("l0", 4), "does not fit"),
        (torch.rand(3, 9, 9), Threat("l0", 81), "does not fit"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            FixedPatch(patch)(small_net(), x, y, threat)
        assert "\n" not in str(caught.value)


@for_every([{"steps": 0}, {"step": 0}, {"eot": 0}, {"restarts": 0}, {"loss": "hinge"}, {"target": "any"}])
def test_an_option_that_makes_no_patch_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError) as caught:
        Patch(**options)
    assert "\n" not in str(caught.value)


def test_distance_of_a_patch_is_its_area_at_most() -> None:
    x, y = images()
    assert distance(Patch(steps=3)(small_net(), x, y, Threat("l0", 10), generator=seeded(0)), x, "l0").max() <= 9
