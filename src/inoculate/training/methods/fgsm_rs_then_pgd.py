"""One-step adversarial training first, PGD adversarial training once the network learns more slowly."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.core.options import require_count, require_fraction, require_positive
from inoculate.core.threat import Threat
from inoculate.training.methods.adversarial import AdversarialMethod
from inoculate.training.methods.fgsm_rs import FGSMRS
from inoculate.training.methods.options import CommonOptions
from inoculate.training.methods.pgd_at import PGDAT


@dataclass(frozen=True)
class FGSMRSThenPGD:
    """`fgsm_rs` for the fraction `head_start` of the training, then `pgd_at`; weights are perturbed only from then on.

    Attacks that grow stronger during training are the idea of curriculum adversarial training (Cai et al. 2018); the
    code of Wu et al. 2020 does not perturb the weights in the first epochs either.

    Options:
        head_start: the fraction of the training that `fgsm_rs` takes.
        steps: number of steps of PGD.
        step: their length, relative to eps.
    """

    head_start: float = 0.6
    steps: int = 2
    step: float = 0.7

    def __post_init__(self) -> None:
        require_fraction(head_start=self.head_start)
        require_count(steps=self.steps)
        require_positive(step=self.step)

    @property
    def loss_passes(self) -> float:
        """Those of the second part, averaged over the training: only there weights are perturbed."""
        return (1 - self.head_start) * self.second.loss_passes

    @property
    def passes(self) -> float:
        return self.head_start * self.first.passes + (1 - self.head_start) * self.second.passes

    @property
    def first(self) -> FGSMRS:
        return FGSMRS()

    @property
    def second(self) -> PGDAT:
        return PGDAT(self.steps, self.step)

    def begin(self, threat: Threat, helpers: tuple[nn.Module, ...], common: CommonOptions) -> StagedMethod:
        return StagedMethod(self, threat, common)


class StagedMethod:
    """The update of `FGSMRSThenPGD`: that of the first method, then that of the second. It is a `Method`."""

    def __init__(self, options: FGSMRSThenPGD, threat: Threat, common: CommonOptions) -> None:
        self.options = options
        self.first = AdversarialMethod(options.first, threat, common=replace(common, awp=0.0))
        self.second = AdversarialMethod(options.second, threat, common=common)

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
        stage = self.first if progress < self.options.head_start else self.second
        return stage(model, optimizer, x, y, generator=generator, progress=progress, samples=samples)
