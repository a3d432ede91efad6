"""A quick robustness estimate for choosing weights, which masked gradients cannot raise as easily as PGD's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks._survivors import attack_survivors
from inoculate.attacks.base import Attack, carry_out
from inoculate.attacks.pgd import PGD
from inoculate.attacks.square import Square
from inoculate.core.options import require_count, require_positive
from inoculate.core.threat import Threat

SURVIVORS = 0.5  # of the images, with which the cost of the later members is estimated


@dataclass(frozen=True)
class ShortEnsemble:
    """Three short attacks that fail in different ways, each on the images that no earlier one has broken.

    For images B×C×H×W in the threat's range, in every norm. PGD on rescaled cross-entropy, whose gradient does not
    vanish where logits are large; PGD on the margin from another start; and, except in l0, Square, which needs no
    gradient and shrinks its squares over its few queries. It costs about as much as PGD-10, and is what training
    monitors and the choice of weights use. It is no measurement: report AutoAttack.

    Options:
        steps: steps of each PGD.
        step: their length, relative to eps.
        queries: passes of Square.

    Raises `InputError` for an option out of its range, images outside theirs, or a model that is not differentiable.
    Source: the idea of AutoAttack (Croce and Hein 2020, section 5), at a hundredth of its cost.
    """

    steps: int = 5
    step: float = 0.4
    queries: int = 20

    def __post_init__(self) -> None:
        require_count(steps=self.steps, queries=self.queries)
        require_positive(step=self.step)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        def craft(x: Tensor, y: Tensor) -> Tensor:
            return attack_survivors(self.parts(threat), model, x, y, threat, generator)

        return carry_out(model, x, y, threat, craft)

    def parts(self, threat: Threat, *, early_stop: bool = True) -> list[Attack]:
        """The attacks at this threat, in their order; a random model should not stop them at its first error."""
        pgd = PGD(self.steps, self.step, early_stop=early_stop)
        parts: list[Attack] = [replace(pgd, loss="rescaled_cross_entropy"), replace(pgd, loss="margin")]
        if threat.norm != "l0":
            parts.append(Square(self.queries, early_stop=early_stop, rescale_schedule=True))
        return parts

    @property
    def passes(self) -> float:
        """Forward-backward passes on an image, where half of the images reach the later members."""
        return self.steps + SURVIVORS * (self.steps + self.queries / 3)

    def shortened(self) -> ShortEnsemble:
        """The same ensemble with two steps or queries a member."""
        return replace(self, steps=2, queries=2)
