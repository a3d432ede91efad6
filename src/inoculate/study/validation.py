"""Checks of a study as a whole: names that must exist, options that must be valid, and keys that must agree.

Each raises `ValueError`, to which `inoculate.study.load` adds the file and the line.
"""

from __future__ import annotations

from dataclasses import fields

from pydantic import ValidationError

from inoculate.attacks.base import MultiStep
from inoculate.attacks.registry import ATTACKS, get_attack
from inoculate.core.errors import suggest
from inoculate.core.threat import Threat
from inoculate.study.arm_names import ARMS
from inoculate.study.config import MOST_VULNERABLE, Study
from inoculate.study.sections import AttackConfig, MethodConfig, TrainingConfig
from inoculate.training.methods.names import METHOD_ARMS, NEEDS_NETWORK, NEEDS_SURROGATES, NEEDS_TEACHER
from inoculate.training.methods.registry import get_method, option_names

RESTRICTIONS = ("eps", "datasets", "models", "arms")


def check_study(study: Study) -> None:
    """Raise `ValueError` for the first mistake that concerns more than one key."""
    _check_names(study)
    for name in study.datasets:
        _check_own_training(name, study)
    for attack in study.attacks.values():
        _check_attack(attack, study)
    for arm, method in study.methods.items():
        _check_method(arm, method, study)
    _check_transfer(study)
    for name, values in (
        ("datasets", tuple(study.datasets)), ("models", study.models), ("arms", study.arms), ("eps", study.eps),
        ("seeds", study.seeds),
    ):  # fmt: skip
        if len(set(values)) < len(values):
            raise ValueError(f"{name} holds the same value twice")
    for eps in study.eps:
        Threat(study.norm, eps)


def _check_names(study: Study) -> None:
    for arm in study.arms:
        _require_known(arm, (*ARMS, *METHOD_ARMS, *study.methods), "arm")
    if "standard" not in study.arms:
        raise ValueError("arms must hold 'standard': every other arm is compared with it")
    if study.surrogate != MOST_VULNERABLE and study.surrogate not in study.models:
        _require_known(study.surrogate, (*study.models, MOST_VULNERABLE), "surrogate")
    if study.norm != "linf":
        raise ValueError("examples are stored as L∞ directions: norm must be linf in a study")
    if study.explanations:
        for name in study.explanations.arms or ():
            _require_known(name, study.arms, "arm")
        for name in study.explanations.models or ():
            _require_known(name, study.models, "network")


def _check_own_training(dataset: str, study: Study) -> None:
    for key in study.datasets[dataset].training:
        _require_known(key, tuple(TrainingConfig.model_fields), f"training key of {dataset}")
    try:
        study.training_for(dataset)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"training of {dataset}: {first['loc'][0]}: {first['msg']}") from None


def _check_attack(config: AttackConfig, study: Study) -> None:
    _require_known(config.attack, tuple(ATTACKS), "attack")
    known = tuple(field.name for field in fields(ATTACKS[config.attack]))
    for option in config.options:
        _require_known(option, (*known, "images", *RESTRICTIONS), f"key of attack {config.attack}")
    get_attack(config.attack, **config.options)  # checks the values
    for arm in config.arms or ():
        _require_known(arm, (*ARMS, *study.arms), "arm")
    for model in config.models or ():
        _require_known(model, study.models, "network")
    for dataset in config.datasets or ():
        _require_known(dataset, tuple(study.datasets), "dataset")
    if config.eps and len(set(config.eps)) < len(config.eps):
        raise ValueError(f"eps of attack {config.attack} holds the same value twice")
    for eps in config.eps or ():
        if eps not in study.eps:
            raise ValueError(f"eps {eps:g} of attack {config.attack} is not among the study's: add it to eps")


def _check_method(arm: str, config: MethodConfig, study: Study) -> None:
    _require_known(config.method, METHOD_ARMS, "method")
    for option in config.options:
        _require_known(option, (*option_names(config.method), *MethodConfig.model_fields), f"key of arm {arm}")
    get_method(config.method, **config.options)  # checks names and values
    study.threat_for(arm)  # checks eps
    earlier = study.arms[: study.arms.index(arm)]
    if config.method in NEEDS_SURROGATES:
        for name in config.surrogates or ():
            _require_known(name, study.models, f"surrogate of {arm}")
        _require_known(config.surrogate_arm, earlier, f"surrogate_arm of {arm} (an arm before it)")
    if config.method in NEEDS_TEACHER:
        _require_known(config.teacher_arm, earlier, f"teacher_arm of {arm} (an arm before it)")
        if study.surrogate == MOST_VULNERABLE:
            raise ValueError(f"arm '{arm}' learns from the surrogate: name it with surrogate")
    if config.method in NEEDS_NETWORK and study.surrogate == MOST_VULNERABLE:
        raise ValueError(f"arm '{arm}' trains the surrogate alongside: name it with surrogate")


def _check_transfer(study: Study) -> None:
    """Examples of several steps can be trained on where there is one eps; those that are replayed take one step."""
    name = study.transfer
    _require_known(name, tuple(study.attacks), "transfer attack")
    config = study.attacks[name]
    if any(config.restrictions.values()):
        raise ValueError(f"transfer attack '{name}' is crafted everywhere: remove its {', '.join(RESTRICTIONS)}")
    if config.is_one_step:
        return
    # others may stop at the decision boundary, where rounding to 8 bits undoes the change
    if not isinstance(ATTACKS[config.attack], MultiStep):
        raise ValueError(f"transfer attack '{name}' does not use up its eps: use a one-step attack, bim, pgd or mifgsm")
    if len(study.eps) > 1:
        raise ValueError(
            f"transfer attack '{name}' takes several steps, so that its examples hold for one eps only: "
            "give one eps, or use a one-step attack such as fgsm"
        )
    if not any(each.is_one_step for each in study.attacks.values()):
        raise ValueError(f"transfer attack '{name}' is never replayed: add a one-step attack such as fgsm to attacks")


def _require_known(name: str, valid: tuple[str, ...], what: str) -> None:
    if name not in valid:
        raise ValueError(f"{what} '{name}' is unknown: {suggest(name, valid)}")
