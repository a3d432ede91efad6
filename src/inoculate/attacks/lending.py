"""Our models and attacks for foolbox, torchattacks and ART, each called as is usual there."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inoculate.attacks.attack import Attack
from inoculate.errors import InputError
from inoculate.modes import device_of
from inoculate.threat import Norm, Threat


def to_foolbox(model: nn.Module, threat: Threat) -> Any:
    """The classifier as a `foolbox.PyTorchModel`, for images in the threat's range. Put it in eval mode yourself."""
    peer = imported("foolbox", "foolbox")
    return peer.PyTorchModel(model, bounds=(threat.low, threat.high), device=device_of(model))


def to_art(model: nn.Module, threat: Threat, input_shape: tuple[int, ...], classes: int) -> Any:
    """The classifier as ART's `PyTorchClassifier`, for images of `input_shape` (C, H, W) in the threat's range."""
    peer = imported("art", "art.estimators.classification")
    return peer.PyTorchClassifier(
        model, loss=nn.CrossEntropyLoss(), input_shape=input_shape, nb_classes=classes,
        clip_values=(threat.low, threat.high), device_type=device_of(model).type.replace("cuda", "gpu"),
    )  # fmt: skip


def as_torchattack(
    attack: Attack, threat: Threat, model: nn.Module, *, generator: torch.Generator | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """An attack of ours as `(images, labels) -> images`, with the `model` that `torchattacks.MultiAttack` asks for."""
    return _Bound(attack, threat, model, generator)


def as_foolbox(attack: Attack, norm: Norm = "linf", *, generator: torch.Generator | None = None) -> Any:
    """An attack of ours as foolbox's: `(model, images, labels, epsilons=…) -> raw, clipped, success`.

    Range and preprocessing are those of the foolbox model that it is called on. A criterion other than
    misclassification raises `InputError`: a target belongs to the attack (`PGD(target=3)`), whose success foolbox then
    counts as any error.
    """
    peer, distances = imported("foolbox", "foolbox.attacks.base"), imported("foolbox", "foolbox.distances")

    class Lent(peer.FixedEpsilonAttack):  # type: ignore[misc, name-defined]
        distance = getattr(distances, norm)

        def run(self, model: Any, inputs: Any, criterion: Any, *, epsilon: float, **_: Any) -> Any:
            labels = getattr(criterion, "labels", criterion)  # a criterion, or as elsewhere in foolbox plain labels
            if hasattr(criterion, "target_classes"):
                raise InputError("give the target to the attack (target=3), and the true labels to foolbox")
            x, y = (getattr(each, "raw", each) for each in (inputs, labels))
            threat = Threat(norm, epsilon, *model.bounds)
            x_adv = attack(_Called(model, x.device), x, y.long(), threat, generator=generator)
            return type(inputs)(x_adv) if hasattr(inputs, "raw") else x_adv

    return Lent()


def as_art(attack: Attack, threat: Threat, classifier: Any, *, generator: torch.Generator | None = None) -> Any:
    """An attack of ours as an ART `EvasionAttack` on a `PyTorchClassifier`: `generate(x, y)` on numpy arrays.

    `y` are classes or one-hot rows; without it the classifier's own predictions count as right, as in ART. Raises
    `InputError` for a classifier whose answers its network does not give: ART's preprocessing belongs into the network.
    """
    peer, estimators = imported("art", "art.attacks"), imported("art", "art.estimators.classification")

    class Lent(peer.EvasionAttack):  # type: ignore[misc, name-defined]
        _estimator_requirements = (estimators.PyTorchClassifier,)

        def generate(self, x: Any, y: Any = None, **_: Any) -> Any:
            model = self.estimator.model.eval()
            answers, images = self.estimator.predict(x), torch.as_tensor(x).to(device_of(model))
            with torch.no_grad():
                own = torch.cat([model(part) for part in torch.split(images, 128)]).float().cpu().numpy()
            if not np.allclose(answers, own, atol=1e-3, rtol=1e-3):
                raise InputError("the ART classifier changes images before its network: put that into the network")
            labels = torch.as_tensor(answers if y is None else np.asarray(y)).to(images.device)
            labels = labels.argmax(dim=1) if labels.ndim == 2 else labels
            return attack(model, images, labels.long(), threat, generator=generator).cpu().numpy()

    return Lent(estimator=classifier)


def imported(library: str, module: str) -> ModuleType:
    """A module of an optional library; raises `InputError` that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"no {library} here ({line(error)}): pip install 'inoculate[{library}]'") from error


def line(error: Exception) -> str:
    """The first line of an error, or its kind."""
    return str(error).strip().split("\n")[0] or type(error).__name__


@dataclass(frozen=True, eq=False)
class _Bound:
    attack: Attack
    threat: Threat
    model: nn.Module
    generator: torch.Generator | None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        at = device_of(self.model)
        return self.attack(self.model, images.to(at), labels.to(at), self.threat, generator=self.generator)


class _Called(nn.Module):
    """A foolbox model as a module: images to logits, its preprocessing included."""

    def __init__(self, model: Any, device: torch.device) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits
