"""Momentum iterative FGSM, with input diversity and translation invariance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.attacks.ascent import Steps, ascend
from inoculate.attacks.base import carry_out
from inoculate.attacks.losses import LossLike, get_loss
from inoculate.attacks.targets import Target, build_objective, check_target
from inoculate.core.errors import InputError
from inoculate.core.options import require_count, require_fraction, require_nonnegative, require_positive
from inoculate.core.threat import Threat


@dataclass(frozen=True)
class MIFGSM:
    """BIM with momentum, for adversarial examples that transfer to other models.

    For images B×C×H×W in the threat's range, in every norm; the last iterate counts.

    Options:
        steps: number of steps.
        step: their length, relative to eps.
        decay: the momentum μ of the sum of L1-normalised gradients; 0 for none.
        diversity: probability from 0 to 1 with which a step sees the images shrunk to 90–100 % and padded at random
            (DI-FGSM).
        blur: width in pixels of the Gaussian that smooths each gradient, odd, or 0 for none (TI-FGSM).
        target: as in `OneStepTarget`: descend the loss of that class instead; None for untargeted.
        loss: as in `FGSM`.
        eot: gradients averaged per step, for a random model.

    Raises `InputError` for an option out of its range, images outside theirs, or a model that is not differentiable.
    Source: Dong et al. 2018, algorithm 1; diversity: Xie et al. 2019; blur: Dong et al. 2019.
    """

    steps: int = 10
    step: float = 0.1
    decay: float = 1.0
    diversity: float = 0.0
    blur: int = 0
    target: Target = None
    loss: LossLike = "cross_entropy"
    eot: int = 1

    def __post_init__(self) -> None:
        require_count(steps=self.steps, eot=self.eot)
        require_positive(step=self.step)
        require_nonnegative(decay=self.decay)
        require_fraction(diversity=self.diversity)
        if not isinstance(self.blur, int) or self.blur < 0 or (self.blur and self.blur % 2 == 0):
            raise InputError(f"blur {self.blur!r} is not usable: give an odd width in pixels, or 0 for none")
        check_target(self.target)
        get_loss(self.loss)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        def craft(x: Tensor, y: Tensor) -> Tensor:
            objective = build_objective(self.loss, model, x, y, threat, self.target, generator)
            steps = Steps(
                self.steps,
                self.step,
                decay=self.decay,
                smooth=partial(gaussian_blur, width=self.blur) if self.blur else None,
                view=_random_resize(self.diversity, generator) if self.diversity else None,
                eot=self.eot,
            )
            return ascend(model, x, objective, threat, x, steps)

        return carry_out(model, x, y, threat, craft)

    def shortened(self) -> MIFGSM:
        """The same attack with two steps."""
        return replace(self, steps=2)


def gaussian_blur(images: Tensor, width: int) -> Tensor:
    """Each channel under a Gaussian `width` pixels wide (odd), which reaches 3 standard deviations at its edge."""
    at = torch.linspace(-3, 3, width, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(at**2) / 2)
    kernel = (kernel / kernel.sum()).view(1, 1, -1)
    channels = images.shape[1]
    rows = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    horizontal = F.conv2d(images, rows, padding=(0, width // 2), groups=channels)
    return F.conv2d(horizontal, rows.transpose(2, 3), padding=(width // 2, 0), groups=channels)


def _random_resize(probability: float, generator: torch.Generator | None) -> Callable[[Tensor], Tensor]:
    """With `probability`, shrink the batch to 90–100 % and pad it with zeros to its size, drawn anew at each call."""
    draws = torch.Generator().manual_seed(0) if generator is None else generator

    def resize(x: Tensor) -> Tensor:
        chance, scale, top, left = torch.rand(4, generator=draws, device=draws.device).tolist()
        if chance >= probability:
            return x
        height, width = (max(1, round(size * (0.9 + 0.1 * scale))) for size in x.shape[-2:])
        small = F.interpolate(x, size=(height, width), mode="nearest")
        above, before = int((x.shape[-2] - height + 1) * top), int((x.shape[-1] - width + 1) * left)
        return F.pad(small, (before, x.shape[-1] - width - before, above, x.shape[-2] - height - above))

    return resize
