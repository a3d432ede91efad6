"""How the adversarial images of a batch are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from inoculate.attacks.base import Attack
from inoculate.attacks.craft import AdvSet
from inoculate.attacks.sweep import sweep
from inoculate.core.rng import generator
from inoculate.core.threat import Threat
from inoculate.evaluation.targets import towards
from inoculate.models.classifier import Classifier

# From images, labels and their row numbers in the data to the adversarial images at each eps, in order.
Crafter = Callable[[Tensor, Tensor, Tensor], Iterator[tuple[float, Tensor]]]


def white_box(
    classifier: Classifier, attack: Attack, threats: Sequence[Threat], seed: int, targets: Tensor | None = None
) -> Crafter:
    """Crafts on a classifier, at threats that differ in eps alone; towards `targets` (N), if given."""
    epsilons = [threat.eps for threat in threats]

    def crafter(x: Tensor, y: Tensor, rows: Tensor) -> Iterator[tuple[float, Tensor]]:
        draw = generator(seed, "attack", device=x.device)
        aimed = attack if targets is None else towards(attack, targets[rows])
        return sweep(aimed, classifier.crafting, x, y, threats[0].select(rows), epsilons, generator=draw)

    return crafter


def by_member(
    classifier: Classifier, name: str, member: Attack, threat: Threat, seed: int, targets: Tensor | None = None
) -> Crafter:
    """Crafts on a classifier by a member of an ensemble, called at its one eps: a minimum-norm attack stops there."""

    def crafter(x: Tensor, y: Tensor, rows: Tensor) -> Iterator[tuple[float, Tensor]]:
        draw = generator(seed, "attack", name, device=x.device)
        aimed = member if targets is None else towards(member, targets[rows])
        yield threat.eps, aimed(classifier.crafting, x, y, threat.select(rows), generator=draw)

    return crafter


def stored(examples: AdvSet, epsilons: Sequence[float]) -> Crafter:
    """Takes stored examples."""

    def crafter(x: Tensor, y: Tensor, rows: Tensor) -> Iterator[tuple[float, Tensor]]:
        return ((eps, examples.images(x, rows, eps)) for eps in epsilons)

    return crafter
