"""Laws that every attack of the table obeys; a new attack is one more line in `attack_samples.CASES`."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from attack_samples import CASES, DETERMINISTIC, IN_NORMS, RADII, for_every, images, linear_net, seeded, small_net
from torch import Tensor, nn

from inoculate.attacks.base import Attack
from inoculate.attacks.bim import BIM
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.gradients import value_and_input_grad
from inoculate.attacks.losses import Objective, cross_entropy, get_loss
from inoculate.attacks.one_step_target import OneStepTarget
from inoculate.attacks.pgd import PGD
from inoculate.attacks.registry import get_attack
from inoculate.core.errors import InputError
from inoculate.core.threat import Norm, Threat, distance
from inoculate.models.acceleration.fast import fast

RANDOM_IN_NORMS = [case for case in IN_NORMS if CASES[case[0]].random]
NORMS: list[Norm] = ["linf", "l2", "l1"]  # in which a step has a length


def moved(name: str, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor) -> bool:
    """Whether every image was changed; a minimum-norm attack leaves those alone that are wrong as they are."""
    with torch.no_grad():
        wrong = model(x).argmax(1) != y
    there = (x_adv != x).flatten(1).any(1)
    return bool((there | wrong).all()) if CASES[name].minimal else bool(there.all())


def run(
    name: str,
    x: Tensor,
    y: Tensor,
    norm: Norm | None = None,
    *,
    model: nn.Module | None = None,
    eps: float | None = None,
) -> Tensor:
    model, norm = small_net(x.shape[1]) if model is None else model, norm or CASES[name].norms[0]
    return CASES[name].attack(model, x, y, Threat(norm, RADII[norm] if eps is None else eps), generator=seeded(9))


@pytest.mark.smoke
@for_every(IN_NORMS)
def test_eps_zero_is_the_identity(name: str, norm: Norm) -> None:
    x, y = images()
    assert torch.equal(run(name, x, y, norm, eps=0.0), x)


@for_every(IN_NORMS, [0.3, 1.0])
def test_the_result_lies_in_ball_and_range(name: str, norm: Norm, eps: float) -> None:
    x, y = images()
    eps = math.ceil(eps) if norm == "l0" else eps
    x_adv = run(name, x, y, norm, eps=eps)
    assert x_adv.shape == x.shape
    assert x_adv.min() >= -1e-6
    assert x_adv.max() <= 1 + 1e-6
    assert distance(x_adv, x, norm).max() <= eps + 1e-6
    assert moved(name, small_net(), x, y, x_adv)


@pytest.mark.smoke
@for_every(IN_NORMS)
def test_the_images_are_not_written_to(name: str, norm: Norm) -> None:
    x, y = images()
    before, labels = x.clone(), y.clone()
    x_adv = run(name, x, y, norm)
    assert torch.equal(x, before)
    assert torch.equal(y, labels)
    assert not torch.equal(x_adv, before)


@for_every(IN_NORMS)
def test_the_order_of_the_batch_does_not_matter(name: str, norm: Norm) -> None:
    x, y = images(12)
    x, model = x.double(), small_net().double()
    order = torch.randperm(12, generator=seeded(2))
    torch.testing.assert_close(
        run(name, x[order], y[order], norm, model=model), run(name, x, y, norm, model=model)[order], rtol=0, atol=1e-6
    )


@for_every(IN_NORMS)
def test_the_size_of_the_batch_does_not_matter(name: str, norm: Norm) -> None:
    x, y = images(5)
    x, model = x.double(), small_net().double()
    alone = torch.cat([run(name, x[i : i + 1], y[i : i + 1], norm, model=model) for i in range(5)])
    torch.testing.assert_close(alone, run(name, x, y, norm, model=model), rtol=0, atol=1e-6)


@for_every(IN_NORMS, [(1, (8, 8)), (3, (6, 10)), (3, (9, 5))])
def test_one_image_of_any_shape(name: str, norm: Norm, channels: int, size: tuple[int, int]) -> None:
    x, y = images(1, channels, size)
    x_adv = run(name, x, y, norm)
    assert x_adv.shape == x.shape
    assert distance(x_adv, x, norm).item() <= RADII[norm] + 1e-6
    assert moved(name, small_net(channels), x, y, x_adv)


@for_every(IN_NORMS)
def test_no_image_at_all(name: str, norm: Norm) -> None:
    x, y = images(1)
    assert run(name, x[:0], y[:0], norm).shape == (0, *x.shape[1:])


@for_every(IN_NORMS)
def test_two_classes(name: str, norm: Norm) -> None:
    x, y = images(classes=2)
    model = small_net(classes=2)
    if CASES[name].fewest_classes > 2:
        with pytest.raises(InputError, match="use autoattack_binary"):
            run(name, x, y, norm, model=model)
        return
    x_adv = run(name, x, y, norm, model=model)
    assert moved(name, model, x, y, x_adv)
    assert bool(x_adv.isfinite().all())


@for_every(IN_NORMS)
def test_double_precision_stays(name: str, norm: Norm) -> None:
    x, y = images()
    double = run(name, x.double(), y, norm, model=small_net().double())
    assert double.dtype is torch.float64
    assert distance(double, x.double(), norm).max() <= RADII[norm] + 1e-9
    single = run(name, x, y, norm)
    assert single.dtype is torch.float32
    if norm not in ("l1", "l0"):  # there the best pixel of two nearly equal ones may differ
        assert (double - single).abs().gt(1e-3).float().mean() < 0.01


@for_every(
    IN_NORMS,
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.bfloat16),
    ],
)
def test_half_precision_stays_in_the_ball(name: str, norm: Norm, of_images: torch.dtype, of_model: torch.dtype) -> None:
    x, y = images()
    x = x.to(of_images)
    x_adv = run(name, x, y, norm, model=small_net().to(of_model))
    assert x_adv.dtype is of_images
    assert bool(x_adv.isfinite().all())
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert distance(x_adv.double(), x.double(), norm).max() <= RADII[norm] + 1e-6
    assert not torch.equal(x_adv, x)
    assert torch.equal(run(name, x, y, norm, model=small_net().to(of_model), eps=0.0), x)


@for_every(IN_NORMS)
def test_a_thousand_classes(name: str, norm: Norm) -> None:
    x, y = images(4, classes=1000)
    model = small_net(classes=1000)
    y = torch.where(torch.arange(4) < 2, model(x).argmax(1), y)  # two that the model gets right
    x_adv = run(name, x, y, norm, model=model)
    assert moved(name, model, x, y, x_adv)
    assert bool(x_adv.isfinite().all())
    assert distance(x_adv, x, norm).max() <= RADII[norm] + 1e-6


@for_every(IN_NORMS, [torch.no_grad, torch.inference_mode])
def test_callers_without_gradients_get_the_same(
    name: str, norm: Norm, mode: Callable[[], AbstractContextManager[None]]
) -> None:
    x, y = images()
    expected = run(name, x, y, norm)
    model = small_net()
    with mode():
        made_here, labels = x + 0, y + 0
        torch.testing.assert_close(run(name, made_here, labels, norm, model=model), expected, rtol=0, atol=0)
    torch.testing.assert_close(run(name, made_here, labels, norm, model=model), expected, rtol=0, atol=0)


@for_every(CASES)
def test_the_result_carries_no_graph(name: str) -> None:
    x, y = images()
    x_adv = run(name, x.requires_grad_(), y)
    assert not x_adv.requires_grad
    assert x.grad is None


class _Raises(nn.Module):
    """Fails at its `at`-th call, in the middle of an attack."""

    def __init__(self, inner: nn.Module, at: int) -> None:
        super().__init__()
        self.inner, self.left = inner, at

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise ArithmeticError("in the middle")
        return self.inner(x)


def state(model: nn.Module) -> tuple[object, ...]:
    return (
        [(n, m.training) for n, m in model.named_modules()],
        [(n, p.requires_grad, None if p.grad is None else p.grad.tolist()) for n, p in model.named_parameters()],
        {n: t.tolist() for n, t in model.state_dict().items()},
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
    )


def prepared(training: str) -> nn.Sequential:
    model = small_net()
    model.train(training == "train")
    if training == "mixed":
        model.train()
        model[1].eval()
        model[8].eval()
    model[0].bias.requires_grad_(False)
    model[3].weight.grad = torch.full_like(model[3].weight, 0.25)
    return model


@for_every(IN_NORMS, ["train", "eval", "mixed"])
def test_model_and_random_state_are_untouched(name: str, norm: Norm, training: str) -> None:
    model, (x, y) = prepared(training), images()
    before = state(model)
    x_adv = run(name, x, y, norm, model=model)
    assert state(model) == before
    assert torch.equal(x_adv, run(name, x, y, norm, model=copy.deepcopy(model).eval()))  # crafted in eval mode


@for_every(CASES, ["train", "mixed"])
def test_the_model_behind_a_fast_copy_is_judged_in_eval_mode(name: str, training: str) -> None:
    model, (x, y) = prepared(training), images()
    before = state(model)
    x_adv = run(name, x, y, model=fast(model))
    assert state(model) == before
    assert torch.equal(x_adv, run(name, x, y, model=fast(copy.deepcopy(model).eval())))


@for_every(CASES, [1, 2])
def test_model_and_random_state_are_untouched_after_an_exception(name: str, at: int) -> None:
    model, (x, y) = _Raises(prepared("mixed"), at), images()
    before = state(model)
    try:
        run(name, x, y, model=model)
    except InputError as error:
        cause = error.__cause__
    else:
        cause = None
    if cause is None:
        assert (model.left, at) == (1, 2)  # an attack of a single pass
    else:
        assert isinstance(cause, ArithmeticError)
        assert model.left == 0
    assert state(model) == before


@for_every(RANDOM_IN_NORMS)
def test_the_generator_decides(name: str, norm: Norm) -> None:
    x, y = images(16)
    model, attack, threat = small_net(), CASES[name].attack, Threat(norm, RADII[norm])
    first = attack(model, x, y, threat, generator=seeded(1))
    assert torch.equal(attack(model, x, y, threat, generator=seeded(1)), first)
    assert not torch.equal(attack(model, x, y, threat, generator=seeded(2)), first)


@for_every(DETERMINISTIC)
def test_the_generator_is_left_alone_where_nothing_is_drawn(name: str) -> None:
    x, y = images()
    g = seeded(1)
    before = g.get_state()
    norm = CASES[name].norms[0]
    CASES[name].attack(small_net(), x, y, Threat(norm, RADII[norm]), generator=g)
    assert torch.equal(g.get_state(), before)


@for_every(NORMS)
def test_fgsm_moves_every_image_that_has_a_gradient(norm: Norm) -> None:
    model, (x, y) = small_net(), images(64)
    x = 0.2 + 0.6 * x
    with torch.no_grad():
        predicted = model(x).argmax(1)
    for labels in (y, predicted, (predicted + 1) % 4):
        uphill = value_and_input_grad(model, x, Objective(get_loss("cross_entropy"), labels)).gradient
        has = uphill.flatten(1).abs().sum(1) > 0
        moved = distance(FGSM()(model, x, labels, Threat(norm, 0.1)), x, norm)
        assert int(has.sum()) > 60
        torch.testing.assert_close(moved[has], torch.full_like(moved[has], 0.1), rtol=0, atol=1e-6)


def test_fgsm_leaves_an_image_without_gradient_alone() -> None:
    """Saturated: both classes' logits are 200 apart and the gradient of the cross-entropy is exactly 0 in fp32."""
    x, y = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    net = linear_net([[100, 100, 100, 100], [0, 0, 0, 0]])
    assert torch.equal(FGSM()(net, x, y, Threat()), x)
    assert distance(FGSM(loss="margin")(net, x, y, Threat()), x, "linf").item() == pytest.approx(8 / 255)


@for_every(IN_NORMS)
def test_the_attack_does_what_it_is_for(name: str, norm: Norm) -> None:
    """It raises the mean loss of the true class where the model is right: a wrong sign anywhere shows here."""
    model, (x, _) = small_net(), images(64)
    with torch.no_grad():
        y = model(x).argmax(1)
        x_adv = run(name, x, y, norm, model=model, eps=RADII[norm] / 3)
        assert cross_entropy(model(x_adv), y).mean() > cross_entropy(model(x), y).mean()


@for_every(
    CASES,
    [
        lambda x: x * 255,
        lambda x: x - 0.5,
        lambda x: (x * 255).to(torch.uint8),
        lambda x: (x * 255).long(),
        lambda x: x.masked_fill(x == x.max(), torch.nan),
        lambda x: x.masked_fill(x == x.max(), torch.inf),
    ],
)
def test_images_that_are_none_are_refused_in_one_line(name: str, spoil: Callable[[Tensor], Tensor]) -> None:
    x, y = images()
    with pytest.raises(InputError) as caught:
        run(name, spoil(x), y)
    assert "\n" not in str(caught.value)


@for_every(
    [
        (FGSM, {"loss": "hinge"}),
        (OneStepTarget, {"target": "likeliest"}),
        (OneStepTarget, {"target": 4}),  # known only once the model has told its classes
        (BIM, {"target": -1}),
        (BIM, {"target": "all"}),
        (BIM, {"steps": 0}),
        (PGD, {"steps": 2.5}),
        (PGD, {"step": -0.1}),
        (PGD, {"restarts": 0}),
    ]
)
def test_an_option_that_makes_no_attack_is_refused_in_one_line(
    attack: Callable[..., Attack], values: dict[str, object]
) -> None:
    x, y = images()
    with pytest.raises(InputError) as caught:
        attack(**values)(small_net(), x, y, Threat())
    assert "\n" not in str(caught.value)


def test_names_are_found_and_a_near_miss_is_told() -> None:
    assert get_attack("fgsm") == FGSM()
    with pytest.raises(InputError, match="did you mean 'pgd'"):
        get_attack("pdg")
    with pytest.raises(InputError, match="cross_entropy, margin"):
        get_loss("hinge")
