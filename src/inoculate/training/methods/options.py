"""What any method may have added to it, and the checks of options; free of torch, as study files are read with it."""

from __future__ import annotations

from dataclasses import dataclass

from inoculate.core.errors import InputError


@dataclass(frozen=True)
class CommonOptions:
    """Additions to any adversarial method.

    `awp`: weights are perturbed by this part of their norm (Wu et al. 2020; 0.005 to 0.01). `warmup`: eps grows evenly
    over this share of the training. `smoothing`: label smoothing of the cross-entropy. `average`: decay of the weights'
    running mean, which is then what is validated and kept (0.999 and less for short trainings). `weight_decay`: that of
    the optimiser, in place of the recipe's.
    """

    awp: float = 0.0
    warmup: float = 0.0
    smoothing: float = 0.0
    average: float = 0.0
    weight_decay: float | None = None

    def __post_init__(self) -> None:
        check_method(awp=self.awp, warmup=self.warmup, smoothing=self.smoothing, average=self.average)
        if self.weight_decay is not None:
            check_method(weight_decay=self.weight_decay)

    def strength(self, share: float) -> float:
        """The part of eps that is trained against when `share` of the training is done."""
        return strength(share, self.warmup)


def strength(share: float, warmup: float) -> float:
    """The part of eps when `share` of the training is done and eps grows over its first `warmup`; both in [0, 1]."""
    return min(1.0, share / warmup) if warmup else 1.0


def check_method(**options: object) -> None:
    """Raise `InputError` for an option of a training method that makes no sense."""
    for name, value in options.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name in ("steps", "replays", "own_steps", "every") and not (isinstance(value, int) and value >= 1):
            raise InputError(f"{name} {value!r} makes no training: give a whole number of at least 1")
        if name in ("random_start", "own") and not isinstance(value, bool):
            raise InputError(f"{name} {value!r} is no truth value: give true or false")
        if name in ("step", "beta", "temperature") and not (number and 0 < float(value) < float("inf")):  # type: ignore[arg-type]
            raise InputError(f"{name} {value!r} is not usable: give a number above 0")
        if name in ("warmup", "alpha", "head_start") and not (number and 0 <= float(value) <= 1):  # type: ignore[arg-type]
            raise InputError(f"{name} {value!r} is not a share: give a number from 0 to 1")
        if name == "weight_decay" and not (number and 0 <= float(value) < float("inf")):  # type: ignore[arg-type]
            raise InputError(f"{name} {value!r} is not usable: give a number of at least 0")
        if name in ("awp", "smoothing", "average") and not (number and 0 <= float(value) < 1):  # type: ignore[arg-type]
            raise InputError(f"{name} {value!r} is out of range: give a number from 0 to below 1")
