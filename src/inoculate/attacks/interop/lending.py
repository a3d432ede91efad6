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

from inoculate.attacks.base import Attack
from inoculate.core.errors import InputError
from inoculate.core.modes import device_of
from inoculate.core.threat import Norm, Threat


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
    counts as any error. To `repeat` it, give a `generator`: without one every run is the same.
    """
    peer, distances = imported("foolbox", "foolbox.attacks.base"), imported("foolbox", "foolbox.distances")
    misclassification = imported("foolbox", "foolbox.criteria").Misclassification

    class Lent(peer.FixedEpsilonAttack):  # type: ignore[misc, name-defined]
        distance = getattr(distances, norm)

        def run(self, model: Any, inputs: Any, criterion: Any, *, epsilon: float, **_: Any) -> Any:
            if not isinstance(criterion, misclassification):
                raise InputError("give foolbox the true labels alone: a target belongs to the attack (target=3)")
            x, y = inputs.raw, criterion.labels.raw
            threat = Threat(norm, epsilon, *model.bounds)
            return type(inputs)(attack(_Called(model, x), x, y.long(), threat, generator=generator))

    return Lent()


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
    peer, estimators = imported("art", "art.attacks"), imported("art", "art.estimators.classification")

    class Lent(peer.EvasionAttack):  # type: ignore[misc, name-defined]
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

    def __init__(self, model: Any, like: Tensor) -> None:
        super().__init__()
        self.at = nn.Parameter(like.new_empty(0), requires_grad=False)  # where it is, and in which precision
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        return logits
