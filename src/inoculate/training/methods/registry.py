"""The training methods by name, as the command line and study files know them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torch import nn

from inoculate.core.errors import InputError, suggest
from inoculate.core.threat import Threat
from inoculate.training.methods.adversarial import FGSMRS, MART, PGDAT, TRADES, AdversarialMethod, Ensemble
from inoculate.training.methods.base import Method
from inoculate.training.methods.distillation import ARD, RSLAD
from inoculate.training.methods.free import Free, FreeMethod
from inoculate.training.methods.live_surrogate import LiveSurrogate, LiveSurrogateMethod
from inoculate.training.methods.names import NEEDS_NETWORK, NEEDS_SURROGATES, NEEDS_TEACHER
from inoculate.training.methods.options import CommonOptions
from inoculate.training.methods.staged import FGSMRSThenPGD, StagedMethod
from inoculate.training.trainer import Recipe

METHODS: dict[str, Any] = {
    "pgd_at": PGDAT(),
    "fgsm_rs": FGSMRS(),
    "fgsm_rs_then_pgd": FGSMRSThenPGD(),
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
class MethodSpec:
    """A method by name, its options, and what is added to it."""

    name: str
    defence: Any
    common: CommonOptions

    @property
    def passes(self) -> float:
        """Forward-backward passes over its batch that one update costs, weight perturbation included."""
        return float(self.defence.passes + (self.defence.loss_passes if self.common.awp else 0))

    @property
    def is_monitored(self) -> bool:
        """Whether the training examples are crafted on the network itself, so that `guards` can read their accuracy."""
        return self.name != "ensemble" and getattr(self.defence, "own_steps", 1) > 0

    @property
    def spec(self) -> dict[str, Any]:
        """All options as JSON values; what is left to the recipe is absent."""
        common = {name: value for name, value in asdict(self.common).items() if value is not None}
        return {"method": self.name, **asdict(self.defence), **common}

    def adapt(self, recipe: Recipe) -> Recipe:
        """The recipe with what the method asks of the loop around it."""
        decay = recipe.weight_decay if self.common.weight_decay is None else self.common.weight_decay
        return replace(
            recipe,
            average=self.common.average,
            warmup=self.common.warmup,
            stop_on_failure=self.is_monitored,
            weight_decay=decay,
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
            return FreeMethod(self.defence, threat, self.common)
        if isinstance(self.defence, LiveSurrogate):
            return LiveSurrogateMethod(self.defence, threat, helpers[0], self.common)
        if isinstance(self.defence, FGSMRSThenPGD):
            return StagedMethod(self.defence, threat, self.common)
        return AdversarialMethod(self.defence, threat, helpers, self.common)


def option_names(name: str) -> tuple[str, ...]:
    """What may be changed of the method of this registry name: its own options and those of `Extras`."""
    return tuple(sorted({field.name for field in (*fields(METHODS[name]), *fields(CommonOptions))}))


def get_method(name: str, **options: Any) -> MethodSpec:
    """The method of this registry name, with some options changed; those of `Extras` fit any method.

    Raises `InputError` for an unknown name, option or value, naming the nearest known one.
    """
    if name not in METHODS:
        raise InputError(f"method '{name}' is unknown: {suggest(name, tuple(METHODS))}")
    own, added = {field.name for field in fields(METHODS[name])}, {field.name for field in fields(CommonOptions)}
    for option in options:
        if option not in own | added:
            raise InputError(f"method '{name}' has no option '{option}': {suggest(option, option_names(name))}")
    common = CommonOptions(**{key: value for key, value in options.items() if key in added - own})
    if common.smoothing and name in WITHOUT_HARD_LABELS:
        raise InputError(f"method '{name}' has no plain cross-entropy to smooth: leave smoothing out")
    return MethodSpec(name, replace(METHODS[name], **{k: v for k, v in options.items() if k in own}), common)
