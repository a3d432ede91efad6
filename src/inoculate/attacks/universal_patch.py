"""One patch for all images: how it is laid, and how it is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inoculate.attacks._pasting import cut, paste, random_places
from inoculate.attacks.ascent import accumulate
from inoculate.attacks.base import carry_out, require_l0
from inoculate.attacks.gradients import value_and_input_grad
from inoculate.attacks.losses import Objective
from inoculate.core.errors import InputError
from inoculate.core.modes import frozen
from inoculate.core.rng import Draws
from inoculate.core.threat import Threat


@dataclass(frozen=True, eq=False)
class FixedPatch:
    """A patch that is the same for all images, laid at a random place of each; an attack that looks at no model.

    `values`: C×side×side in the threat's range. Raises `InputError` for another norm than l0, an eps of fewer pixels
    than the patch has, and for images that it does not fit into.
    """

    values: Tensor

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        require_l0("the patch", threat)
        side = self.values.shape[-1]
        if threat.eps and threat.eps < side * side:
            raise InputError(f"a patch of {side}×{side} pixels needs an l0 eps of {side * side}, not {threat.eps:g}")
        self.require_fits(x)

        def craft(x: Tensor, y: Tensor) -> Tensor:
            patch = self.values.to(x).expand(len(x), -1, -1, -1)
            return paste(x, patch, random_places(x, side, Draws(x, generator))) if threat.eps else x.clone()

        return carry_out(model, x, y, threat, craft)

    def require_fits(self, x: Tensor) -> None:
        """Raise `InputError` unless the patch fits into images like these (B×C×H×W)."""
        channels, side = self.values.shape[0], self.values.shape[-1]
        if channels != x.shape[1] or side > min(x.shape[2:]):
            size = "×".join(map(str, x.shape[1:]))
            raise InputError(f"a patch of {channels}×{side}×{side} does not fit into images of {size}")


def ascend_universal(
    model: nn.Module,
    start: Tensor,
    batches: Callable[[int], tuple[Tensor, Objective]],
    steps: int,
    step: float,
    generator: torch.Generator,
) -> Tensor:
    """Raise the mean objective of one patch on many images at random places: expectation over transformation.

    Args:
        model: images in [0, 1] (B×C×H×W) to logits.
        start: the first patch, C×side×side.
        batches: from the number of a step to its images and what is raised on them.
        steps: number of steps, each along the sign of the gradient with momentum 0.9.
        step: their length, in pixel units of [0, 1].
        generator: draws the places, anew in each step.

    Source: Brown et al. 2017, equation 1.
    """
    patch, velocity = start, torch.zeros_like(start)[None]
    with frozen(model):
        for number in range(steps):
            x, objective = batches(number)
            place = random_places(x, patch.shape[-1], Draws(x, generator))
            passed = value_and_input_grad(model, paste(x, patch.to(x).expand(len(x), -1, -1, -1), place), objective)
            gradient = cut(passed.gradient, place, patch.shape[-1]).mean(dim=0, keepdim=True).to(velocity)
            velocity = accumulate(velocity, gradient, 0.9)
            patch = (patch + step * velocity[0].sign()).clamp(0, 1)
    return patch
