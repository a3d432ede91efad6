"""One attack at several eps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from inoculate.attacks.base import Attack, MinimumNorm, OneStep, check_images
from inoculate.attacks.one_step import take_step
from inoculate.core.threat import Threat, project, require_threat


def sweep(
    attack: Attack,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: Threat,
    epsilons: Iterable[float],
    *,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[float, Tensor]]:
    """Attack the same images at several eps: yields `(eps, x_adv)` for each, in the order given.

    A one-step attack takes one gradient for all of them, a minimum-norm attack one search. Any other attack runs at
    each eps, with the same random numbers, so that what it finds at one does not depend on the others.

    Args:
        attack: the attack.
        model: images to logits (B×K).
        x: images B×C×H×W in the threat's range.
        y: their classes (B).
        threat: norm and range. Its eps is not used.
        epsilons: in pixel units of [0, 1].
        generator: source of random numbers.

    Raises `InputError` for an eps that is none, before any work.
    """
    threats = [replace(require_threat(threat), eps=eps) for eps in epsilons]
    if isinstance(attack, OneStep):
        check_images(x, threat)
        direction = attack.direction(model, x, y, threat.norm, generator=generator)
        for each in threats:
            yield each.eps, take_step(x, direction, each)
    elif isinstance(attack, MinimumNorm):
        nearest = attack.closest(model, x, y, max(threats, key=lambda each: each.eps), generator=generator)
        for each in threats:
            yield each.eps, project(nearest, x, each)
    else:
        state = None if generator is None else generator.get_state()
        for each in threats:
            if generator is not None and state is not None:
                generator.set_state(state)
            yield each.eps, attack(model, x, y, each, generator=generator)
