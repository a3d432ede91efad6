"""The smallest L∞ distances that attacks find, beside the exact ones of a small ReLU network by integer programming."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from attack_samples import for_every
from torch import Tensor, nn

from inoculate.attacks.base import MinimumNorm
from inoculate.attacks.deepfool import DeepFool
from inoculate.attacks.fab import FAB
from inoculate.attacks.fmn import FMN
from inoculate.core.threat import Threat, distance

HIDDEN, CLASSES = 6, 4


@cache
def network() -> tuple[nn.Sequential, Tensor, Tensor]:
    """A trained network with one hidden layer, and eight digits of 0 to 3 (4×4 pixels) that it gets right."""
    from sklearn.datasets import load_digits

    data = load_digits(n_class=CLASSES)
    x = nn.functional.avg_pool2d(torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, 2)
    y = torch.tensor(data.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
        adam = torch.optim.Adam(net.parameters(), lr=1e-2)
        for _ in range(150):
            rows = torch.randint(600, (64,))
            adam.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            adam.step()
    x, y = x[600:630], y[600:630]
    right = (net(x).argmax(1) == y).nonzero().squeeze(1)[:8]
    return net.eval().requires_grad_(False), x[right], y[right]


@cache
def exact_distances() -> Tensor:
    net, x, y = network()
    return torch.tensor([exact(net, image, int(label)) for image, label in zip(x, y, strict=True)])


def exact(net: nn.Sequential, x: Tensor, y: int) -> float:
    """The smallest eps at which any image of the ball and the range is misclassified (Tjeng et al. 2019)."""
    return min(_towards(net, x.flatten().double().numpy(), y, target) for target in range(CLASSES) if target != y)


def _towards(net: nn.Sequential, x: np.ndarray, y: int, target: int) -> float:
    """Least eps over (image, hidden values, which of them are positive, eps): a mixed-integer linear programme."""
    from scipy.optimize import Bounds, LinearConstraint, milp

    first, last = net[1], net[3]
    w, b = first.weight.double().numpy(), first.bias.double().numpy()
    v, c = last.weight.double().numpy(), last.bias.double().numpy()
    n, h = len(x), len(b)
    low, high = np.minimum(w, 0).sum(1) + b, np.maximum(w, 0).sum(1) + b  # over the whole range [0, 1]
    eye_n, eye_h, no_h = np.eye(n), np.eye(h), np.zeros((n, h))
    ones = np.ones((n, 1))
    no_n, none = np.zeros((h, n)), np.zeros((h, 1))
    rows = [
        (np.hstack([eye_n, no_h, no_h, -ones]), x, "below"),  # image − x ≤ eps
        (np.hstack([-eye_n, no_h, no_h, -ones]), -x, "below"),
        (np.hstack([w, -eye_h, 0 * eye_h, none]), -b, "below"),  # hidden ≥ w · image + b
        (np.hstack([-w, eye_h, np.diag(-low), none]), b - low, "below"),  # and no more where positive
        (np.hstack([no_n, eye_h, np.diag(-high), none]), np.zeros(h), "below"),  # 0 where not
        (np.hstack([np.zeros(n), v[y] - v[target], np.zeros(h), 0])[None], np.array([c[target] - c[y]]), "below"),
    ]
    matrix, most = np.vstack([row for row, _, _ in rows]), np.concatenate([bound for _, bound, _ in rows])
    variables = n + 2 * h + 1
    bounds = Bounds(np.zeros(variables), np.concatenate([np.ones(n), np.maximum(high, 0), np.ones(h), np.ones(1)]))
    whole = np.concatenate([np.zeros(n + h), np.ones(h), np.zeros(1)])
    goal = np.concatenate([np.zeros(variables - 1), np.ones(1)])
    found = milp(goal, constraints=LinearConstraint(matrix, -np.inf, most), bounds=bounds, integrality=whole)
    return float(found.fun) if found.success else np.inf


@for_every([(FAB(), 1.01), (FMN(), 1.05), (DeepFool(), 1.05)])
def test_the_smallest_distances_are_within_a_few_percent_of_the_exact_ones(attack: MinimumNorm, median: float) -> None:
    net, x, y = network()
    best = exact_distances()
    assert bool(best.isfinite().all())
    found = attack.closest(net, x, y, Threat("linf", 0.1))
    assert bool((net(found).argmax(1) != y).all())
    ratio = distance(found, x, "linf") / best
    assert ratio.min() >= 1 - 1e-4
    assert ratio.median() <= median


def test_the_exact_distance_of_a_linear_function_is_that_of_the_formula() -> None:
    """A hidden unit that is always positive: the margin over the L1 norm of the weights."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, CLASSES))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, 2.0, -3.0, 1.0]]))
        net[1].bias.fill_(4.0)
        net[3].weight.copy_(torch.tensor([[0.0], [1.0], [0.0], [0.0]]))
        net[3].bias.copy_(torch.tensor([4.9, 0.0, -9.0, -9.0]))
    net.requires_grad_(False)
    x = torch.full((1, 1, 2, 2), 0.5)  # class 1 has 4 + 0.5, class 0 has 4.9
    assert exact(net, x, 0) == pytest.approx(0.4 / 7, rel=1e-5)
