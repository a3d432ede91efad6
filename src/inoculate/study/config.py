"""The study file: a YAML schema whose errors name the line and the nearest valid key."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from inoculate.attribution.explanation import Amounts
from inoculate.core.errors import suggest
from inoculate.core.threat import Norm, Threat, parse_eps
from inoculate.training.methods.names import ARMS, METHOD_ARMS, NEEDS_SURROGATES, NEEDS_TEACHER

MOST_VULNERABLE = "most_vulnerable"
_NARROWING = ("eps", "datasets", "models", "arms")


def _number(value: Any) -> Any:
    return parse_eps(value) if isinstance(value, str) else value


Eps = Annotated[float, BeforeValidator(_number)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetConfig(_Part):
    """One dataset: where it comes from, what its images look like to the networks, and its own keys of `training`."""

    source: str | None = None  # a data SPEC; the entry's own name if left out
    image_size: int = Field(32, ge=4, le=1024)
    channels: Literal[1, 3] | None = None
    augment: str | None = None  # a policy; by default the dataset's own
    training: dict[str, Any] = Field(default_factory=dict)  # in place of the study's


class Partition(_Part):
    """Shares of the pooled images; `official_test` keeps the source's own test split as the test part."""

    train: float = Field(0.7, gt=0, lt=1)
    val: float = Field(0.1, gt=0, lt=1)
    test: float = Field(0.2, gt=0, lt=1)
    official_test: bool = False

    @model_validator(mode="after")
    def _sums_to_one(self) -> Partition:
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError("train, val and test must sum to 1")
        return self


class Training(_Part):
    """How every network is trained.

    The standard arm makes `epochs` passes over the training part, at most `max_updates` updates. With `budget: updates`
    every other arm makes exactly as many updates; with `budget: epochs` as many passes over its own, larger set; with
    `budget: passes` as many forward-backward passes as `passes` times the standard arm's, which for a method whose
    updates cost more means fewer updates. `rounds`: validations per training (default: one per epoch), each on
    `val_images` of the validation part (default: all). `compile`: networks are compiled before they are trained.
    """

    epochs: int = Field(2, ge=1)
    max_updates: int | None = Field(None, ge=1)
    budget: Literal["updates", "epochs", "passes"] = "updates"
    passes: float = Field(1.0, gt=0)
    rounds: int | None = Field(None, ge=1)
    val_images: int | None = Field(None, ge=1)
    batch_size: int = Field(64, ge=2)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    patience: int | None = Field(None, ge=1)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: bool = False
    balance: bool = True


class AttackChoice(_Part):
    """An attack by registry name, its options, the first so many test images it sees, and where it is made.

    `eps`, `datasets`, `models` and `arms` narrow the study's own: an expensive attack need not be made everywhere.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    attack: str
    images: int | None = Field(None, ge=1)
    eps: tuple[Eps, ...] | None = Field(None, min_length=1)
    datasets: tuple[str, ...] | None = Field(None, min_length=1)
    models: tuple[str, ...] | None = Field(None, min_length=1)
    arms: tuple[str, ...] | None = Field(None, min_length=1)

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    def covers(self, dataset: str, model: str, arm: str) -> bool:
        """Whether the attack is made on this network."""
        within = ((self.datasets, dataset), (self.models, model), (self.arms, arm))
        return all(allowed is None or name in allowed for allowed, name in within)


class Hardened(_Part):
    """An arm that is trained by a method: registry name, options, eps, length, and whose help it has."""

    model_config = ConfigDict(extra="allow", frozen=True)
    method: str
    eps: Eps | None = None  # the study's largest if left out
    length: float = Field(1.0, gt=0, le=1)  # the part of the updates that it would otherwise make
    teacher_arm: str = "pgd_at"  # of the surrogate network, for methods that distil
    surrogates: tuple[str, ...] | None = None  # networks for methods that craft on others; all of the study if left out
    surrogate_arm: str = "standard"  # of those networks

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Evaluation(_Part):
    """How accuracy is measured: the first `images` of the shuffled test part (all if left out)."""

    images: int | None = Field(None, ge=1)
    batch_size: int = Field(256, ge=1)
    precision: Literal["fast", "exact"] = "fast"

    def of(self, size: int) -> int:
        """How many of `size` images are measured."""
        return min(size, self.images or size)


class Explanations(_Part):
    """What is explained (see `inoculate.attribution.explanation.Amounts`): of every network, and of all arms but the controls."""

    images: int = Field(Amounts.images, ge=0)
    drift: int = Field(Amounts.drift, ge=1)
    fragility: int = Field(Amounts.fragility, ge=1)
    steps: int = Field(Amounts.steps, ge=2)
    search: int = Field(Amounts.search, ge=1)
    models: tuple[str, ...] | None = None
    arms: tuple[str, ...] | None = None

    @property
    def amounts(self) -> Amounts:
        return Amounts(**self.model_dump(exclude={"models", "arms"}))


class Study(_Part):
    """datasets × models × arms × attacks × eps × seeds."""

    name: str
    datasets: dict[str, DatasetConfig] = Field(min_length=1)
    models: tuple[str, ...] = Field(min_length=1)
    stem: Literal["imagenet", "small"] = "imagenet"
    pretrained: bool = False
    arms: tuple[str, ...] = ARMS
    methods: dict[str, Hardened] = Field(default_factory=dict)  # filled from `arms`: those that name a method
    surrogate: str = MOST_VULNERABLE
    norm: Norm = "linf"
    eps: tuple[Eps, ...] = Field(min_length=1)
    transfer: str = "fgsm"
    attacks: dict[str, AttackChoice] = Field(min_length=1)
    split: Partition = Field(default_factory=lambda: Partition.model_validate({}))
    training: Training = Field(default_factory=lambda: Training.model_validate({}))
    evaluation: Evaluation = Field(default_factory=lambda: Evaluation.model_validate({}))
    explanations: Explanations | None = Field(default_factory=lambda: Explanations.model_validate({}))
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    limit: int | None = Field(None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _arms_with_options(cls, value: Any) -> Any:
        """`arms` may be names, or a mapping from names to options; an entry's `method` is its name unless it says."""
        if not isinstance(value, dict) or "arms" not in value or value.get("methods"):
            return value
        arms = value["arms"]
        given = arms if isinstance(arms, dict) else dict.fromkeys(arms) if isinstance(arms, list | tuple) else {}
        methods = {
            arm: {"method": arm, **(options or {})}
            for arm, options in given.items()
            if arm not in ARMS and isinstance(options, dict | None) and (options or arm in METHOD_ARMS)
        }
        plain = [arm for arm in given if arm in ARMS and given[arm]]
        if plain:
            raise ValueError(f"arm '{plain[0]}' has no options: they are the study's own keys")
        return {**value, "arms": tuple(given), "methods": methods} if given else value

    def threat_for(self, arm: str) -> Threat:
        """What a method's arm is trained against: its own eps, or the study's largest."""
        eps = self.methods[arm].eps
        return Threat(self.norm, max(self.eps) if eps is None else eps)

    def training_for(self, dataset: str) -> Training:
        """How a dataset's networks are trained: the study's `training`, with the dataset's own keys in place."""
        own = self.datasets[dataset].training
        return Training.model_validate(self.training.model_dump() | own) if own else self.training

    def eps_for(self, choice: AttackChoice) -> tuple[float, ...]:
        """At which eps an attack is made."""
        return choice.eps or self.eps

    @field_validator("datasets", mode="before")
    @classmethod
    def _empty_datasets(cls, value: Any) -> Any:
        return {k: v or {} for k, v in value.items()} if isinstance(value, dict) else value

    @field_validator("explanations", mode="before")
    @classmethod
    def _switched(cls, value: Any) -> Any:
        return ({} if value else None) if isinstance(value, bool) else value

    @field_validator("attacks", mode="before")
    @classmethod
    def _named_attacks(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: {"attack": k, **(v or {})} if isinstance(v, dict | None) else v for k, v in value.items()}

    @model_validator(mode="after")
    def _hangs_together(self) -> Study:
        for arm in self.arms:
            _known(arm, (*ARMS, *METHOD_ARMS, *self.methods), "arm")
        if "standard" not in self.arms:
            raise ValueError("arms must hold 'standard': every other arm is read against it")
        if self.surrogate != MOST_VULNERABLE and self.surrogate not in self.models:
            _known(self.surrogate, (*self.models, MOST_VULNERABLE), "surrogate")
        if self.norm != "linf":
            raise ValueError("examples are stored as L∞ directions: norm must be linf in a study")
        for name, dataset in self.datasets.items():
            for key in dataset.training:
                _known(key, tuple(Training.model_fields), f"training key of {name}")
            try:
                self.training_for(name)
            except ValidationError as error:
                first = error.errors()[0]
                raise ValueError(f"training of {name}: {first['loc'][0]}: {first['msg']}") from None
        for choice in self.attacks.values():
            _check_attack(choice, self)
        for arm, hardened in self.methods.items():
            _check_method(arm, hardened, self)
        if self.explanations:
            for name in self.explanations.arms or ():
                _known(name, self.arms, "arm")
            for name in self.explanations.models or ():
                _known(name, self.models, "network")
        _known(self.transfer, tuple(self.attacks), "transfer attack")
        chosen = self.attacks[self.transfer]
        if any(getattr(chosen, key) for key in _NARROWING):
            raise ValueError(
                f"transfer attack '{self.transfer}' is made everywhere: take its {', '.join(_NARROWING)} away"
            )
        if not is_one_step(chosen):
            _check_several_steps(self.transfer, self)
        for name in ("datasets", "models", "arms", "eps", "seeds"):
            values = list(getattr(self, name))
            if len(set(values)) < len(values):
                raise ValueError(f"{name} holds the same value twice")
        for eps in self.eps:
            Threat(self.norm, eps)
        return self


def is_one_step(choice: AttackChoice) -> bool:
    """Whether one gradient serves every eps."""
    from inoculate.attacks.base import OneStep
    from inoculate.attacks.registry import ATTACKS

    return isinstance(ATTACKS.get(choice.attack), OneStep)


def _check_several_steps(name: str, study: Study) -> None:
    """Examples of several steps can be trained on where there is one eps; those that are replayed take one step."""
    from inoculate.attacks.base import MultiStep
    from inoculate.attacks.registry import ATTACKS

    # others may stop at the very boundary, where rounding undoes what they did
    if not isinstance(ATTACKS[study.attacks[name].attack], MultiStep):
        raise ValueError(f"transfer attack '{name}' does not use up its eps: use a one-step attack, bim, pgd or mifgsm")
    if len(study.eps) > 1:
        raise ValueError(
            f"transfer attack '{name}' takes several steps, so that its examples hold for one eps only: "
            "leave one, or use a one-step attack such as fgsm"
        )
    if not any(is_one_step(choice) for choice in study.attacks.values()):
        raise ValueError(f"transfer attack '{name}' is never replayed: add a one-step attack such as fgsm to attacks")


def _check_method(arm: str, hardened: Hardened, study: Study) -> None:
    from inoculate.training.methods.registry import get_method, option_names

    _known(hardened.method, METHOD_ARMS, "method")
    for option in hardened.options:
        _known(option, (*option_names(hardened.method), *Hardened.model_fields), f"key of arm {arm}")
    get_method(hardened.method, **hardened.options)  # its own checks of names and values
    study.threat_for(arm)  # its own check of eps
    earlier = study.arms[: study.arms.index(arm)]
    if hardened.method in NEEDS_SURROGATES:
        for name in hardened.surrogates or ():
            _known(name, study.models, f"surrogate of {arm}")
        _known(hardened.surrogate_arm, earlier, f"surrogate_arm of {arm} (an arm before it)")
    if hardened.method in NEEDS_TEACHER:
        _known(hardened.teacher_arm, earlier, f"teacher_arm of {arm} (an arm before it)")
        if study.surrogate == MOST_VULNERABLE:
            raise ValueError(f"arm '{arm}' learns from the surrogate: name it with surrogate")
    if hardened.method == "live_surrogate" and study.surrogate == MOST_VULNERABLE:
        raise ValueError(f"arm '{arm}' trains the surrogate alongside: name it with surrogate")


def _check_attack(choice: AttackChoice, study: Study) -> None:
    from inoculate.attacks.registry import ATTACKS, get_attack

    _known(choice.attack, tuple(ATTACKS), "attack")
    known = tuple(f.name for f in fields(ATTACKS[choice.attack]))
    for option in choice.options:
        _known(option, (*known, "images", *_NARROWING), f"key of attack {choice.attack}")
    get_attack(choice.attack, **choice.options)  # its own checks of the values
    for arm in choice.arms or ():
        _known(arm, (*ARMS, *study.arms), "arm")
    for model in choice.models or ():
        _known(model, study.models, "network")
    for dataset in choice.datasets or ():
        _known(dataset, tuple(study.datasets), "dataset")
    if choice.eps and len(set(choice.eps)) < len(choice.eps):
        raise ValueError(f"eps of attack {choice.attack} holds the same value twice")
    for eps in choice.eps or ():
        if eps not in study.eps:
            raise ValueError(f"eps {eps:g} of attack {choice.attack} is not among the study's: add it to eps")


def _known(name: str, valid: tuple[str, ...], what: str) -> None:
    if name not in valid:
        raise ValueError(f"{what} '{name}' is unknown: {suggest(name, valid)}")
