"""The verdict of a model on images: which it gets right, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inoculate.attacks.losses import margin
from inoculate.core.errors import InputError, one_line
from inoculate.core.deadline import OutOfTimeError
from inoculate.core.modes import device_of, dtype_for
from inoculate.core.pixels import to_float
from inoculate.core.row import Row
from inoculate.core.threat import Threat, distance
from inoculate.data.dataset import Dataset
from inoculate.models.acceleration.hardware import memory_format_for


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of each image (N): the class it is taken for, the margin by which, how far it was moved, by what.

    `margin` is the best wrong logit minus the true one: positive where misclassified. `distance` is in the threat's
    norm; 0 where the image was not attacked. `broken_by` is a position in `names`, −1 where the image stands.
    """

    predicted: Tensor
    margin: Tensor
    distance: Tensor
    broken_by: Tensor
    names: tuple[str, ...] = ()

    @classmethod
    def empty(cls, n: int, names: Iterable[str] = ()) -> Outcome:
        return cls(
            torch.full((n,), -1), torch.full((n,), torch.nan), torch.zeros(n), torch.full((n,), -1), tuple(names)
        )


@dataclass(frozen=True, eq=False)
class Verdict:
    """Which images (N, bool) a model got right at one eps, and the seconds it took to find out.

    `known` (N, bool) are the images that count, because all were seen to the end; None for every image. One that is
    not known is `right` as long as nothing broke it.
    """

    eps: float
    right: Tensor
    seconds: float
    outcome: Outcome | None = None
    known: Tensor | None = None

    def row(self, **labels: Any) -> Row:
        """The verdict as a row over the known images; `labels` are the row's remaining fields."""
        right = self.right if self.known is None else self.right[self.known]
        return Row.measured(correct=int(right.sum()), n=len(right), seconds=self.seconds, eps=self.eps, **labels)


def loader(model: nn.Module, split: Dataset) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """From row numbers to float images and labels, where the model is and in the layout that it takes fastest."""
    device, dtype = device_of(model), dtype_for(model)
    layout = memory_format_for(model, to_float(split.images[:1].to(device)).to(dtype))

    def load(rows: Tensor) -> tuple[Tensor, Tensor]:
        x = to_float(split.images[rows].to(device)).to(dtype).contiguous(memory_format=layout)
        return x, split.labels[rows].to(device)

    return load


def judge_batch(
    model: nn.Module, x: Tensor, y: Tensor, classes: int, outcome: Outcome | None = None, rows: Tensor | None = None
) -> Tensor:
    """Which images of a batch the model gets right (B, bool, on the CPU); an output that is not finite is an error.

    With an `outcome`, predictions and margins are noted in its `rows`. The caller holds `borrowed(model)`.
    """
    try:
        with torch.no_grad():
            logits = model(x)
    except (InputError, OutOfTimeError):
        raise
    except torch.cuda.OutOfMemoryError as error:
        raise InputError(f"no memory for {len(x)} images at once: lower --batch-size") from error
    except Exception as error:  # whatever the user's code raises
        raise InputError(
            f"the model does not take {'×'.join(map(str, x.shape[1:]))} images ({one_line(error)}): "
            "load the data at the model's image size and channels"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] != classes:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        cure = " (or declare what it gives with --outputs)" if classes == 2 else ""
        raise InputError(
            f"the model gives outputs of shape {shape}, it must give one logit per class: B×{classes}{cure}"
        )
    predicted = logits.argmax(dim=1)
    if outcome is not None and rows is not None:
        outcome.predicted[rows] = predicted.cpu()
        if classes > 1:
            outcome.margin[rows] = margin(logits, y).float().cpu()
    right: Tensor = (predicted == y) & logits.isfinite().all(dim=1)
    return right.cpu()


def check_allowed(x_adv: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """Distances (B); raises `InputError` if an attack returned images that the threat model does not allow."""
    moved = distance(x_adv, x, threat.norm)
    far = float(moved.max())
    inside = threat.low - 1e-6 <= x_adv.min() and x_adv.max() <= threat.high + 1e-6  # false for NaN too
    if not (inside and far <= threat.eps * (1 + 1e-4) + 1e-6):
        raise InputError(
            f"the attack left the ball or the pixel range ({threat.norm} distance {far:.4g} at eps {threat.eps:g}): "
            "its numbers would be worthless, mend the attack"
        )
    return moved
