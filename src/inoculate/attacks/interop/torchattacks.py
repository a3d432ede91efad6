"""torchattacks: its attacks called as ours, and ours as its own. An optional extra."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from inoculate.artifacts.versions import library_version
from inoculate.attacks.base import Attack
from inoculate.attacks.interop._shared import Library, class_count, craft_with
from inoculate.core.modes import device_of
from inoculate.core.threat import Threat

TORCHATTACKS = Library(
    "torchattacks", "torchattacks",
    {
        "APGD": "linf l2", "APGDT": "linf l2", "AutoAttack": "linf l2", "CW": "l2", "DeepFool": "l2", "EADEN": "l1",
        "FAB": "linf l2", "Square": "linf l2",
    },
)  # fmt: skip
NORMS = {"linf": "Linf", "l2": "L2", "l1": "L1"}  # as torchattacks spells them


@dataclass(frozen=True)
class TorchattacksAttack:
    """The torchattacks attack `name`, untargeted, called like our own.

    Eps and norm are the threat's; a step in pixels that `options` do not name keeps the proportion to eps that the
    library's defaults have. Other options have the library's names and units. Its random numbers are decided by
    `generator` (None: always the same) and depend on the batch's size and order. It crafts on the model itself where a
    `fast` copy is given. Raises `InputError` if the library is not installed, for unknown names and options, and for a
    norm that does not fit.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        TORCHATTACKS.check_options(self.name, self.options)

    @property
    def library(self) -> str:
        """The name of the library and its version."""
        return library_version(TORCHATTACKS.name)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        attack = TORCHATTACKS.class_for(self.name, threat.norm)

        def run(unit: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:
            values = {"eps": eps, "norm": NORMS.get(threat.norm), "n_classes": class_count(unit, x), "seed": seed}
            arguments = TORCHATTACKS.arguments(attack, self.options, **values, verbose=False)
            with TORCHATTACKS.refusals(self.name):
                return torch.as_tensor(attack(unit, **arguments)(x, y))

        return craft_with(run, model, x, y, threat, generator)


@dataclass(frozen=True, eq=False)
class BoundAttack:
    """An attack of ours with all but images and labels fixed."""

    attack: Attack
    threat: Threat
    model: nn.Module
    generator: torch.Generator | None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        device = device_of(self.model)
        return self.attack(self.model, images.to(device), labels.to(device), self.threat, generator=self.generator)


def as_torchattack(
    attack: Attack, threat: Threat, model: nn.Module, *, generator: torch.Generator | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """An attack of ours as `(images, labels) -> images`, with the `model` that `torchattacks.MultiAttack` asks for."""
    return BoundAttack(attack, threat, model, generator)
