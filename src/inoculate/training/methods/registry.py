"""The training methods by name, as the command line and study files know them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torch import nn

from inoculate.core.errors import InputError, suggest
from inoculate.core.threat import Threat
from inoculate.training.methods.adversarial import MART, PGDAT, TRADES, Ensemble, Fast, Hardening
from inoculate.training.methods.base import Method
from inoculate.training.methods.distillation import ARD, RSLAD
from inoculate.training.methods.free import Free, FreeTraining
from inoculate.training.methods.live_surrogate import LiveSurrogate, LiveTraining
from inoculate.training.methods.names import NEEDS_NETWORK, NEEDS_SURROGATES, NEEDS_TEACHER
from inoculate.training.methods.options import Extras
from inoculate.training.methods.staged import FastThenPGD, StagedTraining
from inoculate.training.trainer import Recipe

METHODS: dict[str, Any] = {
    "pgd_at": PGDAT(),
    "fast": Fast(),
    "fast_then_pgd": FastThenPGD(),
    "free": Free(),
    "trades": TRADES(),
    "mart": MART(),
    "ensemble": Ensemble(),
    "ard": ARD(),
    "rslad": RSLAD(),
    "live_surrogate": LiveSurrogate(),
}
WITHOUT_HARD_LABELS = ("mart", "ard", "rslad")


@dataclass(frozen=True)
class Choice:
    """A method by name, its options, and what is added to it."""

    name: str
    defence: Any
    extras: Extras

    @property
    def passes(self) -> float:
        """Forward-backward passes over its batch that one update costs, weight perturbation included."""
        return float(self.defence.passes + (self.defence.loss_passes if self.extras.awp else 0))

    @property
    def guarded(self) -> bool:
        """Whether the training examples are crafted on the network itself, so that `guards` can read their accuracy."""
        return self.name != "ensemble" and getattr(self.defence, "own_steps", 1) > 0

    @property
    def spec(self) -> dict[str, Any]:
        """All options as JSON values; what is left to the recipe is absent."""
        extras = {name: value for name, value in asdict(self.extras).items() if value is not None}
        return {"method": self.name, **asdict(self.defence), **extras}

    def adapt(self, recipe: Recipe) -> Recipe:
        """The recipe with what the method asks of the loop around it."""
        decay = recipe.weight_decay if self.extras.weight_decay is None else self.extras.weight_decay
        return replace(
            recipe, average=self.extras.average, warmup=self.extras.warmup, guard=self.guarded, weight_decay=decay
        )

    def begin(self, threat: Threat, helpers: tuple[nn.Module, ...] = ()) -> Method:
        """The method ready to train. `helpers` are networks it needs: surrogates, a teacher, or one to train along.

        Raises `InputError` if they are missing.
        """
        if not helpers and self.name in NEEDS_TEACHER:
            raise InputError(f"method '{self.name}' needs a robust teacher: give its folder with --teacher")
        if not helpers and (self.name in NEEDS_SURROGATES or self.name in NEEDS_NETWORK):
            raise InputError(f"method '{self.name}' needs another network: give one with --surrogate")
        if isinstance(self.defence, Free):
            return FreeTraining(self.defence, threat, self.extras)
        if isinstance(self.defence, LiveSurrogate):
            return LiveTraining(self.defence, threat, helpers[0], self.extras)
        if isinstance(self.defence, FastThenPGD):
            return StagedTraining(self.defence, threat, self.extras)
        return Hardening(self.defence, threat, helpers, self.extras)


def option_names(name: str) -> tuple[str, ...]:
    """What may be changed of the method of this registry name: its own options and those of `Extras`."""
    return tuple(sorted({field.name for field in (*fields(METHODS[name]), *fields(Extras))}))


def method_named(name: str, **options: Any) -> Choice:
    """The method of this registry name, with some options changed; those of `Extras` fit any method.

    Raises `InputError` for an unknown name, option or value, naming the nearest known one.
    """
    if name not in METHODS:
        raise InputError(f"method '{name}' is unknown: {suggest(name, tuple(METHODS))}")
    own, added = {field.name for field in fields(METHODS[name])}, {field.name for field in fields(Extras)}
    for option in options:
        if option not in own | added:
            raise InputError(f"method '{name}' has no option '{option}': {suggest(option, option_names(name))}")
    extras = Extras(**{key: value for key, value in options.items() if key in added - own})
    if extras.smoothing and name in WITHOUT_HARD_LABELS:
        raise InputError(f"method '{name}' has no plain cross-entropy to smooth: leave smoothing out")
    return Choice(name, replace(METHODS[name], **{k: v for k, v in options.items() if k in own}), extras)
