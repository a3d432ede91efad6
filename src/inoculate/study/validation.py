"""Checks of a study as a whole: names that must exist, options that must be valid, and keys that must agree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

from pydantic import ValidationError

from inoculate.attacks.base import MultiStep
from inoculate.attacks.losses import LOSSES
from inoculate.attacks.registry import ATTACKS, get_attack
from inoculate.core.errors import suggest
from inoculate.core.threat import Threat
from inoculate.models.normalize import parse_normalize
from inoculate.study.arm_names import ARMS
from inoculate.study.config import MOST_VULNERABLE, Study, StudyError
from inoculate.study.sections import AttackConfig, MethodConfig, TrainingConfig
from inoculate.training.methods.names import METHOD_ARMS, NEEDS_NETWORK, NEEDS_SURROGATES, NEEDS_TEACHER
from inoculate.training.methods.registry import get_method, option_names

RESTRICTIONS = ("eps", "datasets", "models", "arms")


def check_study(study: Study) -> None:
    """Raise `StudyError` for the first mistake that concerns more than one key."""
    _check_names(study)
    for name in study.datasets:
        with _at("datasets", name):
            _check_own_training(name, study)
            if (given := study.datasets[name].normalize) is not None:
                parse_normalize(given)
    for name, attack in study.attacks.items():
        with _at("attacks", name):
            _check_attack(attack, study)
    for arm, method in study.methods.items():
        with _at("arms", arm):
            _check_method(arm, method, study)
    with _at("transfer"):
        _check_transfer(study)
    lists = {"datasets": (*study.datasets,), "models": study.models, "arms": study.arms, "seeds": study.seeds}
    for name, values in {**lists, "eps": study.eps}.items():
        if len(set(values)) < len(values):
            raise StudyError(f"{name} holds the same value twice", (name,))
    with _at("eps"):
        for eps in study.eps:
            Threat(study.norm, eps)


@contextmanager
def _at(*location: str) -> Iterator[None]:
    """Add the location to errors that are raised inside."""
    try:
        yield
    except StudyError:
        raise
    except ValueError as error:
        raise StudyError(str(error), location) from error


def _check_names(study: Study) -> None:
    with _at("arms"):
        for arm in study.arms:
            _require_known(arm, (*ARMS, *METHOD_ARMS, *study.methods), "arm")
        if "standard" not in study.arms:
            raise ValueError("arms must hold 'standard': every other arm is compared with it")
    with _at("surrogate"):
        if study.surrogate != MOST_VULNERABLE and study.surrogate not in study.models:
            _require_known(study.surrogate, (*study.models, MOST_VULNERABLE), "surrogate")
    with _at("weights"):
        for name in study.weights:
            _require_known(name, study.models, "network")
    with _at("seeds_of"):
        _check_seeds(study)
    with _at("norm"):
        if study.norm != "linf":
            raise ValueError("examples are stored as L∞ directions: norm must be linf in a study")
    with _at("explanations"):
        for name in (study.explanations and study.explanations.arms) or ():
            _require_known(name, study.arms, "arm")
        for name in (study.explanations and study.explanations.models) or ():
            _require_known(name, study.models, "network")


def _check_seeds(study: Study) -> None:
    for model, seeds in study.seeds_of.items():
        _require_known(model, study.models, "network")
        for seed in seeds:
            if seed not in study.seeds:
                raise ValueError(f"seed {seed} of {model} is not among the study's: add it to seeds")
    shared = study.models if study.surrogate == MOST_VULNERABLE else (study.surrogate,)
    methods = [config for config in study.methods.values() if config.method in NEEDS_SURROGATES]
    teachers = [config.teacher for config in study.methods.values() if config.teacher]
    needed = [*shared, *teachers, *(name for config in methods for name in config.surrogates or study.models)]
    for model in needed:
        if set(study.seeds_of.get(model, study.seeds)) != set(study.seeds):
            raise ValueError(f"other networks learn from {model}: it needs every seed")


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
        _require_known(option, (*known, "images", "clip", *RESTRICTIONS), f"key of attack {config.attack}")
    if ":" in str(config.options.get("loss")):  # stored results do not know the code of a function
        raise ValueError(f"loss of attack {config.attack} must be one of {', '.join(LOSSES)} in a study")
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
    for name in config.models or ():
        _require_known(name, study.models, f"network of {arm}")
    if config.method in NEEDS_SURROGATES:
        for name in config.surrogates or ():
            _require_known(name, study.models, f"surrogate of {arm}")
        _require_known(config.surrogate_arm, earlier, f"surrogate_arm of {arm} (an arm before it)")
        _require_trained(study, config.surrogates or study.models, config.surrogate_arm, arm)
    if config.method in NEEDS_TEACHER:
        if config.teacher is not None:
            _require_known(config.teacher, study.models, f"teacher of {arm}")
        _require_known(config.teacher_arm, earlier, f"teacher_arm of {arm} (an arm before it)")
        if config.teacher is None and study.surrogate == MOST_VULNERABLE:
            raise ValueError(f"arm '{arm}' learns from the surrogate: name it with surrogate")
        _require_trained(study, (config.teacher or study.surrogate,), config.teacher_arm, arm)
    if config.method in NEEDS_NETWORK and study.surrogate == MOST_VULNERABLE:
        raise ValueError(f"arm '{arm}' trains the surrogate alongside: name it with surrogate")


def _require_trained(study: Study, networks: tuple[str, ...], arm: str, learner: str) -> None:
    """Raise `ValueError` unless arm `learner` can learn from these networks of `arm`."""
    trained = study.methods[arm].models if arm in study.methods else None
    for name in networks:
        if trained is not None and name not in trained:
            raise ValueError(f"arm '{learner}' learns from {name} of arm '{arm}': add it to the models of '{arm}'")


def _check_transfer(study: Study) -> None:
    """Examples of several steps can be trained on where there is one eps; those that are replayed take one step."""
    name = study.transfer
    _require_known(name, tuple(study.attacks), "transfer attack")
    config = study.attacks[name]
    if any(config.restrictions.values()):
        message = f"transfer attack '{name}' is crafted everywhere: remove its {', '.join(RESTRICTIONS)}"
        raise StudyError(message, ("attacks", name))
    if not config.clip:
        raise ValueError(f"transfer attack '{name}' makes training images: leave its clip out")
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
