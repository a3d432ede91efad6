"""Quick examples while the network still learns quickly, strong ones when it settles."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.core.threat import Threat
from inoculate.training.methods.adversarial import FGSMRS, PGDAT, AdversarialMethod
from inoculate.training.methods.options import CommonOptions, check_method


@dataclass(frozen=True)
class FGSMRSThenPGD:
    """`fgsm_rs` for the share `head_start` of the training, then `pgd_at`; weights are perturbed from then on only.

    Attacks that grow stronger as training goes on are the idea of curriculum adversarial training (Cai et al. 2018);
    the code of Wu et al. 2020 too leaves weights alone in the first epochs.
    """

    head_start: float = 0.6
    steps: int = 2
    step: float = 0.7

    def __post_init__(self) -> None:
        check_method(head_start=self.head_start, steps=self.steps, step=self.step)

    @property
    def loss_passes(self) -> float:
        """Of an update on average, as an update before the change perturbs no weights."""
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


class StagedMethod:
    """The update of `FastThenPGD`: one method's, then the other's. It is a `Method`."""

    def __init__(self, defence: FGSMRSThenPGD, threat: Threat, common: CommonOptions) -> None:
        self.defence = defence
        self.first = AdversarialMethod(defence.first, threat, common=replace(common, awp=0.0))
        self.second = AdversarialMethod(defence.second, threat, common=common)

    def __call__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator,
        share: float = 1.0,
    ) -> dict[str, float]:
        stage = self.first if share < self.defence.head_start else self.second
        return stage(model, optimizer, x, y, generator=generator, share=share)
