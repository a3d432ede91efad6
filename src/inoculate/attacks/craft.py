"""Craft the adversarial version of a whole split, once, and keep it small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from inoculate.artifacts.files import read_json, write_json
from inoculate.attacks.base import Attack, OneStep
from inoculate.core.errors import InputError
from inoculate.core.modes import device_of
from inoculate.core.pixels import to_float
from inoculate.core.rng import generator
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset

SCALE = 127


@dataclass(frozen=True, eq=False)
class AdvSet:
    """L∞ perturbations of a split: an int8 `direction` q in [−127, 127] (N×C×H×W) and where it comes from.

    The adversarial image is `clamp(x + eps · q / 127)`. For a one-step attack q is ±127 or 0 and the same for every
    eps, so this is exact. Any other attack fixes `eps`, and q is rounded to 1/127 of it, inside the ball.
    """

    direction: Tensor
    provenance: dict[str, Any]

    def images(self, x: Tensor, indices: Tensor, eps: float | Tensor) -> Tensor:
        """Adversarial versions of `x` (float B×C×H×W in [0, 1], rows `indices` of the split) at `eps` (or B of it)."""
        self.check_eps(eps)
        return perturb(x, self.direction[indices].to(x.device), eps)

    def check_eps(self, eps: float | Sequence[float] | Tensor) -> None:
        """Raise `InputError` unless there is a version of these examples at every such eps."""
        fixed = self.provenance["eps"]
        if fixed is not None and (torch.as_tensor(eps) != torch.as_tensor(fixed)).any():
            raise InputError(f"these examples were crafted at eps {fixed:g}: they have no version at eps {eps}")

    @property
    def zero_fraction(self) -> float:
        """Share of images whose gradient was 0 everywhere: not attacked at all, so a sign of masked gradients."""
        return float((self.direction.flatten(1) == 0).all(dim=1).float().mean())

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
    split: Dataset,
    threat: Threat,
    *,
    batch_size: int = 256,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> AdvSet:
    """Attack every image of `split` on `model` (float images in [0, 1] → logits), L∞ only.

    Raises `InputError` for another norm.
    """
    if threat.norm != "linf":
        raise InputError(f"an AdvSet stores L∞ directions: craft with norm linf, not {threat.norm}")
    one_step = isinstance(attack, OneStep)
    device = device_of(model)
    direction = torch.empty(split.images.shape, dtype=torch.int8)
    for start in range(0, len(split), batch_size):
        rows = slice(start, start + batch_size)
        x, y = to_float(split.images[rows].to(device)), split.labels[rows].to(device)
        g = generator(seed, "craft", start, device=device)
        if isinstance(attack, OneStep):
            unit = attack.direction(model, x, y, threat.norm, generator=g)
        else:
            unit = (attack(model, x, y, threat, generator=g) - x) / max(threat.eps, 1e-12)
        direction[rows] = (unit * SCALE).round().clamp(-SCALE, SCALE).to("cpu", torch.int8)
        if progress:
            progress(min(start + batch_size, len(split)), len(split))
    name, options = type(attack).__name__, asdict(attack)  # type: ignore[call-overload]
    return AdvSet(
        direction,
        {"attack": name, "options": options, "norm": threat.norm, "eps": None if one_step else threat.eps}
        | {"split": split.digest, "seed": seed},
    )
