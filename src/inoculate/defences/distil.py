"""Robust distillation: a small robust teacher's soft labels in place of hard ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inoculate.attacks.gradient import PGD
from inoculate.defences import objectives
from inoculate.defences.adversarial import Trained, away_from, both, outputs
from inoculate.defences.options import check_method
from inoculate.threat import Threat


@dataclass(frozen=True)
class ARD:
    """Adversarially robust distillation (Goldblum et al. 2020): PGD on the student, the teacher's soft labels.

    The first helper is the teacher. `alpha` is the share of distillation, at `temperature`; the rest is clean
    cross-entropy. Its loss has no smoothed form.
    """

    alpha: float = 1.0
    temperature: float = 30.0
    steps: int = 10
    step: float = 0.25

    def __post_init__(self) -> None:
        check_method(alpha=self.alpha, temperature=self.temperature, steps=self.steps, step=self.step)

    @property
    def passes(self) -> float:
        return self.steps + 1 + 1 / 3 + (1 if self.alpha < 1 else 0)

    def examples(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, helpers: tuple[nn.Module, ...],
        generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        return PGD(self.steps, self.step)(model, x, y, threat, generator=generator)

    def loss(
        self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, helpers: tuple[nn.Module, ...], smoothing: float
    ) -> Trained:
        teacher = outputs(helpers[0], x)
        adversarial = model(x_adv).float()
        clean = model(x).float() if self.alpha < 1 else adversarial  # its term counts nothing then
        return Trained(objectives.ard(clean, adversarial, teacher, y, self.alpha, self.temperature), adversarial)


@dataclass(frozen=True)
class RSLAD:
    """Robust soft-label distillation (Zi et al. 2021): the teacher's clean soft labels in the attack and in both terms.

    The first helper is the teacher. The attack drives the student away from the teacher's clean prediction, from small
    noise; `alpha` is the weight of the adversarial term. There is no hard label to smooth.
    """

    alpha: float = 5 / 6
    steps: int = 10
    step: float = 0.25

    def __post_init__(self) -> None:
        check_method(alpha=self.alpha, steps=self.steps, step=self.step)

    @property
    def passes(self) -> float:
        return self.steps + 2 + 2 / 3

    def examples(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, helpers: tuple[nn.Module, ...],
        generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        return away_from(outputs(helpers[0], x), model, x, y, threat, self.steps, self.step, generator)

    def loss(
        self, model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, helpers: tuple[nn.Module, ...], smoothing: float
    ) -> Trained:
        clean, adversarial = both(model, x, x_adv)
        return Trained(objectives.rslad(clean, adversarial, outputs(helpers[0], x), self.alpha), adversarial)
