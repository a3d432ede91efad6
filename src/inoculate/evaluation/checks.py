"""Whether a robustness number can be trusted: checks that fail where gradients are masked or a pipeline is broken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from inoculate.attacks.base import Attack, shortened
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.gradients import value_and_input_grad
from inoculate.attacks.losses import Objective, get_loss
from inoculate.attacks.pgd import PGD
from inoculate.attacks.square import Square
from inoculate.core.errors import InputError
from inoculate.core.modes import frozen
from inoculate.core.rng import Draws, generator
from inoculate.core.stats import mcnemar
from inoculate.core.threat import Threat, sample
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import Settings, measure_attack, measure_clean
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.models.classifier import Classifier

IMAGES = 64
MOST_ZERO = 0.05  # of the images may have no gradient
SIGNIFICANT = 0.01  # the p-value below which a difference between two attacks counts
NEARER = 0.9  # of the images; on networks without masked gradients it is all of them
MASKED = "gradients are probably masked; run square and autoattack, and believe the lowest number"


@dataclass(frozen=True)
class Check:
    """One check. `passed` is None where it could not be made; `message` has its numbers, and a failure's cause."""

    name: str
    passed: bool | None
    message: str


def run_checks(
    classifier: Classifier,
    data: Dataset,
    attacks: Mapping[str, Attack],
    threat: Threat,
    settings: Settings = Settings(),
    surrogates: Mapping[str, Classifier] | None = None,
) -> list[Check]:
    """Check a classifier and the attacks on up to 64 images of the data, at one threat.

    Range and ball are enforced on every image of every evaluation. `surrogates` are other classifiers of the same
    images, from which examples are transferred. A model without gradients is checked as far as that goes.
    """
    subject = _Subject.start(classifier, data, threat, settings)
    if not subject.clean.any():
        return [Check("images", None, "the model gets none of the images right: there is nothing to attack")]
    checks = [_check_zero_eps(subject, attacks)]
    noise = subject.result(_Noise())
    square = subject.right(Square(queries=200)) if threat.norm != "l1" else None
    try:
        zero = _zero_gradients(subject)
    except InputError:
        message = "no gradient reaches the images: only gradient-free attacks count, use square"
        return [*checks, Check("gradients", None, message)]
    fgsm, short, long = subject.result(FGSM()), subject.right(PGD(steps=10)), subject.right(PGD(steps=50, step=0.1))
    checks += [
        _check_gradients(zero),
        _check_large_eps(subject),
        _compare("more steps", "50 steps of PGD", long, "10 steps", short),
        _check_noise(fgsm, noise, subject.clean),
    ]
    best = short & long
    if square is not None:
        checks.append(_compare("gradient-free", "PGD", best, "Square without gradients", square))
    for name, surrogate in (surrogates or {}).items():
        transferred = subject.right(_CraftedOn(PGD(steps=10), surrogate.model))
        checks.append(_compare(f"transfer from {name}", "PGD", best, f"examples made on {name}", transferred))
    if not surrogates:
        checks.append(Check("transfer", None, "not checked: give another model of the same images as surrogate"))
    return checks


@dataclass(frozen=True, eq=False)
class _Subject:
    """A few images of the data, those of them that the classifier gets right (N, bool), and the threat."""

    classifier: Classifier
    data: Dataset
    threat: Threat
    settings: Settings
    clean: Tensor

    @classmethod
    def start(cls, classifier: Classifier, data: Dataset, threat: Threat, settings: Settings) -> _Subject:
        chosen = torch.randperm(len(data), generator=generator(settings.seed, "trust panel"))[:IMAGES]
        part, settings = data.subset(chosen), replace(settings, deadline=None, keep_images=False, progress=None)
        return cls(classifier, part, threat, settings, measure_clean(classifier, part, settings).right)

    def result(self, attack: Attack, threat: Threat | None = None) -> PerSampleResult:
        """The result of an attack, at another threat if one is given."""
        at = threat or self.threat
        (result,) = measure_attack(self.classifier, self.data, attack, [at], self.clean, self.settings)
        return result

    def right(self, attack: Attack, threat: Threat | None = None) -> Tensor:
        """Which images (N, bool) the classifier still gets right."""
        return self.result(attack, threat).right


@dataclass(frozen=True)
class _Noise:
    """A random point of the ball: no attack, but the least that an attack must beat."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return sample(x, threat, Draws(x, generator))


@dataclass(frozen=True, eq=False)
class _CraftedOn:
    """An attack that crafts on another model."""

    attack: Attack
    surrogate: nn.Module

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return self.attack(self.surrogate, x, y, threat, generator=generator)


def _check_zero_eps(subject: _Subject, attacks: Mapping[str, Attack]) -> Check:
    """At eps = 0 every attack must give back the clean accuracy."""
    zero = replace(subject.threat, eps=0.0)
    for name, attack in attacks.items():
        changed = int((subject.right(shortened(attack), zero) != subject.clean).sum())
        if changed:
            cause = "the model is random (autoattack_rand)" if subject.classifier.is_random else "a wrong attack"
            return Check("eps = 0", False, f"{name} at eps 0 changes {changed} predictions: {cause}")
    return Check("eps = 0", True, "at eps 0 every attack leaves the clean accuracy as it is")


def _zero_gradients(subject: _Subject) -> float:
    """The part of the images classified correctly whose gradient is 0 everywhere, or not a number somewhere."""
    zeros, model = 0, subject.classifier.model
    with frozen(model):
        for rows in torch.split(subject.clean.nonzero().squeeze(1), subject.settings.batch_size):
            x, y = subject.classifier.load(subject.data, rows)
            objective = Objective(get_loss("cross_entropy"), y)
            gradient = value_and_input_grad(model, x, objective, raw=True).gradient.flatten(1)
            zeros += int(((gradient == 0).all(dim=1) | ~gradient.isfinite().all(dim=1)).sum())
    return zeros / int(subject.clean.sum())


def _check_gradients(zero: float) -> Check:
    passed = zero < MOST_ZERO
    message = f"{zero:.0%} of the images have no gradient, or one that is not a number"
    return Check("gradients", passed, message + ("" if passed else f": {MASKED}"))


def _check_large_eps(subject: _Subject) -> Check:
    """Where every image is allowed, PGD must break all of them; L∞ gets everywhere in few steps."""
    threat = subject.threat
    everything = Threat("linf", threat.high - threat.low, threat.low, threat.high)
    left = subject.right(PGD(steps=20, step=0.25), everything)
    message = f"PGD without a bound leaves {int(left.sum())} of {int(subject.clean.sum())} images right"
    passed = not bool(left.any())
    return Check("a very large eps", passed, message + ("" if passed else f": it must break all; {MASKED}"))


def _check_noise(fgsm: PerSampleResult, noise: PerSampleResult, clean: Tensor) -> Check:
    """FGSM must break no fewer images than random noise and, where it breaks no more, come nearer to nearly all."""
    check = _compare("random noise", "FGSM", fgsm.right, "random noise", noise.right)
    nearer = float((fgsm.margin > noise.margin)[clean].float().mean())
    if not check.passed or nearer >= NEARER or int(fgsm.right.sum()) < int(noise.right.sum()) or not fgsm.right.any():
        return check
    message = f"{check.message}, and FGSM comes nearer to an error on {nearer:.0%} of them: {MASKED}"
    return Check(check.name, False, message)


def _compare(name: str, strong: str, strong_right: Tensor, weak: str, weak_right: Tensor) -> Check:
    """`strong` must not leave clearly more images right than `weak` does, on the same images."""
    more, less = int(strong_right.sum()), int(weak_right.sum())
    failed = more > less and mcnemar(strong_right.numpy(), weak_right.numpy()) < SIGNIFICANT
    message = f"{strong} leaves {more}, {weak} {less} of {len(strong_right)} images right"
    return Check(name, not failed, message + (f": {MASKED}" if failed else ""))
