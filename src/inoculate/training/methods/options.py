"""Options that every adversarial method takes. Free of torch, because study files are read with it."""

from __future__ import annotations

from dataclasses import dataclass

from inoculate.core.errors import InputError
from inoculate.core.options import require_fraction, require_nonnegative


@dataclass(frozen=True)
class CommonOptions:
    """Additions to any adversarial method.

    Options:
        awp: weights are perturbed by this fraction of their norm (Wu et al. 2020; 0.005 to 0.01).
        warmup: the fraction of the training over which eps grows linearly.
        smoothing: label smoothing of the cross-entropy.
        average: decay of the weights' exponential moving average, which is then validated and kept (0.999 and less for
            short trainings).
        weight_decay: that of the optimiser; None for the recipe's.
    """

    awp: float = 0.0
    warmup: float = 0.0
    smoothing: float = 0.0
    average: float = 0.0
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        require_fraction(warmup=self.warmup)
        _require_below_one(awp=self.awp, smoothing=self.smoothing, average=self.average)
        if self.weight_decay is not None:
            require_nonnegative(weight_decay=self.weight_decay)

    def eps_scale(self, progress: float) -> float:
        """The fraction of eps that is trained against at this progress (0 to 1)."""
        return eps_scale(progress, self.warmup)


def eps_scale(progress: float, warmup: float) -> float:
    """The fraction of eps at this progress, where eps grows over the first `warmup` of a training; all in [0, 1]."""
    return min(1.0, progress / warmup) if warmup else 1.0


def _require_below_one(**values: float) -> None:
    require_fraction(**values)
    for name, value in values.items():
        if value == 1:
            raise InputError(f"{name} {value!r} is not usable: give a number from 0 to below 1")
