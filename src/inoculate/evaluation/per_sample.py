"""What an evaluation finds for each image: the result at one eps."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from inoculate.core.errors import InputError
from inoculate.core.row import Row
from inoculate.core.stats import proportion_upper
from inoculate.core.threat import Threat, distance, keep_outside


@dataclass(frozen=True, eq=False)
class PerSampleResult:
    """What a classifier makes of each image (N) at one eps, clean (eps 0) or attacked. All arrays are on the CPU.

    Fields:
        right: bool, classified correctly.
        predicted: int64, the class, −1 where unknown.
        margin: float32, the best wrong logit minus the true one: positive where misclassified, NaN where unknown.
        distance: float32, from the clean image in the threat's norm, 0 where there was no attack.
        broken_by: int64, the attack that caused the misclassification as a position in `names`, else −1.
        finished: bool, False where time ran out. Such an image does not count, and is `right` as long as nothing broke
            it.
        terminated: bool, stands, and early termination may have ended runs on it that nothing has continued.
        audited: bool, drawn at random among those that stood so, and attacked again with the full budget.
        target: int64, of a targeted attack the class that it drove the image to; −1 where the image belongs to that
            class, or was not attacked.
        images: N×C×H×W floats in [0, 1], if they were kept.
        queries: of the attack on all images together, where they were counted.
    """

    eps: float
    seconds: float
    right: Tensor
    predicted: Tensor
    margin: Tensor
    distance: Tensor
    broken_by: Tensor
    finished: Tensor
    terminated: Tensor
    audited: Tensor
    names: tuple[str, ...] = ()
    images: Tensor | None = None
    queries: int | None = None
    target: Tensor | None = None

    @classmethod
    def empty(
        cls, n: int, eps: float = 0.0, names: Iterable[str] = (), images: Tensor | None = None
    ) -> PerSampleResult:
        """Nothing is known yet of `n` images; `images` are the clean ones, copied."""
        return cls(
            eps,
            seconds=0.0,
            right=torch.zeros(n, dtype=torch.bool),
            predicted=torch.full((n,), -1),
            margin=torch.full((n,), torch.nan),
            distance=torch.zeros(n),
            broken_by=torch.full((n,), -1),
            finished=torch.ones(n, dtype=torch.bool),
            terminated=torch.zeros(n, dtype=torch.bool),
            audited=torch.zeros(n, dtype=torch.bool),
            names=tuple(names),
            images=None if images is None else images.clone(),
        )

    def __len__(self) -> int:
        return len(self.right)

    @property
    def bounds(self) -> tuple[float, float]:
        """(lowest, highest) possible accuracy over all images, given that some were not finished."""
        return int((self.right & self.finished).sum()) / len(self), int(self.right.sum()) / len(self)

    @property
    def succeeded(self) -> Tensor:
        """Which images (N, bool) the attack led where it should: to the target, if there is one, else to an error."""
        return ~self.right if self.target is None else torch.where(self.target < 0, ~self.right, self.reached)

    @property
    def reached(self) -> Tensor:
        """Which images (N, bool) are taken for the target that they were driven to."""
        if self.target is None:
            return torch.zeros_like(self.right)
        found: Tensor = (self.target >= 0) & (self.predicted == self.target) & ~self.right & self.finished
        return found

    def row(self, **labels: Any) -> Row:
        """The accuracy over the finished images; `labels` are the row's remaining fields."""
        right = self.right[self.finished]
        attacked = int(right.sum()) + int((self.broken_by >= 0).sum())
        queries = None if self.queries is None else round(self.queries / max(attacked, 1), 1)
        counts = {"correct": int(right.sum()), "n": len(right)}
        if self.target is not None:
            labels |= {"tried": int(((self.target >= 0) & self.finished).sum()), "reached": int(self.reached.sum())}
        return Row.measured(
            **counts, seconds=self.seconds, eps=self.eps, queries=queries, **self.audit_fields, **labels
        )

    @property
    def audit_fields(self) -> dict[str, Any]:
        """The row's fields about early termination (`AUDIT_FIELDS`); none where no run can have been ended early."""
        drawn, left = self.audited & self.finished, int((self.terminated & self.finished).sum())
        n, broken = int(drawn.sum()), int((drawn & ~self.right).sum())
        if not n + left:
            return {}
        hidden = most_hidden(broken, n, left) / int(self.finished.sum())
        return {"audited": n, "audited_broken": broken, "hidden": hidden}

    def row_at(self, threat: Threat, **labels: Any) -> Row:
        """The row of a result at a threat; `labels` are the fields that the threat does not tell."""
        mask = "" if threat.mask is None else threat.mask.name
        return self.row(norm=threat.norm, mask=mask, **labels)

    def copy(self, **changes: Any) -> PerSampleResult:
        """The same with tensors of its own, and some fields changed."""
        tensors = {name: value.clone() for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors | changes)

    def take(self, other: PerSampleResult, rows: Tensor) -> None:
        """Overwrite prediction, margin, distance and image of these rows (N, bool) by those of `other`, in place."""
        for mine, theirs in (
            (self.predicted, other.predicted),
            (self.margin, other.margin),
            (self.distance, other.distance),
            (self.images, other.images),
        ):
            if mine is not None and theirs is not None:
                mine[rows] = theirs[rows]


def most_hidden(broken: int, audited: int, left: int) -> int:
    """The most of the images `left` that would be broken as well, where `broken` of the `audited` were (95 %).

    The audited ones are a random sample of both together, without replacement, so the binomial bound is on the safe
    side.
    """
    most = math.floor(proportion_upper(broken, audited) * (audited + left) + 1e-9)
    return min(max(most - broken, 0), left)


def distance_within(x_adv: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """Distances (B) of adversarial images; raises `InputError` for one outside the threat's ball, range or mask.

    Raises `InputError` too for what is not a tensor of the images' shape.
    """
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
        got = f"a tensor of shape {tuple(x_adv.shape)}" if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise InputError(f"the attack returned {got} for images of shape {tuple(x.shape)}: return the changed images")
    moved = distance(x_adv, x, threat.norm)
    far, low, high = float(moved.max()), float(x_adv.min()), float(x_adv.max())
    inside = threat.low - 1e-6 <= low and high <= threat.high + 1e-6  # false for NaN too
    if not (inside and far <= threat.eps * (1 + 1e-4) + 1e-6):
        raise InputError(
            f"the attack returned an image outside the threat model ({threat.norm} distance {far:.4g} at eps "
            f"{threat.eps:g}, pixels in [{low:.4g}, {high:.4g}]): fix the attack"
        )
    if threat.mask is not None and float((x_adv - keep_outside(x_adv, x, threat)).abs().max()) > 1e-6:
        raise InputError(
            "the attack changed pixels outside the threat's mask: multiply its steps with threat.changeable(x)"
        )
    return moved
