"""ART: its attacks called as ours, and ours as its own. An optional extra."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inoculate.artifacts.versions import library_version
from inoculate.attacks.base import Attack
from inoculate.attacks.interop._shared import Library, class_count, craft_with, import_module
from inoculate.core.errors import InputError
from inoculate.core.modes import device_of
from inoculate.core.threat import Threat

ART = Library(
    "art", "art.attacks.evasion",
    {
        "BoundaryAttack": "l2", "DeepFool": "l2", "ElasticNet": "l1", "HopSkipJump": "linf l2", "NewtonFool": "l2",
        "SignOPTAttack": "l2", "SimBA": "l2", "VirtualAdversarialMethod": "l2", "ZooAttack": "l2",
    },
)  # fmt: skip
NORMS = {"linf": np.inf, "l2": 2, "l1": 1}  # as ART spells them


@dataclass(frozen=True)
class ArtAttack:
    """The ART attack `name`, untargeted, called like our own.

    Eps and norm are the threat's; a step in pixels that `options` do not name keeps the proportion to eps that the
    library's defaults have. Other options have the library's names and units. Its random numbers are decided by
    `generator` (None: always the same) and depend on the batch's size and order; BoundaryAttack and HopSkipJump seed
    themselves, so that no two runs agree. It crafts on the model itself where a `fast` copy is given. Raises
    `InputError` if the library is not installed, for unknown names and options, and for a norm that does not fit.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        ART.check_options(self.name, self.options)

    @property
    def library(self) -> str:
        """The name of the library and its version."""
        return library_version(ART.name)

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        attack = ART.class_for(self.name, threat.norm)

        def run(unit: nn.Module, x: Tensor, y: Tensor, eps: float, seed: int) -> Tensor:
            classes = class_count(unit, x)
            arguments = ART.arguments(
                attack, self.options, eps=eps, max_epsilon=eps, constraint=threat.norm, targeted=False, verbose=False,
                seed=seed, batch_size=len(x), norm=NORMS.get(threat.norm),
            )  # fmt: skip
            with ART.refusals(self.name):
                made = attack(to_art(unit, Threat(), tuple(x.shape[1:]), classes), **arguments)
                return torch.from_numpy(made.generate(x.cpu().numpy(), y=y.cpu().numpy()))

        return craft_with(run, model, x, y, threat, generator)


def to_art(model: nn.Module, threat: Threat, input_shape: tuple[int, ...], classes: int) -> Any:
    """The classifier as ART's `PyTorchClassifier`, for images of `input_shape` (C, H, W) in the threat's range."""
    peer = import_module("art", "art.estimators.classification")
    return peer.PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=input_shape, nb_classes=classes,
        clip_values=(threat.low, threat.high), device_type=device_of(model).type.replace("cuda", "gpu"),
    )  # fmt: skip


def as_art(
    attack: Attack,
    threat: Threat,
    classifier: Any,
    *,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
) -> Any:
    """An attack of ours as an ART `EvasionAttack` on a `PyTorchClassifier`: `generate(x, y)` on numpy arrays.

    `y` are classes (N, or N×1) or one-hot rows; without it the classifier's own predictions count as right, as in ART.
    `batch_size` images at a time. Raises `InputError` for a classifier whose answers its network does not give: ART's
    preprocessing belongs into the network.
    """
    peer, estimators = import_module("art", "art.attacks"), import_module("art", "art.estimators.classification")

    class OurAttack(peer.EvasionAttack):  # type: ignore[misc, name-defined]
        _estimator_requirements = (estimators.PyTorchClassifier,)

        def generate(self, x: Any, y: Any = None, **_: Any) -> Any:
            x = np.asarray(x, dtype=np.float32)
            model, answers = self.estimator.model.eval(), torch.as_tensor(self.estimator.predict(x))
            labels = answers if y is None else torch.as_tensor(np.asarray(y))
            labels = labels.argmax(dim=1) if labels.ndim == 2 and labels.shape[1] > 1 else labels.flatten()
            found = []
            for start in range(0, len(x), batch_size):
                rows = slice(start, start + batch_size)
                images = torch.as_tensor(x[rows]).to(device_of(model))
                with torch.no_grad():
                    own = model(images).cpu()
                if not torch.allclose(answers[rows], own.to(answers.dtype), atol=1e-3, rtol=1e-3):
                    raise InputError("the ART classifier changes images before its network: put that into the network")
                found.append(attack(model, images, labels[rows].long().to(images.device), threat, generator=generator))
            return torch.cat(found).cpu().numpy()

    return OurAttack(estimator=classifier)
