"""Adversarial examples of a whole dataset, crafted once and stored in one byte a pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inoculate.artifacts.files import read_json, write_json
from inoculate.attacks.base import Attack, OneStep
from inoculate.attacks.losses import name_of_loss
from inoculate.core.errors import InputError
from inoculate.core.modes import device_of
from inoculate.core.pixels import to_float
from inoculate.core.rng import generator
from inoculate.core.threat import Threat, keep_outside, require_threat
from inoculate.data.dataset import Dataset
from inoculate.data.scratch import parts_of, scratch

SCALE = 127


@dataclass(frozen=True, eq=False)
class AdvSet:
    """L∞ perturbations of a dataset: `direction`, int8 q in [−127, 127] (N×C×H×W), and their `provenance`.

    The adversarial image is `clamp(x + eps · q / 127)`. For a one-step attack q is ±127 or 0 and the same for every
    eps, so this is exact. Any other attack fixes `eps`, and q is rounded to 1/127 of it, inside the ball.
    """

    direction: Tensor
    provenance: dict[str, Any]

    def images(self, x: Tensor, indices: Tensor, eps: float | Tensor) -> Tensor:
        """The adversarial versions of `x`, float images (B×C×H×W) in [0, 1] that are the rows `indices` of the dataset.

        eps: one for all, or one per image (B). Raises `InputError` where there is no version at an eps.
        """
        self.check_eps(eps)
        return perturb(x, self.direction[indices].to(x.device), eps)

    def check_eps(self, eps: float | Sequence[float] | Tensor) -> None:
        """Raise `InputError` unless these examples have a version at every such eps."""
        fixed = self.provenance["eps"]
        if fixed is not None and (torch.as_tensor(eps) != torch.as_tensor(fixed)).any():
            raise InputError(f"these examples were crafted at eps {fixed:g}: they have no version at eps {eps}")

    @property
    def zero_fraction(self) -> float:
        """Fraction of images whose gradient was 0 everywhere, which were not attacked: a sign of gradient masking."""
        zero = sum(int((self.direction[rows] == 0).flatten(1).all(dim=1).sum()) for rows in parts_of(self.direction))
        return zero / len(self.direction)

    def save(self, folder: Path) -> None:
        """Write `direction.npy` and `advset.json` into `folder`."""
        np.save(folder / "direction.npy", self.direction.numpy(), allow_pickle=False)
        write_json(folder / "advset.json", {**self.provenance, "zero_gradients": self.zero_fraction})

    @classmethod
    def load(cls, folder: Path) -> AdvSet:
        """Read what `save` wrote, memory-mapped."""
        array = np.load(folder / "direction.npy", mmap_mode="c", allow_pickle=False)
        return cls(torch.from_numpy(array), read_json(folder / "advset.json"))


def perturb(x: Tensor, direction: Tensor, eps: float | Tensor) -> Tensor:
    """`clamp(x + eps · direction / 127)` for int8 directions; `eps` a number or one per sample."""
    if isinstance(eps, Tensor):
        eps = eps.view(-1, *[1] * (x.ndim - 1)).to(x)
    return (x + eps * (direction.to(x) / SCALE)).clamp(0, 1)


def craft(
    attack: Attack,
    model: nn.Module,
    data: Dataset,
    threat: Threat,
    *,
    batch_size: int = 256,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> AdvSet:
    """Attack every image once and keep the perturbations.

    Args:
        attack: the attack.
        model: float images in [0, 1] to logits.
        data: the images.
        threat: norm linf. Its eps is not used by a one-step attack.
        batch_size: images at a time.
        seed: of the attack's random numbers.
        progress: called as `("craft", images done, all images)`.

    Raises `InputError` for another norm.
    """
    if not isinstance(data, Dataset):
        raise InputError(f"data is a {type(data).__name__}: give a Dataset, such as load_data(data)")
    if require_threat(threat).norm != "linf":
        raise InputError(f"an AdvSet stores L∞ directions: craft with norm linf, not {threat.norm}")
    device = device_of(model)
    direction = scratch(data.images.shape, torch.int8)
    for start in range(0, len(data), batch_size):
        rows = slice(start, start + batch_size)
        x, y = to_float(data.images[rows].to(device)), data.labels[rows].to(device)
        g = generator(seed, "craft", start, device=device)
        own = threat.select(torch.arange(len(data))[rows])
        if isinstance(attack, OneStep):
            unit = attack.direction(model, x, y, threat.norm, generator=g)
            unit = keep_outside(unit, torch.zeros_like(unit), own)
        else:
            unit = (attack(model, x, y, own, generator=g) - x) / max(threat.eps, 1e-12)
        direction[rows] = (unit * SCALE).round().clamp(-SCALE, SCALE).to("cpu", torch.int8)
        if progress:
            progress("craft", min(start + batch_size, len(data)), len(data))
    provenance = _described(attack) | {
        "norm": threat.norm,
        "eps": None if isinstance(attack, OneStep) else threat.eps,
        "split": data.digest,
        "seed": seed,
    }
    if threat.mask is not None:
        provenance["mask"] = threat.mask.digest
    return AdvSet(direction, provenance)


def _described(attack: Attack) -> dict[str, Any]:
    """The name of an attack and its options; those of a dataclass are its fields, any other callable has none."""
    if is_dataclass(attack) and not isinstance(attack, type):
        options = asdict(attack)
        if "loss" in options:
            options["loss"] = name_of_loss(options["loss"])
        return {"attack": type(attack).__name__, "options": options}
    return {"attack": attack.__name__ if isinstance(attack, FunctionType) else type(attack).__name__, "options": {}}
