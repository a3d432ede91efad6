"""One-step adversarial training from what earlier epochs found for each image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.core.options import require_count, require_nonnegative, require_positive
from inoculate.core.rng import Draws
from inoculate.core.threat import Threat, project, sample, steepest_direction, step_along
from inoculate.models.acceleration.compiling import eager
from inoculate.training.methods.adversarial import LossAndLogits, minimise, threat_at
from inoculate.training.methods.options import CommonOptions


@dataclass(frozen=True)
class FGSMPGI:
    """One step from a prior: the perturbation to which the momentum of earlier epochs led (FGSM-MEP, Jia et al. 2022).

    The logits on the new images are held near those on the prior's. By design the step is found in train mode.

    Options:
        step: length of the step, relative to eps.
        decay: of the momentum of an image's gradients.
        weight: of the squared difference of the logits.
        reset: passes over the training set after which priors start anew, at random.
    """

    step: float = 1.0
    decay: float = 0.3
    weight: float = 10.0
    reset: int = 40

    def __post_init__(self) -> None:
        require_positive(step=self.step)
        require_nonnegative(decay=self.decay, weight=self.weight)
        require_count(reset=self.reset)

    @property
    def loss_passes(self) -> int:
        return 1

    @property
    def passes(self) -> float:
        return 2 + 2 / 3  # the loss goes back through the first pass too

    def begin(self, threat: Threat, helpers: tuple[nn.Module, ...], common: CommonOptions) -> PGIMethod:
        return PGIMethod(self, threat, common)


class PGIMethod:
    """The update of `FGSMPGI`. It is a `Method`, and `Stateful`: perturbation and momentum of every training image."""

    def __init__(self, options: FGSMPGI, threat: Threat, common: CommonOptions) -> None:
        self.options, self.threat, self.common = options, threat, common
        self.memory: dict[str, Tensor] = {}  # delta in units of eps and momentum (N×C×H×W), uses (N)

    def __call__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator,
        progress: float = 1.0,
        samples: Tensor | None = None,
    ) -> dict[str, float]:
        threat, options = threat_at(self.threat, self.common, progress), self.options
        rows = torch.arange(len(x)) if samples is None else samples
        delta, momentum = self._recall(rows, x, threat, generator)
        start = project(x + delta, x, threat).requires_grad_()
        with eager(model):  # a compiled pass frees what the second backward pass needs
            first = model(start).float()

        def loss(logits: Tensor) -> Tensor:
            return F.cross_entropy(logits, y, label_smoothing=self.common.smoothing)

        (gradient,) = torch.autograd.grad(loss(first), start, retain_graph=True)
        momentum = options.decay * momentum + gradient / gradient.abs().sum().clamp_min(1e-12)
        origin = start.detach()

        def stepped(along: Tensor) -> Tensor:
            direction = steepest_direction(along, threat.norm)
            return project(origin + step_along(origin, x, direction, options.step * threat.eps, threat), x, threat)

        x_adv, prior = stepped(gradient), stepped(momentum) - x
        self._remember(rows, prior, momentum, threat)

        def objective() -> LossAndLogits:
            with eager(model):
                logits = model(x_adv).float()
            return LossAndLogits(loss(logits) + options.weight * F.mse_loss(logits, first), logits)

        return minimise(model, optimizer, y, objective, 0.0)

    def _recall(self, rows: Tensor, x: Tensor, threat: Threat, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Perturbations and momenta of these images; random corners and zeros where they start anew."""
        self._make_room(int(rows.max()) + 1, x)
        fresh = (self.memory["uses"][rows] % self.options.reset == 0).to(x.device).view(-1, *[1] * (x.ndim - 1))
        delta = self.memory["delta"][rows].to(x) * threat.eps
        momentum = self.memory["momentum"][rows].to(x)
        if not fresh.any():
            return delta, momentum
        around = replace(threat, low=threat.low - threat.eps, high=threat.high + threat.eps)
        way = steepest_direction(sample(x, around, Draws(x, generator)) - x, threat.norm)
        corner = step_along(x, x, way, threat.eps, around)
        return torch.where(fresh, corner, delta), torch.where(fresh, torch.zeros_like(x), momentum)

    def _remember(self, rows: Tensor, delta: Tensor, momentum: Tensor, threat: Threat) -> None:
        relative = delta / threat.eps if threat.eps else delta
        self.memory["delta"][rows] = relative.to("cpu", torch.bfloat16)
        self.memory["momentum"][rows] = momentum.to("cpu", torch.bfloat16)
        self.memory["uses"][rows] += 1

    def _make_room(self, size: int, x: Tensor) -> None:
        """Memory for at least `size` images of this shape; what is there is kept."""
        have = len(self.memory["uses"]) if self.memory else 0
        if size <= have:
            return
        size = max(size, have + have // 8)
        grown = {
            "delta": torch.zeros(size, *x.shape[1:], dtype=torch.bfloat16),
            "momentum": torch.zeros(size, *x.shape[1:], dtype=torch.bfloat16),
            "uses": torch.zeros(size, dtype=torch.int32),
        }
        for name, tensor in self.memory.items():
            grown[name][:have] = tensor
        self.memory = grown

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.memory = state["memory"]
