"""One-step adversarial training from strong noise, without a projection."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from inoculate.attacks.pgd import PGD
from inoculate.core.options import require_positive
from inoculate.core.rng import Draws
from inoculate.core.threat import Threat, sample
from inoculate.training.methods.adversarial import Batch, LossAndLogits


@dataclass(frozen=True)
class NFGSM:
    """Cross-entropy on the images of one step from noise larger than eps (N-FGSM, de Jorge et al. 2022, algorithm 1).

    Noise and step are kept in full: the images lie in the valid range, but up to `noise` + `step` times eps away.

    Options:
        noise: size of the uniform noise, relative to eps.
        step: length of the step, relative to eps.
    """

    noise: float = 2.0
    step: float = 1.0
    loss_passes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        require_positive(noise=self.noise, step=self.step)

    @property
    def passes(self) -> float:
        return 1 + self.loss_passes

    def examples(self, batch: Batch) -> Tensor:
        return step_from_noise(batch, self.noise, self.step)

    def loss(self, batch: Batch, x_adv: Tensor) -> LossAndLogits:
        return batch.cross_entropy(x_adv)


def step_from_noise(batch: Batch, noise: float, step: float) -> Tensor:
    """One step of `step` times eps from uniform noise of `noise` times eps; neither is projected onto the eps ball."""
    start = sample(batch.x, _ball(batch.threat, noise), Draws(batch.x, batch.generator))
    reach = _ball(batch.threat, noise + step)
    attack = PGD(1, step * batch.threat.eps / reach.eps if reach.eps else step)
    return replace(batch, threat=reach).craft(attack, start=start)


def _ball(threat: Threat, scale: float) -> Threat:
    """The threat with eps times `scale`, in L∞ at most the whole range."""
    eps = scale * threat.eps
    return replace(threat, eps=min(eps, threat.high - threat.low) if threat.norm == "linf" else eps)
