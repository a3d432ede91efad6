"""foolbox: its attacks called as ours, and ours as its own. An optional extra."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from inoculate.artifacts.versions import library_version
from inoculate.attacks.base import Attack
from inoculate.attacks.interop._shared import Library, class_count, craft_with, import_module
from inoculate.core.errors import InputError
from inoculate.core.modes import device_of
from inoculate.core.threat import Norm, Threat

FOOLBOX = Library(
    "foolbox", "foolbox.attacks",
    {
        "BoundaryAttack": "l2", "DDNAttack": "l2", "EADAttack": "l1", "HopSkipJumpAttack": "linf l2",
        "NewtonFoolAttack": "l2", "SaltAndPepperNoiseAttack": "l2", "VirtualAdversarialAttack": "l2",
    },
    prefixes=("Linf", "LInf", "Linfinity", "L2", "L1"),
)  # fmt: skip


@dataclass(frozen=True)
class FoolboxAttack:
    """The foolbox attack `name`, untargeted, called like our own.

    A name without the prefix of its norm (`PGD`) stands for the class that fits the threat. Eps and norm are the
    threat's; `options` have foolbox's names and units. Its random numbers are decided by `generator` (None: always the
    same) and depend on the batch's size and order. It crafts on the model itself where a `fast` copy is given. Raises
    `InputError` if foolbox is not installed, for unknown names and options, and for a norm that does not fit.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        FOOLBOX.check_options(self.name, self.options)

    @property
    def library(self) -> str:
        """The name of the library and its version."""
        return library_version(FOOLBOX.name)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        attack = FOOLBOX.class_for(self.name, threat.norm)

        def run(unit: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:
            distance = getattr(import_module("foolbox", "foolbox.distances"), threat.norm)
            classes = class_count(unit, x)
            values = {"eps": eps, "distance": distance, "targeted": False, "seed": seed, "n_classes": classes}
            arguments = FOOLBOX.arguments(attack, self.options, **values)
            with FOOLBOX.refusals(self.name):
                found: Tensor = attack(**arguments)(to_foolbox(unit, Threat()), x, y, epsilons=eps)[0]
            return found

        return craft_with(run, model, x, y, threat, generator)


def to_foolbox(model: nn.Module, threat: Threat) -> Any:
    """The classifier as a `foolbox.PyTorchModel`, for images in the threat's range. Put it in eval mode yourself."""
    peer = import_module("foolbox", "foolbox")
    return peer.PyTorchModel(model, bounds=(threat.low, threat.high), device=device_of(model))


def as_foolbox(attack: Attack, norm: Norm = "linf", *, generator: torch.Generator | None = None) -> Any:
    """An attack of ours as foolbox's: `(model, images, labels, epsilons=…) -> raw, clipped, success`.

    Range and preprocessing are those of the foolbox model that it is called on. A criterion other than
    misclassification raises `InputError`: a target belongs to the attack (`PGD(target=3)`), whose success foolbox then
    counts as any error. To `repeat` it, give a `generator`: without one every run is the same.
    """
    peer, distances = import_module("foolbox", "foolbox.attacks.base"), import_module("foolbox", "foolbox.distances")
    misclassification = import_module("foolbox", "foolbox.criteria").Misclassification

    class OurAttack(peer.FixedEpsilonAttack):  # type: ignore[misc, name-defined]
        distance = getattr(distances, norm)

        def run(self, model: Any, inputs: Any, criterion: Any, *, epsilon: float, **_: Any) -> Any:
            if not isinstance(criterion, misclassification):
                raise InputError("give foolbox the true labels alone: a target belongs to the attack (target=3)")
            x, y = inputs.raw, criterion.labels.raw
            threat = Threat(norm, epsilon, *model.bounds)
            return type(inputs)(attack(FoolboxModule(model, x), x, y.long(), threat, generator=generator))

    return OurAttack()


class FoolboxModule(nn.Module):
    """A foolbox model as a module: images to logits, its preprocessing included."""

    def __init__(self, model: Any, like: Tensor) -> None:
        super().__init__()
        self.at = nn.Parameter(like.new_empty(0), requires_grad=False)  # tells device and dtype
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits
