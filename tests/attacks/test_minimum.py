"""DeepFool, Carlini and Wagner's attack and FMN: how near is the nearest misclassified image they find?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attack_samples import for_every, images, linear_net, seeded, small_net
from torch import Tensor, nn

from inoculate.attacks.base import MinimumNorm
from inoculate.attacks.carlini_wagner import CarliniWagner
from inoculate.attacks.deepfool import DeepFool
from inoculate.attacks.fab import FAB
from inoculate.attacks.fmn import FMN
from inoculate.attacks.losses import margin
from inoculate.attacks.rays import RayS
from inoculate.attacks.sweep import sweep
from inoculate.core.errors import InputError
from inoculate.core.threat import Norm, Threat, distance, dual_norm, project, steepest_direction, step_along
from inoculate.models.acceleration.fast import fast

NORMS: list[Norm] = ["linf", "l2", "l1"]
# Short runs; each attack in each norm that it knows.
QUICK: dict[str, tuple[Any, Norm]] = {
    **{f"deepfool-{norm}": (DeepFool(), norm) for norm in NORMS},
    **{f"fmn-{norm}": (FMN(steps=15), norm) for norm in NORMS},
    "deepfool-target": (DeepFool(target="least_likely"), "l2"),
    "fab-target": (FAB(steps=15, target="least_likely"), "l2"),
    "fmn-target": (FMN(steps=15, target="least_likely"), "l2"),
    "rays": (RayS(queries=60), "linf"),
    "cw": (CarliniWagner(steps=15, search=2, lr=0.1, constant=1), "l2"),
    "cw-target": (CarliniWagner(steps=15, search=2, lr=0.1, constant=1, target=2), "l2"),
}
UNTARGETED = [case for name, case in QUICK.items() if "target" not in name]


def predictions(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1)


# --- closed forms

X = torch.tensor([[0.2, 0.4, 0.6, 0.8], [0.2, 0.98, 0.8, 0.8]]).view(2, 1, 2, 2)
# Class 1 has the logit 3·b − 4·c, class 0 none. In the first image −1.2 is missing: 1.2/7, 1.2/5 and 1.2/4 away. In
# the second −0.26 is, and b may rise by 0.02 only: c falls by 0.05 besides; in L1 by 0.065 alone.
NET = linear_net([[0, 0, 0, 0], [0, 3, -4, 0]])
NEAREST = {"linf": (1.2 / 7, 0.05), "l2": (0.24, 0.0029**0.5), "l1": (0.3, 0.065)}
# The last steps of FMN are a hundredth of `alpha`: that must be little against the distance.
CLOSED: list[tuple[Any, Norm, float]] = [
    *((DeepFool(), norm, 1.02) for norm in NORMS),
    *((FMN(alpha=0.2), norm, 1.02) for norm in NORMS),
    (CarliniWagner(steps=150, search=6, constant=0.1), "l2", 1.05),
]


@for_every(CLOSED)
def test_a_linear_boundary_that_can_be_worked_out_on_paper(attack: MinimumNorm, norm: Norm, slack: float) -> None:
    y = torch.zeros(2, dtype=torch.long)
    found = attack.closest(NET, X, y, Threat(norm, 0.1))
    best = torch.tensor(NEAREST[norm])
    assert bool((predictions(NET, found) == 1).all())
    assert bool((distance(found, X, norm) >= best * (1 - 1e-5)).all())
    assert bool((distance(found, X, norm) <= best * slack).all())


@for_every(CLOSED)
def test_the_nearest_of_several_linear_boundaries(attack: MinimumNorm, norm: Norm, slack: float) -> None:
    """|margin| over the dual norm of the difference of weights, for the nearest class; the range is far away."""
    weight = torch.randn(5, 48, generator=seeded(3))
    net = linear_net(weight.tolist(), bias=(-0.5 * weight.sum(1)).tolist())
    x = 0.5 + 0.05 * torch.randn(12, 3, 4, 4, generator=seeded(4))
    with torch.no_grad():
        logits = net(x)
    y = logits.argmax(1)
    dual = (weight - weight[y][:, None]).norm(p={"linf": 1, "l2": 2, "l1": float("inf")}[norm], dim=2)
    ways = (logits.gather(1, y[:, None]) - logits) / dual
    best = ways.scatter(1, y[:, None], torch.inf).amin(1)
    found = attack.closest(net, x, y, Threat(norm, 0.1))
    assert bool((predictions(net, found) != y).all())
    assert bool((distance(found, x, norm) >= best * (1 - 1e-4)).all())
    ratio = distance(found, x, norm) / best
    if isinstance(attack, DeepFool):
        assert ratio.max() <= 1.002
    else:  # they follow the rival of the largest logit, which need not be the nearest one
        assert ratio.median() <= slack


@for_every(NORMS)
def test_deepfool_as_in_the_paper_overshoots_a_linear_boundary_by_the_given_share(norm: Norm) -> None:
    y = torch.zeros(1, dtype=torch.long)
    found = DeepFool(overshoot=0.1, halvings=0).closest(NET, X[:1], y, Threat(norm, 0.1))
    assert distance(found, X[:1], norm).item() == pytest.approx(1.1 * NEAREST[norm][0], rel=1e-5)


@for_every(NORMS)
def test_each_image_may_have_a_ball_of_its_own(norm: Norm) -> None:
    x, _ = images(4)
    far, radius = x + torch.randn(x.shape, generator=seeded(1)), torch.tensor([0.0, 0.1, 0.4, 99.0])
    threats = [Threat(norm, min(r, 1.0) if norm == "linf" else r) for r in radius.tolist()]
    alone = [project(far[i : i + 1], x[i : i + 1], threat) for i, threat in enumerate(threats)]
    torch.testing.assert_close(project(far, x, Threat(norm, 0.2), radius), torch.cat(alone), rtol=0, atol=1e-6)


@for_every([("linf", 7), ("l2", 5), ("l1", 4)])
def test_the_dual_norm_is_what_a_unit_step_gains(norm: Norm, length: float) -> None:
    gradient = torch.tensor([0.0, 3.0, -4.0, 0.0]).view(1, 1, 2, 2)
    assert dual_norm(gradient, norm).item() == length
    wide = Threat(norm, 1.0, low=-5.0, high=5.0)
    step = step_along(
        torch.zeros_like(gradient), torch.zeros_like(gradient), steepest_direction(gradient, norm), 1.0, wide
    )
    assert (gradient * step).sum().item() == pytest.approx(length)


# --- what the protocol promises


@for_every(UNTARGETED)
def test_an_image_that_is_already_misclassified_is_returned_as_it_is(attack: MinimumNorm, norm: Norm) -> None:
    model, (x, _) = small_net(), images(8)
    right = predictions(model, x)
    y = torch.where(torch.arange(8) % 2 == 0, right, (right + 1) % 4)
    found = attack.closest(model, x, y, Threat(norm, 0.1))
    assert torch.equal(found[1::2], x[1::2])
    assert distance(found, x, norm)[::2].max() > 0
    alone = attack.closest(model, x[1::2], y[1::2], Threat(norm, 0.1))
    assert torch.equal(alone, x[1::2])
    assert alone.data_ptr() != x.data_ptr()


@for_every(QUICK.values())
def test_where_nothing_can_be_found_the_image_itself_is_returned(attack: MinimumNorm, norm: Norm) -> None:
    net = linear_net([[0, 0, 0, 0], [0, 0.1, -0.1, 0], [0, 0, 0.1, 0]], bias=[9, 0, 0])
    y = torch.zeros(2, dtype=torch.long)
    assert torch.equal(attack.closest(net, X, y, Threat(norm, 0.1)), X)
    assert torch.equal(attack(net, X, y, Threat(norm, 0.1)), X)


@for_every(QUICK.values())
def test_the_result_is_misclassified_and_lies_in_the_range(attack: Any, norm: Norm) -> None:
    model, (x, _) = small_net(), images(24)
    y = predictions(model, x)
    found = attack.closest(model, x, y, Threat(norm, 0.1))
    moved = distance(found, x, norm) > 0
    assert moved.float().mean() > (0.99 if (attack, norm) in UNTARGETED else 0.5)
    assert bool((predictions(model, found) != y)[moved].all())
    assert found.min() >= 0
    assert found.max() <= 1
    assert distance(attack(model, x, y, Threat(norm, 0.03)), x, norm).max() <= 0.03 + 1e-6
    assert torch.equal(attack(model, x, y, Threat(norm, 0.0)), x)
    low, high = attack.closest(model, x, y, Threat(norm, 0.1, low=-1, high=2)).aminmax()
    assert -1 <= low <= high <= 2


@for_every(QUICK.values())
def test_one_search_serves_every_eps(attack: Any, norm: Norm) -> None:
    model, (x, _) = small_net(), images(8)
    y, passes = predictions(model, x), []
    model.register_forward_hook(lambda *_: passes.append(1))
    far = distance(attack.closest(model, x, y, Threat(norm, 0.2)), x, norm).max().item()
    once = len(passes)
    passes.clear()
    swept = dict(sweep(attack, model, x, y, Threat(norm, 0.2), (0.0, far / 3, far / 2, 1.01 * far)))
    assert len(passes) == once
    assert torch.equal(swept[far / 2], attack(model, x, y, Threat(norm, far / 2)))
    broken = [int((predictions(model, x_adv) != y).sum()) for x_adv in swept.values()]
    assert broken == sorted(broken)
    assert broken[0] == 0
    assert broken[-1] == int((distance(swept[1.01 * far], x, norm) > 0).sum())


@for_every([FMN(target=2), CarliniWagner(steps=60, search=3, lr=0.04, constant=1, target=2)])
def test_a_target_is_reached(attack: Any) -> None:
    model, (x, _) = small_net(), images(24)
    y = predictions(model, x)
    found = attack.closest(model, x, y, Threat("l2", 0.1))
    moved, others = distance(found, x, "l2") > 0, y != 2
    assert int(others.sum()) > 5
    assert bool((predictions(model, found) == 2)[moved & others].all())
    assert moved[others].float().mean() > 0.9
    assert bool((predictions(model, found) != 2)[moved & ~others].all())  # an image of that class is driven away


def test_confidence_is_a_margin() -> None:
    model, (x, _) = small_net(), images(8)
    y = predictions(model, x)
    sure = CarliniWagner(steps=60, search=3, lr=0.04, constant=1, confidence=0.02)
    found = sure.closest(model, x, y, Threat("l2", 0.1))
    with torch.no_grad():
        assert margin(model(found), y).min() >= 0.02 - 1e-5


def test_fast_copies_craft_and_the_original_judges() -> None:
    model, (x, _) = small_net(), images(12)
    y, quick = predictions(model, x), fast(model)
    for attack, norm in QUICK.values():
        found = attack.closest(quick, x, y, Threat(norm, 0.1))
        assert bool((predictions(model, found) != y)[distance(found, x, norm) > 0].all())


# --- laws


@for_every(QUICK.values())
def test_order_and_size_of_the_batch_do_not_matter(attack: MinimumNorm, norm: Norm) -> None:
    x, _ = images(8)
    x, model = x.double(), small_net().double()
    y, order, threat = predictions(model, x), torch.randperm(8, generator=seeded(2)), Threat(norm, 0.1)
    found = attack.closest(model, x, y, threat)
    assert found.dtype is torch.float64
    shuffled = attack.closest(model, x[order], y[order], threat)
    torch.testing.assert_close(shuffled, found[order], rtol=0, atol=1e-6)
    parts = [attack.closest(model, x[rows], y[rows], threat) for rows in torch.arange(8).split([1, 2, 5])]
    torch.testing.assert_close(torch.cat(parts), found, rtol=0, atol=1e-6)


@for_every(QUICK.values(), [torch.no_grad, torch.inference_mode])
def test_nothing_else_is_touched(attack: Any, norm: Norm, mode: Callable[[], Any]) -> None:
    model, (x, _), g = small_net().train(), images(), seeded(1)
    y = predictions(copy.deepcopy(model).eval(), x)
    model[0].bias.requires_grad_(False)

    def state() -> list[Any]:
        flags = [m.training for m in model.modules()] + [(p.requires_grad, p.grad) for p in model.parameters()]
        tensors = [*model.state_dict().values(), torch.get_rng_state(), g.get_state(), x, y]
        return [*flags, *(t.tolist() for t in tensors)]

    before = state()
    expected = attack(copy.deepcopy(model).eval(), x, y, Threat(norm, 0.2))
    with mode():
        assert torch.equal(attack(model, x + 0, y + 0, Threat(norm, 0.2), generator=g), expected)
    assert state() == before
    assert not attack(model, x.requires_grad_(), y, Threat(norm, 0.2)).requires_grad


@for_every(QUICK.values())
def test_half_precision_two_classes_and_odd_shapes(attack: Any, norm: Norm) -> None:
    attack = CarliniWagner(steps=15, search=2, lr=0.1, constant=1) if isinstance(attack, CarliniWagner) else attack
    model, (x, _) = small_net(1, classes=2), images(3, 1, (9, 5))
    y = predictions(model, x.half().float())
    found = attack(model, x.half(), y, Threat(norm, 0.05))
    assert found.dtype is torch.float16
    assert distance(found.double(), x.half().double(), norm).max() <= 0.05 + 1e-6
    assert 0 <= found.min() <= found.max() <= 1


@for_every(QUICK.values())
def test_a_rounding_error_beyond_the_range_is_an_image_still(attack: Any, norm: Norm) -> None:
    model, (x, _) = small_net(), images()
    x[0, 0, 0, :2] = torch.tensor([-9e-7, 1 + 9e-7])
    assert bool(attack.closest(model, x, predictions(model, x), Threat(norm, 0.1)).isfinite().all())


@for_every(QUICK.values())
def test_what_is_no_image_is_refused_in_one_line(attack: Any, norm: Norm) -> None:
    x, y = images()
    with pytest.raises(InputError, match="range") as caught:
        attack(small_net(), x * 255, y, Threat(norm, 0.1))
    assert "\n" not in str(caught.value)


@for_every(["linf", "l1"])
def test_carlini_and_wagner_know_one_norm(norm: Norm) -> None:
    x, y = images()
    for call in (CarliniWagner(), CarliniWagner().closest):
        with pytest.raises(InputError, match="made for l2") as caught:
            call(small_net(), x, y, Threat(norm, 0.1))
        assert "\n" not in str(caught.value)


@for_every(
    [
        (DeepFool, {"steps": 0}), (DeepFool, {"candidates": 1}), (DeepFool, {"overshoot": 0}),
        (DeepFool, {"halvings": -1}), (CarliniWagner, {"search": 0}), (CarliniWagner, {"lr": float("nan")}),
        (CarliniWagner, {"constant": -1}), (CarliniWagner, {"confidence": -1}), (CarliniWagner, {"target": "any"}),
        (FMN, {"steps": 2.5}), (FMN, {"alpha": 0}), (FMN, {"gamma": "much"}), (FMN, {"target": 4}),
    ],
)  # fmt: skip
def test_an_option_that_makes_no_attack_is_refused_in_one_line(
    attack: Callable[..., Any], options: dict[str, Any]
) -> None:
    x, y = images()
    with pytest.raises(InputError) as caught:
        attack(**options)(small_net(), x, y, Threat("l2", 0.1))
    assert "\n" not in str(caught.value)
