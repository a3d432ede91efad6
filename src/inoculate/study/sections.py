"""The sections of a study file: one frozen model each, whose unknown keys are errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from inoculate.attribution.explanation import Amounts
from inoculate.core.threat import parse_eps
from inoculate.data.preprocessing import CropMode, Interpolation, Preprocessing, ReadingOptions


def _number(value: Any) -> Any:
    return parse_eps(value) if isinstance(value, str) else value


Eps = Annotated[float, BeforeValidator(_number)]


class Section(BaseModel):
    """A part of a study file."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetConfig(Section):
    """One dataset: where it comes from, how its images are loaded, and its own keys of `training`."""

    source: str | None = None  # a data SPEC; by default the entry's name
    image_size: int = Field(32, ge=4, le=1024)
    channels: Literal[1, 3] | None = None
    resize: int | None = Field(None, ge=4, le=4096)
    crop: float | None = Field(None, gt=0)
    crop_mode: CropMode | None = None
    interpolation: Interpolation | None = None
    value_range: tuple[float, float] | None = None
    augment: str | None = None  # a policy; by default the dataset's own
    normalize: str | None = None  # in front of the networks; by default the training images' own statistics
    training: dict[str, Any] = Field(default_factory=dict)  # overrides the study's

    @property
    def preprocessing(self) -> Preprocessing:
        """How the images are read."""
        return Preprocessing(**{name: getattr(self, name) for name in ReadingOptions.__annotations__})

    @model_validator(mode="after")
    def _can_be_read(self) -> DatasetConfig:
        self.preprocessing.scale  # noqa: B018 (its checks)
        return self


class Partition(Section):
    """Fractions of the pooled images; `official_test` keeps the source's own test split as the test part."""

    train: float = Field(0.7, gt=0, lt=1)
    val: float = Field(0.1, gt=0, lt=1)
    test: float = Field(0.2, gt=0, lt=1)
    official_test: bool = False

    @model_validator(mode="after")
    def _sums_to_one(self) -> Partition:
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError("train, val and test must sum to 1")
        return self


class TrainingConfig(Section):
    """How every network is trained.

    The standard arm makes `epochs` passes over the training part, at most `max_updates` updates. With `budget: updates`
    every other arm makes the same number of updates; with `budget: epochs` the same number of passes over its own,
    larger set; with `budget: passes` `passes` times the standard arm's forward-backward passes, so that a method whose
    updates cost more makes fewer. `rounds` is the number of validations per training (default: one per epoch), each on
    `val_images` validation images (default: all). `accumulate` passes each batch in so many parts, which saves memory.
    `compile` applies `torch.compile`.
    """

    epochs: int = Field(2, ge=1)
    max_updates: int | None = Field(None, ge=1)
    budget: Literal["updates", "epochs", "passes"] = "updates"
    passes: float = Field(1.0, gt=0)
    rounds: int | None = Field(None, ge=1)
    val_images: int | None = Field(None, ge=1)
    batch_size: int = Field(64, ge=2)
    accumulate: int = Field(1, ge=1)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    patience: int | None = Field(None, ge=1)
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: bool = False
    balance: bool = True


class AttackConfig(Section):
    """An attack by registry name, its options, and where it is evaluated.

    `images` limits it to the first test images. Without `clip` adversarial pixels may leave [0, 1]. `eps`, `datasets`,
    `models` and `arms` restrict it to some of the study's: an expensive attack need not be evaluated everywhere.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    attack: str
    images: int | None = Field(None, ge=1)
    clip: bool = True
    eps: tuple[Eps, ...] | None = Field(None, min_length=1)
    datasets: tuple[str, ...] | None = Field(None, min_length=1)
    models: tuple[str, ...] | None = Field(None, min_length=1)
    arms: tuple[str, ...] | None = Field(None, min_length=1)

    @property
    def options(self) -> dict[str, Any]:
        """Options of the attack itself."""
        return dict(self.model_extra or {})

    @property
    def restrictions(self) -> dict[str, Any]:
        """The keys that restrict where the attack is evaluated; None where it is not restricted."""
        return {"eps": self.eps, "datasets": self.datasets, "models": self.models, "arms": self.arms}

    @property
    def is_one_step(self) -> bool:
        """Whether one gradient serves every eps, so that its examples can be stored and replayed."""
        from inoculate.attacks.base import OneStep  # imports torch, which reading results does without
        from inoculate.attacks.registry import ATTACKS

        return self.clip and isinstance(ATTACKS.get(self.attack), OneStep)

    def covers(self, dataset: str, model: str, arm: str) -> bool:
        """Whether the attack is evaluated on this network."""
        within = ((self.datasets, dataset), (self.models, model), (self.arms, arm))
        return all(allowed is None or name in allowed for allowed, name in within)


class MethodConfig(Section):
    """An arm that is trained by a method: registry name, options, eps, length, and the networks that it needs.

    `models` are the networks that it trains, by default all of the study.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    method: str
    eps: Eps | None = None  # by default the study's largest
    length: float = Field(1.0, gt=0, le=1)  # fraction of the updates that the budget gives
    models: tuple[str, ...] | None = Field(None, min_length=1)
    teacher: str | None = None  # the network that teaches, for methods that distil; by default the surrogate
    teacher_arm: str = "pgd_at"  # of that network
    surrogates: tuple[str, ...] | None = None  # networks for methods that craft on others; by default all of the study
    surrogate_arm: str = "standard"  # of those networks

    @property
    def options(self) -> dict[str, Any]:
        """Options of the method itself."""
        return dict(self.model_extra or {})


class EvaluationConfig(Section):
    """How accuracy is measured: on the first `images` of the shuffled test part (by default all)."""

    images: int | None = Field(None, ge=1)
    batch_size: int = Field(256, ge=1)
    precision: Literal["fast", "exact"] = "fast"

    def limit(self, size: int) -> int:
        """How many of `size` images are measured."""
        return min(size, self.images or size)


class ExplanationConfig(Section):
    """What is explained (see `inoculate.attribution.explanation.Amounts`).

    By default every network, and every arm except the controls.
    """

    images: int = Field(Amounts.images, ge=0)
    stability: int = Field(Amounts.stability, ge=1)
    fragility: int = Field(Amounts.fragility, ge=1)
    steps: int = Field(Amounts.steps, ge=2)
    search: int = Field(Amounts.search, ge=1)
    models: tuple[str, ...] | None = None
    arms: tuple[str, ...] | None = None

    @property
    def amounts(self) -> Amounts:
        """The numbers of images and steps."""
        return Amounts(**self.model_dump(exclude={"models", "arms"}))
