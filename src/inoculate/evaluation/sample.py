"""Images on which checks are made: as many as the passes allow, and what is known of them already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import torch
from torch import Tensor

from inoculate.attacks.base import Attack
from inoculate.core.rng import generator
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import Settings, measure_attack, measure_clean
from inoculate.evaluation.passes import Passes
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.models.classifier import Classifier

ENOUGH = 112  # images: two attacks that differ on 8 % of them are told apart (p < 0.01) in four of five samples
FEW = 32  # images, where a single one is an alarm
SIGNIFICANT = 0.01  # the p-value of an alarm
UNSEEN = 20.0  # passes that an attack is taken to make on an image where they can be neither foreseen nor counted
Cost = Callable[[int], float]  # from a number of images to the most passes that an attack makes on them


@dataclass(frozen=True, eq=False)
class Known:
    """What an evaluation found on all images: the clean result, and those of attacks at threats.

    `passes` is how many the checks may make.
    """

    clean: PerSampleResult | None = None
    attacks: Sequence[tuple[Attack, Threat, PerSampleResult]] = field(default_factory=list)
    passes: float = inf


NOTHING = Known()


@dataclass(frozen=True, eq=False)
class Sample:
    """Some images of the data, `ENOUGH` of them right if there are so many (N, bool: `clean`), and the threat."""

    classifier: Classifier
    data: Dataset
    threat: Threat
    settings: Settings
    clean: Tensor
    rows: Tensor
    known: Known
    passes: Passes

    @classmethod
    def draw(
        cls, classifier: Classifier, data: Dataset, threat: Threat, settings: Settings, known: Known, passes: Passes
    ) -> Sample:
        """The images that the seed decides; `passes` counts those of the classifier from here on."""
        rows = torch.randperm(len(data), generator=generator(settings.seed, "trust panel"))
        settings = replace(settings, deadline=None, keep_images=False, progress=None, journal=None)
        if known.clean is None:
            rows = rows[: 2 * ENOUGH]
            clean = measure_clean(classifier, data.subset(rows), settings).right
        else:
            clean = known.clean.right[rows]
        needed = int((clean.cumsum(0) < ENOUGH).sum()) + 1
        rows, clean = rows[:needed], clean[:needed]
        return cls(classifier, data.subset(rows), threat, settings, clean, rows, known, passes)

    def first(self, images: int) -> Tensor:
        """The first so many of those that the classifier gets right (N, bool)."""
        return self.clean & (self.clean.cumsum(0) <= images)

    @property
    def left(self) -> float:
        """How many passes may still be made."""
        return self.known.passes - self.passes.made

    def measure(
        self,
        attack: Attack,
        cost: Cost | None,
        threat: Threat | None = None,
        share: float = 1.0,
        among: Tensor | None = None,
    ) -> PerSampleResult:
        """The result of an attack, on the images that `share` of the passes left is enough for; the rest is unfinished.

        Without a `cost` the first image tells what the others cost. `among` (N, bool) says which images to attack, by
        default all that are right. What the evaluation found already is taken over.
        """
        at = threat or self.threat
        for known, result in self.known_results(at):
            if type(known) is type(attack) and known == attack:
                return result
        chosen = self.clean if among is None else self.clean & among
        return self._measure(attack, cost, at, chosen, self.passes.made + share * self.left)

    def known_results(self, threat: Threat) -> list[tuple[Attack, PerSampleResult]]:
        """The attacks that the evaluation made on all these images at a threat, and their results."""
        return [
            (attack, _restrict(result, self.rows))
            for attack, at, result in self.known.attacks
            if at == threat and bool(result.finished[self.rows].all())
        ]

    def _measure(
        self, attack: Attack, cost: Cost | None, threat: Threat, chosen: Tensor, end: float
    ) -> PerSampleResult:
        """Attack chunk after chunk: each may cost the most that it can, so that the passes never exceed `end`."""
        result = PerSampleResult.empty(len(self.data), threat.eps)
        result.finished.copy_(~self.clean)
        waiting = chosen.nonzero().squeeze(1)
        while len(waiting):
            before = self.passes.made
            size = affordable(cost or per_image(1), 1 if cost is None else len(waiting), end - before)
            if not size:
                break
            chunk = torch.zeros_like(self.clean)
            chunk[waiting[:size]] = True
            at = threat.select(self.rows)
            (found,) = measure_attack(self.classifier, self.data, attack, [at], chunk, self.settings)
            result.take(found, chunk)
            result.right[chunk], result.finished[chunk] = found.right[chunk], True
            if self.passes.made == before:  # TorchScript, whose passes are not seen
                self.passes.made += (cost or per_image(UNSEEN))(size)
            cost = cost or per_image(self.passes.made - before)
            waiting = waiting[size:]
        return result


def per_image(passes: float) -> Cost:
    """The cost of an attack that makes at most so many passes on each image."""
    return lambda images: passes * images


def affordable(cost: Cost, most: int, passes: float) -> int:
    """The largest number of images, up to `most`, that so many passes are enough for."""
    return next((images for images in range(most, 0, -1) if cost(images) <= passes), 0)


def _restrict(result: PerSampleResult, rows: Tensor) -> PerSampleResult:
    tensors: dict[str, Any] = {name: value[rows] for name, value in vars(result).items() if isinstance(value, Tensor)}
    return replace(result, **tensors)
