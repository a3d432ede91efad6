"""No image of a region leaves the bounds, for networks made of every step that has some, in float32 and float64."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from bounds_steps import SHAPE, STEPS, Stepped
from torch import nn

from inoculate.certification.bounds import tracing
from inoculate.certification.bounds.margins import interval_bounds, margin_bounds
from inoculate.certification.bounds.rules import RULES
from inoculate.certification.bounds.tracing import trace
from inoculate.core.rng import Draws
from inoculate.core.threat import Threat, keep_outside, project, sample, steepest_direction, step_along

MASK = torch.arange(36).view(6, 6) % 3 > 0
THREATS = {
    "linf": [Threat("linf", 0.08), Threat("linf", 0.5), Threat("linf", 0.2, mask=MASK), Threat("linf", 0.0)],
    "l2": [Threat("l2", 0.3), Threat("l2", 2.5), Threat("l2", 0.7, mask=MASK), Threat("l2", 1.0, low=-1.0, high=2.0)],
    "l1": [Threat("l1", 1.0), Threat("l1", 9.0), Threat("l1", 2.0, mask=MASK), Threat("l1", 4.0, low=-1.0, high=2.0)],
}  # fmt: skip


def images(seed):
    """Three images with many pixels at the wall."""
    x = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.3
    return x.clamp(0, 1)


def points(model, x, threat, seed):
    """Images of the region: random ones, and those to which gradients of each logit lead."""
    draws = Draws(x, torch.Generator().manual_seed(seed))
    found = [x, *(sample(x, threat, draws) for _ in range(3))]
    for k in range(3):
        near = found[1 + k]
        for _ in range(2):
            near = near.detach().requires_grad_()
            (gradient,) = torch.autograd.grad((-1) ** seed * model(near)[:, k].sum(), near)
            step = step_along(near, x, steepest_direction(gradient, threat.norm), threat.eps, threat)
            near = keep_outside(project((near + step).detach(), x, threat), x, threat)
        found.append(near)
    return found


def require_inside(graph, model, threat, seed):
    x, double = images(seed), copy.deepcopy(model).double()
    y = model(x).argmax(1)
    quick, exact = (interval_bounds(graph, each, threat) for each in (x, x.double()))
    wide = Threat(
        threat.norm, threat.eps * (1 + 1e-6) + (1e-7 if threat.eps else 0), threat.low, threat.high, threat.mask
    )
    best = margin_bounds(graph, x.double(), y, wide, "crown")  # the largest of all methods
    for near in points(model, x, threat, seed):
        with torch.no_grad():
            single, fine = model(near), double(near.double())
        for (low, high), logits, more in ((quick, single, 0.0), (quick, fine, 0.0), (exact, fine, 1e-6)):
            assert (low - more <= logits).all()
            assert (logits <= high + more).all()
        margins = fine.gather(1, y[:, None]) - fine
        assert (best <= margins).all(), (best - margins).max()


@pytest.mark.parametrize("step", STEPS)
def test_no_image_of_a_region_leaves_the_bounds(step):
    place = list(STEPS).index(step)
    for behind, norms in ((False, list(THREATS)), (True, [list(THREATS)[place % 3]])):
        model = Stepped(STEPS[step], behind, positive=not behind).eval()
        graph = trace(model, SHAPE)
        for norm in norms:
            require_inside(graph, model, THREATS[norm][(place + behind) % 4], place)


@pytest.mark.slow
@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_no_image_of_many_regions_leaves_the_bounds(step, behind):
    for seed in range(3):
        model = Stepped(STEPS[step], behind, seed, positive=seed == 1).eval()
        graph = trace(model, SHAPE)
        for place, threat in enumerate(itertools.chain(*THREATS.values())):
            require_inside(graph, model, threat, seed + 10 * place)


def test_the_networks_are_made_of_every_step(monkeypatch):
    used = set()

    class Noted(dict):
        def get(self, name, default=None):
            used.add(name)
            return super().get(name, default)

    monkeypatch.setattr(tracing, "RULES", Noted(RULES))
    for step in STEPS.values():
        trace(Stepped(step, True).eval(), SHAPE)
    assert set(RULES) - used == set()


class Chain(nn.Module):
    def __init__(self, *steps):
        super().__init__()
        self.steps = steps

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x


@pytest.mark.parametrize(
    "copied",
    [lambda x: x.repeat(1, 1, 1, 4), lambda x: torch.cat([x, x, x, x], dim=2), lambda x: x.expand(-1, 4, -1, -1),
     lambda x: x.index_select(1, torch.zeros(4, dtype=torch.int64))],
)  # fmt: skip
def test_copies_of_a_pixel_move_together(copied):
    """The sum of four copies of two pixels moves by 4 · √2 · eps in L2, and by 4 · eps in L1."""
    model = Chain(copied, lambda x: F.linear(x.flatten(1), torch.ones(2, 8)))
    x = torch.full((1, 1, 1, 2), 0.5).double()
    for norm, most in (("l2", 4 * 2**0.5 * 0.1), ("l1", 4 * 0.1)):
        low, high = interval_bounds(trace(model, (1, 1, 2)), x, Threat(norm, 0.1))
        assert (high >= 4 + most - 1e-9).all()
        assert (low <= 4 - most + 1e-9).all()


def test_the_largest_value_is_not_always_that_of_the_highest_lower_end():
    """x / 4 + 1/2 and 3/2 x − 1/4 at 0.5 ± 0.2 lie in [0.575, 0.675] and [0.2, 0.8]: their maximum is at most 0.8."""
    scale, shift = torch.tensor([0.25, 1.5]), torch.tensor([0.5, -0.25])
    model = Chain(
        lambda x: F.max_pool2d(x * scale + shift, (1, 2)).flatten(1), lambda x: F.linear(x, torch.tensor([[-1.0], [0]]))
    )
    x = torch.full((1, 1, 1, 2), 0.5).double()
    for method in ("ibp", "crown-ibp", "crown"):
        found = margin_bounds(trace(model, (1, 1, 2)), x, torch.tensor([0]), Threat("linf", 0.2), method)
        assert found[0, 1].item() == pytest.approx(-0.8, abs=1e-6)
