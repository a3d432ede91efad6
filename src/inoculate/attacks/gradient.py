"""Gradient attacks over one ascent loop: FGSM, one-step target, BIM, PGD and MI-FGSM, for every norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.attacks.base import (
    Caught,
    Target,
    arrived,
    carry_out,
    check_images,
    check_options,
    resolve_targets,
    rounded,
    should_check_success,
)
from inoculate.attacks.losses import Objective, ascent, in_full, loss_named
from inoculate.core.rng import Draws
from inoculate.core.threat import Norm, Threat, per_sample, project, sample, steepest
from inoculate.models.acceleration.folding import full_precision


@dataclass(frozen=True)
class FGSM:
    """One step of length eps up the loss of the true class (Goodfellow et al. 2015, equation in section 4)."""

    loss: str = "cross_entropy"

    def __post_init__(self) -> None:
        check_options(loss=self.loss)

    def direction(
        self, model: nn.Module, x: Tensor, y: Tensor, norm: Norm, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The unit step (in `norm`), B×C×H×W; 0 where the gradient is 0."""
        return steepest_direction(model, x, y, norm, self.loss, None, generator)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        check_images(x, threat)
        return step(x, self.direction(model, x, y, threat.norm, generator=generator), threat)


@dataclass(frozen=True)
class OneStepTarget:
    """One step of length eps *down* the loss of another class (Kurakin et al. 2017, section 3.2).

    `target`: `"least_likely"` (the model's lowest logit), `"random"` (any wrong class), or a class index; samples that
    already belong to that class are attacked untargeted.
    """

    target: Target = "least_likely"
    loss: str = "cross_entropy"

    def __post_init__(self) -> None:
        check_options(target=self.target, loss=self.loss)

    def direction(
        self, model: nn.Module, x: Tensor, y: Tensor, norm: Norm, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The unit step (in `norm`), B×C×H×W; 0 where the gradient is 0."""
        return steepest_direction(model, x, y, norm, self.loss, self.target, generator)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        check_images(x, threat)
        return step(x, self.direction(model, x, y, threat.norm, generator=generator), threat)


@dataclass(frozen=True)
class BIM:
    """`steps` small steps up the loss from the clean image, each projected back (Kurakin et al. 2017, section 3.3).

    `step` is relative to eps. With a `target` (as in `OneStepTarget`) it descends that class's loss instead.
    `early_stop` leaves an image alone as soon as it is misclassified, or taken for its target.
    """

    steps: int = 10
    step: float = 0.25
    target: Target = None
    loss: str = "cross_entropy"
    early_stop: bool = False

    def __post_init__(self) -> None:
        check_options(steps=self.steps, step=self.step, target=self.target, loss=self.loss)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        def craft(x: Tensor, y: Tensor) -> Tensor:
            objective = Objective(loss_named(self.loss), y, resolve_targets(model, x, y, self.target, generator))
            return ascend(
                model, x, objective, threat, steps=self.steps, step=self.step, start=x, early_stop=self.early_stop
            )

        return carry_out(model, x, y, threat, craft)


@dataclass(frozen=True)
class PGD:
    """BIM from a random point of the ball, the worst of `restarts` kept per sample (Madry et al. 2018, section 2.1).

    `step` is relative to eps. A sample's worst restart is one that is misclassified (with a `target`, as in
    `OneStepTarget`: taken for it), else the one of highest loss; within a restart the last iterate counts. `start` (an
    image batch) replaces the first random start. `early_stop` leaves an image alone as soon as it is there.
    """

    steps: int = 10
    step: float = 0.25
    restarts: int = 1
    target: Target = None
    loss: str = "cross_entropy"
    early_stop: bool = False

    def __post_init__(self) -> None:
        check_options(steps=self.steps, step=self.step, restarts=self.restarts, target=self.target, loss=self.loss)

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        *,
        generator: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        def craft(x: Tensor, y: Tensor) -> Tensor:
            objective = Objective(loss_named(self.loss), y, resolve_targets(model, x, y, self.target, generator))
            draws = Draws(x, generator)

            def run(x_start: Tensor) -> Tensor:
                return ascend(
                    model, x, objective, threat,
                    steps=self.steps, step=self.step, start=x_start, early_stop=self.early_stop,
                )  # fmt: skip

            worst = run(sample(x, threat, draws) if start is None else project(start.detach().to(x), x, threat))
            for _ in range(1, self.restarts):
                other = run(sample(x, threat, draws))
                worst = torch.where(per_sample(_worse(model, other, worst, objective), x), other, worst)
            return worst

        return carry_out(model, x, y, threat, craft)


@dataclass(frozen=True)
class MIFGSM:
    """BIM along a decaying sum of gradients, for examples that fool other models too (Dong et al. 2018, algorithm 1).

    `decay` is the momentum μ. `diversity` is the probability with which a step sees the images shrunk to at least 90 %
    and padded at random (Xie et al. 2019); `blur` the width in pixels (odd, 0 for none) of the Gaussian that smooths
    each gradient, for translation invariance (Dong et al. 2019). `step` is relative to eps.
    """

    steps: int = 10
    step: float = 0.1
    decay: float = 1.0
    diversity: float = 0.0
    blur: int = 0
    target: Target = None
    loss: str = "cross_entropy"

    def __post_init__(self) -> None:
        check_options(
            steps=self.steps, step=self.step, target=self.target, loss=self.loss,
            decay=self.decay, diversity=self.diversity, blur=self.blur,
        )  # fmt: skip

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        def craft(x: Tensor, y: Tensor) -> Tensor:
            objective = Objective(loss_named(self.loss), y, resolve_targets(model, x, y, self.target, generator))
            view = _random_view(self.diversity, generator) if self.diversity else None
            return ascend(
                model, x, objective, threat,
                steps=self.steps, step=self.step, start=x, decay=self.decay, blur=self.blur, view=view,
            )  # fmt: skip

        return carry_out(model, x, y, threat, craft)


def ascend(
    model: nn.Module,
    x: Tensor,
    objective: Objective,
    threat: Threat,
    *,
    steps: int,
    step: float,
    start: Tensor,
    early_stop: bool = False,
    decay: float = 0.0,
    blur: int = 0,
    view: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The one inner loop: `steps` steepest steps of length `step`·eps up `objective` from `start`, each projected.

    Returns the last iterate, B×C×H×W, or with `early_stop` one that has arrived: it is left alone at the next look.
    `decay` adds momentum over L1-normalised gradients, `blur` smooths them, `view` changes what the model sees. The
    caller holds `frozen(model)`.
    """
    seen: nn.Module = model if view is None else _Seen(model, view)
    result, rows = start, torch.arange(len(x), device=x.device)
    x_adv, velocity = start, torch.zeros_like(x)
    caught = Caught.nothing(start)
    for number in range(steps):
        found = ascent(seen, x_adv, objective)
        gradient = found.gradient
        if early_stop and number and view is None:
            caught.note(x_adv, found, objective.y, objective.target)
            if (
                should_check_success(number, x.device)
                and (done := caught.settle(model, objective.y, objective.target)).any()
            ):
                keep, result = ~done, result.index_copy(0, rows, caught.images)
                rows, x, x_adv, gradient = rows[keep], x[keep], x_adv[keep], gradient[keep]
                objective, velocity, caught = objective.of(keep), velocity[keep], caught[keep]
                if not len(rows):
                    return result
        if blur:
            gradient = smooth(gradient, blur)
        if decay:
            velocity = decay * velocity + gradient / per_sample(gradient.flatten(1).abs().sum(1), x).clamp_min(1e-30)
            gradient = velocity
        x_adv = project(x_adv + step * threat.eps * steepest(gradient, threat.norm), x, threat)
    if early_stop:
        done = caught.settle(model, objective.y, objective.target)
        x_adv = torch.where(per_sample(done, x), caught.images, x_adv)
    return x_adv if len(rows) == len(result) else result.index_copy(0, rows, x_adv)


def step(x: Tensor, direction: Tensor, threat: Threat) -> Tensor:
    """One step of length eps along a unit `direction`, projected."""
    exact = x.detach() if x.dtype in (torch.float32, torch.float64) else x.detach().float()
    return rounded(project(exact + threat.eps * direction.to(exact), exact, threat), x.detach())


def smooth(gradient: Tensor, width: int) -> Tensor:
    """Each channel under a Gaussian of `width` pixels (odd) that falls to 3 standard deviations at its rim."""
    at = torch.linspace(-3, 3, width, device=gradient.device, dtype=gradient.dtype)
    bell = torch.exp(-(at**2) / 2)
    bell = (bell / bell.sum()).view(1, 1, -1)
    channels = gradient.shape[1]
    rows = bell.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    sideways = F.conv2d(gradient, rows, padding=(0, width // 2), groups=channels)
    return F.conv2d(sideways, rows.transpose(2, 3), padding=(width // 2, 0), groups=channels)


class _Seen(nn.Module):
    """A model behind a random `view` of its images."""

    def __init__(self, model: nn.Module, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.view = view

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(self.view(x))
        return logits


def _random_view(probability: float, generator: torch.Generator | None) -> Callable[[Tensor], Tensor]:
    """Shrink the batch to 90–100 % and pad it back with zeros, both drawn anew for each step, or leave it."""

    if generator is None:
        generator = torch.Generator().manual_seed(0)
    draws = generator

    def view(x: Tensor) -> Tensor:
        chance, scale, top, left = torch.rand(4, generator=draws, device=draws.device).tolist()
        if chance >= probability:
            return x
        height, width = (max(1, round(size * (0.9 + 0.1 * scale))) for size in x.shape[-2:])
        small = F.interpolate(x, size=(height, width), mode="nearest")
        above, before = int((x.shape[-2] - height + 1) * top), int((x.shape[-1] - width + 1) * left)
        return F.pad(small, (before, x.shape[-1] - width - before, above, x.shape[-2] - height - above))

    return view


def steepest_direction(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    norm: Norm,
    loss: str,
    target: Target,
    generator: torch.Generator | None,
) -> Tensor:
    """The unit step of the one-step attacks: up `loss` from the clean image, or towards the target.

    In fp32 on a `fast` copy too: no later step mends a sign that bf16 got wrong.
    """

    def craft(x: Tensor, y: Tensor) -> Tensor:
        objective = Objective(loss_named(loss), y, resolve_targets(model, x, y, target, generator))
        return steepest(ascent(model, x, objective).gradient, norm)

    with full_precision(model):
        return carry_out(model, x, y, None, craft)


def _worse(model: nn.Module, rival: Tensor, x: Tensor, objective: Objective) -> Tensor:
    """Per sample (B, bool), whether `rival` does more than `x`: to have arrived counts first, then the loss decides."""
    with torch.no_grad():
        old, new = in_full(model(x)), in_full(model(rival))
    before, now = (arrived(logits, objective.y, objective.target) for logits in (old, new))
    worse: Tensor = (now & ~before) | ((now == before) & (objective(new) > objective(old)))
    return worse
