"""What the checks share: the sample, and the results of attacks on it, each measured when a check first needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil

import torch
from torch import Tensor, nn

from inoculate.attacks._batching import full_batch
from inoculate.attacks.base import Attack
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.pgd import PGD
from inoculate.attacks.square import Square
from inoculate.core.rng import Draws
from inoculate.core.threat import Threat, sample
from inoculate.evaluation.passes import GRADIENT
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.sample import FEW, Cost, Sample, per_image
from inoculate.models.classifier import Classifier

SQUARE, SHORT, LONG = Square(queries=200, rescale_schedule=True), PGD(steps=10), PGD(steps=50, step=0.1)
UNBOUNDED = PGD(steps=20, step=0.25)


@dataclass(frozen=True, eq=False)
class Panel:
    """The sample, the attacks of the evaluation and other classifiers of the same images.

    The results of the attacks are measured on first use, each within a share of the passes that are left then.
    """

    sample: Sample
    attacks: Mapping[str, Attack]
    surrogates: Mapping[str, Classifier]

    @cached_property
    def fgsm(self) -> PerSampleResult:
        """The result of FGSM."""
        return self.sample.measure(FGSM(), per_image(3), share=0.2)

    @cached_property
    def noise(self) -> PerSampleResult:
        """The result of random points of the ball."""
        return self.sample.measure(_Noise(), per_image(1), share=0.1)

    @cached_property
    def unbounded(self) -> PerSampleResult:
        """The result of PGD that may go to any image, on few images; L∞ gets everywhere in few steps."""
        threat = self.sample.threat
        everything = Threat("linf", threat.high - threat.low, threat.low, threat.high)
        few = self.sample.first(FEW)
        return self.sample.measure(UNBOUNDED, steps_cost(UNBOUNDED.steps), everything, share=0.4, among=few)

    @cached_property
    def short(self) -> PerSampleResult:
        """The result of PGD with `SHORT.steps`."""
        return self.sample.measure(SHORT, steps_cost(SHORT.steps), share=0.4)

    @cached_property
    def long(self) -> tuple[int, PerSampleResult]:
        """The steps and result of a longer PGD: the evaluation's own with the most from 20 on, else anew."""
        found = {
            attack.steps: result
            for attack, result in self.sample.known_results(self.sample.threat)
            if isinstance(attack, PGD) and attack.steps >= 2 * SHORT.steps and attack.target is None
        }
        if found:
            return max(found), found[max(found)]
        return LONG.steps, self.sample.measure(LONG, steps_cost(LONG.steps), share=0.7)

    @cached_property
    def pgd(self) -> PerSampleResult:
        """The images that both PGDs leave right."""
        short, (_, long) = self.short, self.long
        return replace(long, right=short.right & long.right, finished=short.finished & long.finished)

    def square(self, among: Tensor, share: float) -> PerSampleResult:
        """The result of Square on the images `among` (N, bool); the evaluation's own if that had more queries."""
        found = [
            result
            for attack, result in self.sample.known_results(self.sample.threat)
            if isinstance(attack, Square) and attack.queries >= 5 * SQUARE.queries and attack.target is None
        ]
        return found[0] if found else self.sample.measure(SQUARE, self._square_cost, share=share, among=among)

    def _square_cost(self, images: int) -> float:
        """A pass a query; few images are tried with several squares at once, whether or not all are needed."""
        batch = min(images, self.sample.settings.batch_size)
        together = max(batch, min(16 * batch, full_batch(self.sample.data.images[:1]) // 2))
        return SQUARE.queries * together * ceil(images / batch) + 4 * images

    def crafted_on(self, surrogate: Classifier, among: Tensor, share: float) -> PerSampleResult:
        """The result of examples that PGD crafts on another classifier, for the images `among` (N, bool)."""
        attack = _CraftedOn(SHORT, surrogate.model)
        return self.sample.measure(attack, steps_cost(SHORT.steps), share=share, among=among)

    @property
    def most_passes(self) -> float:
        """Per image, if no attack ends early and each of the evaluation's takes no more than PGD at eps 0."""
        steps = (*(UNBOUNDED.steps, SHORT.steps, LONG.steps), *[SHORT.steps] * len(self.surrogates))
        return SQUARE.queries + sum(steps_cost(count)(1) for count in (*steps, *[2] * len(self.attacks))) + 6


def steps_cost(steps: int) -> Cost:
    """PGD makes a pass with gradients a step, and few more to verify what it found."""
    return per_image(GRADIENT * steps + 3)


@dataclass(frozen=True)
class _Noise:
    """A random point of the ball: no attack, but the least that an attack must beat."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return sample(x, threat, Draws(x, generator))


@dataclass(frozen=True, eq=False)
class _CraftedOn:
    """An attack that crafts on another model."""

    attack: Attack
    surrogate: nn.Module

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return self.attack(self.surrogate, x, y, threat, generator=generator)
