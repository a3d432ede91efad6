"""How the adversarial images of a batch are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from inoculate.attacks.base import Attack, FromLibrary, works_image_by_image
from inoculate.attacks.craft import AdvSet
from inoculate.attacks.sweep import sweep
from inoculate.core.rng import generator
from inoculate.core.threat import Threat
from inoculate.evaluation.journal import describe
from inoculate.evaluation.targets import towards
from inoculate.models.classifier import Classifier


@dataclass(frozen=True, eq=False)
class Crafter:
    """From images, labels and their row numbers in the data to the adversarial images at each eps, in order.

    Fields:
        craft: does it.
        source: the classifier that they are crafted on, if there is one.
        made_by: what decides them beside the source, the threats and the targets, as JSON values; None where that
            cannot be said, so that no journal can keep the results.
        targets: the class (N) that each image is driven to.
        depends_on_batch: whether the other images of a batch may decide what is made of an image.
        recipe: how another process makes it; None where it cannot.
    """

    craft: Callable[[Tensor, Tensor, Tensor], Iterator[tuple[float, Tensor]]]
    source: Classifier | None = None
    made_by: Mapping[str, Any] | None = None
    targets: Tensor | None = None
    recipe: Recipe | None = None
    depends_on_batch: bool = False


@dataclass(frozen=True)
class Recipe:
    """How to make a crafter on any classifier: by an `attack`, perhaps the `member` of an ensemble of this name.

    Without an attack the images stay as they are. A recipe can be sent to another process.
    """

    attack: Attack | None = None
    seed: int = 0
    member: str | None = None

    def crafter(self, classifier: Classifier, threats: Sequence[Threat], targets: Tensor | None) -> Crafter:
        """The crafter for these threats and targets."""
        if self.attack is None:
            return unchanged()
        if self.member is None:
            return white_box(classifier, self.attack, threats, self.seed, targets)
        return by_member(classifier, self.member, self.attack, threats[0], self.seed, targets)


def unchanged() -> Crafter:
    """The images as they are, at eps 0."""
    return Crafter(lambda x, y, rows: iter([(0.0, x)]), made_by={"attack": None}, recipe=Recipe())


def white_box(
    classifier: Classifier, attack: Attack, threats: Sequence[Threat], seed: int, targets: Tensor | None = None
) -> Crafter:
    """Crafts on a classifier, at threats that differ in eps alone; towards `targets` (N), if given."""
    epsilons = [threat.eps for threat in threats]

    def craft(x: Tensor, y: Tensor, rows: Tensor) -> Iterator[tuple[float, Tensor]]:
        draw = generator(seed, "attack", device=x.device)
        aimed = attack if targets is None else towards(attack, targets[rows])
        return sweep(aimed, classifier.crafting, x, y, threats[0].select(rows), epsilons, generator=draw)

    together = not works_image_by_image(attack)
    return Crafter(craft, classifier, _made_by(attack, seed), targets, Recipe(attack, seed), together)


def by_member(
    classifier: Classifier, name: str, member: Attack, threat: Threat, seed: int, targets: Tensor | None = None
) -> Crafter:
    """Crafts on a classifier by a member of an ensemble, called at its one eps: a minimum-norm attack stops there."""

    def craft(x: Tensor, y: Tensor, rows: Tensor) -> Iterator[tuple[float, Tensor]]:
        draw = generator(seed, "attack", name, device=x.device)
        aimed = member if targets is None else towards(member, targets[rows])
        yield threat.eps, aimed(classifier.crafting, x, y, threat.select(rows), generator=draw)

    together = not works_image_by_image(member)
    return Crafter(craft, classifier, _made_by(member, seed, name), targets, Recipe(member, seed, name), together)


def stored(examples: AdvSet, epsilons: Sequence[float]) -> Crafter:
    """Takes stored examples."""
    return Crafter(lambda x, y, rows: ((eps, examples.images(x, rows, eps)) for eps in epsilons))


def _made_by(attack: Attack, seed: int, member: str | None = None) -> dict[str, Any] | None:
    try:
        library = attack.library if isinstance(attack, FromLibrary) else None
        return {"attack": describe(attack), "library": library, "seed": seed, "member": member}
    except TypeError:  # an attack of the user's own, or one with a loss of their own
        return None
