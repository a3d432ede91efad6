"""FAB against the closed form of linear models."""

from __future__ import annotations

import torch
from attack_samples import for_every, linear_net, seeded

from inoculate.attacks.fab import FAB
from inoculate.core.threat import Norm, Threat, distance


@for_every(["linf", "l2", "l1"])
def test_fab_finds_the_nearest_boundary_of_a_linear_model(norm: Norm) -> None:
    """It lies at |margin| / dual norm of the weights; the way there stays inside the range."""
    weight = torch.randn(48, generator=seeded(3))
    net = linear_net([[0.0] * 48, (0.3 * weight).tolist()], [0.15, -0.15 * float(weight.sum())])
    x, y = 0.4 + 0.2 * torch.rand(9, 3, 4, 4, generator=seeded(4)), torch.zeros(9, dtype=torch.long)
    logits = net(x)
    right = logits.argmax(1) == y
    assert int(right.sum()) > 3
    dual = {"linf": 1, "l2": 2, "l1": float("inf")}[norm]
    nearest = (logits[:, 0] - logits[:, 1]) / (0.3 * weight).norm(p=dual)
    found = FAB(steps=30, targets=1).closest(net, x, y, Threat(norm, 1.0))
    reached = distance(found, x, norm)
    assert bool((net(found).argmax(1) != y)[right].all())
    torch.testing.assert_close(reached[right], nearest[right], rtol=0.02, atol=1e-5)
    assert torch.equal(found[~right], x[~right])  # wrong as they are: nothing to do


def test_fab_ends_runs_by_how_far_the_boundary_is() -> None:
    """Under a fixed eps: four times as far after three steps of 60, 1.5 times after seven, 1.1 times late."""
    weight = torch.randn(48, generator=seeded(3))
    net = linear_net([[0.0] * 48, (0.3 * weight).tolist()], [0.15, -0.15 * float(weight.sum())])
    x = 0.4 + 0.2 * torch.rand(9, 3, 4, 4, generator=seeded(4))
    y = net(x).argmax(1)
    logits = net(x[:1]).detach()[0]
    nearest = float((logits[0] - logits[1]).abs() / (0.3 * weight).norm(p=1))
    passes = []
    for farther in (4.0, 1.5, 1.1):
        seen: list[int] = []
        hook = net.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(len(given[0])))
        attack = FAB(steps=60, targets=1, termination_ratio=0.25)
        attack(net, x[:1], y[:1], Threat("linf", nearest / farther))
        hook.remove()
        passes.append(len(seen))
    far, nearer, near = passes
    assert 6 <= far < 0.75 * nearer
    assert 13 <= nearer < 0.5 * near
