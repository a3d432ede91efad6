"""The `Study`: what a study file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from inoculate.core.threat import Norm, Threat
from inoculate.study.arm_names import ARMS
from inoculate.study.sections import (
    AttackConfig,
    DatasetConfig,
    Eps,
    EvaluationConfig,
    ExplanationConfig,
    MethodConfig,
    Partition,
    Section,
    TrainingConfig,
)
from inoculate.training.methods.names import METHOD_ARMS

MOST_VULNERABLE = "most_vulnerable"  # as `surrogate`: chosen by its accuracy on validation images


class StudyError(ValueError):
    """A mistake in a study, and the keys that lead to it, from which `inoculate.study.load` finds the line."""

    def __init__(self, message: str, location: tuple[str, ...]) -> None:
        super().__init__(message)
        self.location = location


class Study(Section):
    """datasets × models × arms × attacks × eps × seeds."""

    name: str
    datasets: dict[str, DatasetConfig] = Field(min_length=1)
    models: tuple[str, ...] = Field(min_length=1)
    stem: Literal["imagenet", "small"] = "imagenet"
    pretrained: bool = False
    weights: dict[str, Path] = Field(default_factory=dict)  # networks that start from a file instead of at random
    arms: tuple[str, ...] = ARMS
    methods: dict[str, MethodConfig] = Field(default_factory=dict)  # derived from `arms`: those that name a method
    surrogate: str = MOST_VULNERABLE
    norm: Norm = "linf"
    eps: tuple[Eps, ...] = Field(min_length=1)
    transfer: str = "fgsm"
    attacks: dict[str, AttackConfig] = Field(min_length=1)
    split: Partition = Field(default_factory=lambda: Partition.model_validate({}))
    training: TrainingConfig = Field(default_factory=lambda: TrainingConfig.model_validate({}))
    evaluation: EvaluationConfig = Field(default_factory=lambda: EvaluationConfig.model_validate({}))
    explanations: ExplanationConfig | None = Field(default_factory=lambda: ExplanationConfig.model_validate({}))
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    seeds_of: dict[str, tuple[int, ...]] = Field(default_factory=dict)  # networks that have some of the seeds only
    limit: int | None = Field(None, ge=1)

    def threat_for(self, arm: str) -> Threat:
        """What a method's arm is trained against: its own eps, or the study's largest."""
        eps = self.methods[arm].eps
        return Threat(self.norm, max(self.eps) if eps is None else eps)

    def training_for(self, dataset: str) -> TrainingConfig:
        """How a dataset's networks are trained: the study's `training`, overridden by the dataset's own keys."""
        own = self.datasets[dataset].training
        return TrainingConfig.model_validate(self.training.model_dump() | own) if own else self.training

    def models_for(self, seed: int, arm: str = "standard") -> tuple[str, ...]:
        """The networks that are trained with a seed for an arm."""
        allowed = self.methods[arm].models if arm in self.methods else None
        seeded = (model for model in self.models if seed in self.seeds_of.get(model, self.seeds))
        return tuple(model for model in seeded if allowed is None or model in allowed)

    def eps_for(self, attack: str) -> tuple[float, ...]:
        """At which eps an attack of the study is evaluated."""
        return self.attacks[attack].eps or self.eps

    @model_validator(mode="before")
    @classmethod
    def _split_arms_and_options(cls, value: Any) -> Any:
        """`arms` may be names, or a mapping from names to options; an entry's `method` is its name by default."""
        if not isinstance(value, dict) or "arms" not in value or value.get("methods"):
            return value
        arms = value["arms"]
        if not isinstance(arms, dict | list | tuple) or not all(isinstance(arm, str) for arm in arms):
            return value  # for the schema to refuse
        given = arms if isinstance(arms, dict) else dict.fromkeys(arms)
        methods = {
            arm: {"method": arm, **(options or {})}
            for arm, options in given.items()
            if arm not in ARMS and isinstance(options, dict | None) and (options or arm in METHOD_ARMS)
        }
        plain = [arm for arm in given if arm in ARMS and given[arm]]
        if plain:
            raise ValueError(f"arm '{plain[0]}' has no options: they are the study's own keys")
        return {**value, "arms": tuple(given), "methods": methods} if given else value

    @field_validator("datasets", mode="before")
    @classmethod
    def _fill_empty_datasets(cls, value: Any) -> Any:
        return {k: v or {} for k, v in value.items()} if isinstance(value, dict) else value

    @field_validator("explanations", mode="before")
    @classmethod
    def _read_switch(cls, value: Any) -> Any:
        return ({} if value else None) if isinstance(value, bool) else value

    @field_validator("attacks", mode="before")
    @classmethod
    def _fill_attack_names(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: {"attack": k, **(v or {})} if isinstance(v, dict | None) else v for k, v in value.items()}

    @model_validator(mode="after")
    def _is_consistent(self) -> Study:
        from inoculate.study.validation import check_study  # imports torch, which reading results does without

        check_study(self)
        return self
