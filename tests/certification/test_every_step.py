"""No image of a region leaves the bounds, for networks made of every step that has some, in float32 and float64."""

import copy
import itertools

import pytest
import torch
from bounds_steps import SHAPE, STEPS, Stepped

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
