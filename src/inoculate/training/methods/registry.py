"""The training methods by name, as the command line and study files know them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from torch import nn

from inoculate.core.errors import InputError, suggest
from inoculate.core.options import require_text
from inoculate.core.threat import Threat
from inoculate.training.methods.adversarial import AdversarialMethod, Defence
from inoculate.training.methods.ard import ARD
from inoculate.training.methods.base import Method, standard
from inoculate.training.methods.crown_ibp import CROWNIBP
from inoculate.training.methods.ensemble import EnsembleAT
from inoculate.training.methods.fgsm_pgi import FGSMPGI
from inoculate.training.methods.fgsm_rs import FGSMRS
from inoculate.training.methods.fgsm_rs_then_pgd import FGSMRSThenPGD
from inoculate.training.methods.free import FreeAT
from inoculate.training.methods.gaussian import Gaussian
from inoculate.training.methods.ibp import IBP
from inoculate.training.methods.live_surrogate import LiveSurrogate
from inoculate.training.methods.mart import MART
from inoculate.training.methods.mtl_ibp import MTLIBP
from inoculate.training.methods.n_fgsm import NFGSM
from inoculate.training.methods.names import CERTIFIED, NEEDS_NETWORK, NEEDS_SURROGATES, NEEDS_TEACHER, STANDARD
from inoculate.training.methods.options import CommonOptions
from inoculate.training.methods.pgd_at import PGDAT
from inoculate.training.methods.rrm import RRM
from inoculate.training.methods.rslad import RSLAD
from inoculate.training.methods.sabr import SABR
from inoculate.training.methods.trades import TRADES
from inoculate.training.recipe import Recipe


@runtime_checkable
class UpdateFactory(Protocol):
    """The options of a method whose update is more than that of a `Defence`: it makes its own `Method`."""

    @property
    def loss_passes(self) -> float: ...

    @property
    def passes(self) -> float: ...

    def begin(self, threat: Threat, helpers: tuple[nn.Module, ...], common: CommonOptions) -> Method: ...


@dataclass(frozen=True)
class Standard:
    """Cross-entropy on clean images."""

    passes: ClassVar[int] = 1
    loss_passes: ClassVar[int] = 1

    def begin(self, threat: Threat, helpers: tuple[nn.Module, ...], common: CommonOptions) -> Method:
        return standard


METHODS: dict[str, Any] = {
    STANDARD: Standard(),
    "pgd_at": PGDAT(),
    "fgsm_rs": FGSMRS(),
    "n_fgsm": NFGSM(),
    "fgsm_pgi": FGSMPGI(),
    "fgsm_rs_then_pgd": FGSMRSThenPGD(),
    "free": FreeAT(),
    "trades": TRADES(),
    "mart": MART(),
    "ensemble": EnsembleAT(),
    "ard": ARD(),
    "rslad": RSLAD(),
    "rrm": RRM(),
    "live_surrogate": LiveSurrogate(),
    "gaussian": Gaussian(),
    "ibp": IBP(),
    "crown_ibp": CROWNIBP(),
    "mtl_ibp": MTLIBP(),
    "sabr": SABR(),
}
WITHOUT_HARD_LABELS = ("mart", "ard", "rslad")


@dataclass(frozen=True)
class MethodSpec:
    """A training method with its options: `defence` holds its own, `common` those that any adversarial method takes."""

    name: str
    defence: Defence | UpdateFactory
    common: CommonOptions = field(default_factory=CommonOptions)

    @property
    def is_adversarial(self) -> bool:
        """Whether it trains against a threat."""
        return not isinstance(self.defence, Standard)

    @property
    def passes(self) -> float:
        """Forward-backward passes over its batch that one update costs, weight perturbation included."""
        return float(self.defence.passes + (self.defence.loss_passes if self.common.awp else 0))

    @property
    def is_certified(self) -> bool:
        """Whether it trains what interval bounds prove, so that certified accuracy chooses the round that is kept."""
        return self.name in CERTIFIED

    @property
    def is_monitored(self) -> bool:
        """Whether examples are crafted on the trained network, so that monitors can interpret the accuracy on them."""
        if isinstance(self.defence, LiveSurrogate):
            return self.defence.own_steps > 0
        return (
            self.is_adversarial and not self.is_certified and not isinstance(self.defence, EnsembleAT | Gaussian | RRM)
        )

    @property
    def spec(self) -> dict[str, Any]:
        """All options as JSON values; what is left to the recipe is absent."""
        common = {name: value for name, value in asdict(self.common).items() if value is not None}
        if is_dataclass(self.defence) and not isinstance(self.defence, type):
            return {"method": self.name, **asdict(self.defence), **common}
        kind = type(self.defence)
        options = {name: value for name, value in vars(self.defence).items() if isinstance(value, str | int | float)}
        return {"method": self.name, "defence": f"{kind.__module__}.{kind.__qualname__}", **options, **common}

    def adapt(self, recipe: Recipe) -> Recipe:
        """The recipe with the settings that the method asks for."""
        decay = recipe.weight_decay if self.common.weight_decay is None else self.common.weight_decay
        return replace(
            recipe,
            average=self.common.average,
            warmup=self.common.warmup,
            stop_on_failure=self.is_monitored,
            certify=self.is_certified,
            weight_decay=decay,
        )

    def begin(self, threat: Threat, helpers: tuple[nn.Module, ...] = ()) -> Method:
        """The update, ready to train against `threat`.

        helpers: the other networks that it needs: surrogates, a teacher, or one to train alongside. Raises `InputError`
        if they are missing.
        """
        if not helpers and self.name in NEEDS_TEACHER:
            raise InputError(f"method '{self.name}' needs a robust teacher: give the folder of one as teacher")
        if not helpers and self.name in NEEDS_SURROGATES + NEEDS_NETWORK:
            raise InputError(f"method '{self.name}' needs another network: give one as surrogate")
        if isinstance(self.defence, UpdateFactory):
            return self.defence.begin(threat, helpers, self.common)
        return AdversarialMethod(self.defence, threat, helpers, self.common)


MethodLike: TypeAlias = str | MethodSpec | Defence | UpdateFactory


def get_method(name: str, **options: Any) -> MethodSpec:
    """The training method of a name, such as `trades`.

    Args:
        name: of the table of methods.
        options: fields of the method to change, such as `steps=3`; `awp`, `warmup`, `smoothing`, `average` and
            `weight_decay` fit any adversarial method.

    Raises `InputError` for an unknown name, option or value; it names the nearest known one.
    """
    require_text(method=name)
    if name not in METHODS:
        raise InputError(f"method '{name}' is unknown: {suggest(name, tuple(METHODS))}")
    if name == STANDARD and options:
        raise InputError(f"method {STANDARD} has no options: leave them out, or choose another method")
    own, added = {each.name for each in fields(METHODS[name])}, {each.name for each in fields(CommonOptions)}
    for option in options:
        if option not in own | added:
            raise InputError(f"method '{name}' has no option '{option}': {suggest(option, option_names(name))}")
    common = CommonOptions(**{key: value for key, value in options.items() if key in added - own})
    if common.smoothing and name in WITHOUT_HARD_LABELS:
        raise InputError(f"method '{name}' has no plain cross-entropy to smooth: leave smoothing out")
    if common.warmup and name in CERTIFIED:
        raise InputError(f"method '{name}' has its own schedule of eps: give start and ramp, and leave warmup out")
    if common.awp and name == "fgsm_pgi":
        raise InputError("fgsm_pgi needs its first pass again after the weights have moved: leave awp out")
    return MethodSpec(name, replace(METHODS[name], **{k: v for k, v in options.items() if k in own}), common)


def as_method(method: MethodLike, **options: Any) -> MethodSpec:
    """`method` as a `MethodSpec`: a name, the result of `get_method`, a method object such as `PGDAT(steps=3)`, or any
    `Defence`.

    options: of a named method. Raises `InputError` for anything else.
    """
    if isinstance(method, str):
        return get_method(method, **options)
    if options:
        raise InputError("options are for a method that is given by name: put them into the method object")
    if isinstance(method, MethodSpec):
        return method
    if isinstance(method, type):
        raise InputError(f"method is the class {method.__name__}: give an instance, {method.__name__}()")
    if isinstance(method, Defence | UpdateFactory):
        known = {type(each): name for name, each in METHODS.items()}
        return MethodSpec(known.get(type(method), type(method).__name__), method)
    raise InputError(
        f"method is {type(method).__name__}: give a method name, or an object with examples, loss, passes and "
        "loss_passes (inoculate.Defence)"
    )


def option_names(name: str) -> tuple[str, ...]:
    """The options of the method of this name: its own and those of `CommonOptions`."""
    return tuple(sorted({each.name for each in (*fields(METHODS[name]), *fields(CommonOptions))}))
