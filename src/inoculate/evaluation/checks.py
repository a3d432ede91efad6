"""Whether a robustness number can be trusted: checks that fail where gradients are masked or a pipeline is broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import ceil

import torch
from torch import Tensor, nn

from inoculate.attacks._batching import full_batch
from inoculate.attacks.base import Attack, shortened
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.gradients import value_and_input_grad
from inoculate.attacks.losses import Objective, get_loss
from inoculate.attacks.pgd import PGD
from inoculate.attacks.square import Square
from inoculate.core.errors import InputError
from inoculate.core.modes import frozen
from inoculate.core.rng import Draws
from inoculate.core.stats import mcnemar
from inoculate.core.threat import Threat, sample
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import Settings
from inoculate.evaluation.passes import GRADIENT, counted
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.sample import NOTHING, Cost, Known, Sample, affordable, per_image
from inoculate.models.classifier import Classifier

LEAST_IMAGES = 8  # classified correctly: with fewer, McNemar's test cannot tell two attacks apart at `SIGNIFICANT`
MOST_ZERO = 0.05  # of the images may have no gradient
SIGNIFICANT = 0.01  # the p-value below which a difference between two attacks counts
NEARER = 0.9  # of the images; on networks without masked gradients it is all of them
MASKED = "gradients are probably masked; run square and autoattack, and believe the lowest number"
UNDECIDED_IN_L0 = "not checked: in l0 random search beats gradients on honest models too, run sparse_rs beside them"
SQUARE, SHORT, LONG = Square(queries=200), PGD(steps=10), PGD(steps=50, step=0.1)
UNBOUNDED = PGD(steps=20, step=0.25)


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
    known: Known = NOTHING,
) -> list[Check]:
    """Check a classifier and the attacks on up to 64 images of the data, at one threat.

    Range and ball are enforced on every image of every evaluation. `surrogates` are other classifiers of the same
    images, from which examples are transferred. `known` is what the evaluation found, and how many passes may be made:
    fewer passes, fewer images, and a check with too few does not pass but was not made. `settings.progress` counts
    passes. A model without gradients is checked as far as that goes.
    """
    observer = _Progress(settings.progress, known.passes)
    with counted(classifier, *(surrogates or {}).values(), observer=observer) as passes:
        sample = Sample.draw(classifier, data, threat, settings, known, passes)
        observer.begin(int(sample.clean.sum()) * _most_passes(sample, len(attacks), len(surrogates or {})))
        checks = _run(sample, attacks, surrogates or {})
    observer.end()
    return checks


def _run(sample: Sample, attacks: Mapping[str, Attack], surrogates: Mapping[str, Classifier]) -> list[Check]:
    """The checks in the order of their cost; what one of them leaves of the passes is the next one's."""
    if not sample.clean.any():
        return [Check("images", None, "the model gets none of the images right: there is nothing to attack")]
    checks = [_check_zero_eps(sample, attacks)]
    try:
        gradients = _check_gradients(sample)
    except InputError:
        message = "no gradient reaches the images: only gradient-free attacks count, use square"
        return [*checks, Check("gradients", None, message)]
    fgsm = sample.measure(FGSM(), per_image(3), share=0.2)
    noise = sample.measure(_Noise(), per_image(1), share=0.1)
    short = sample.measure(SHORT, _steps(SHORT.steps), share=0.4)
    steps, long = _longer(sample)
    large = _check_large_eps(sample)
    checks += [gradients, large, _compare(sample, "more steps", (f"{steps} steps of PGD", long), ("10 steps", short))]
    checks.append(_check_noise(sample, fgsm, noise))
    best = replace(long, right=short.right & long.right, finished=short.finished & long.finished)
    others: list[tuple[str, str, Attack, Cost]] = []
    if sample.threat.norm == "l0":
        checks.append(Check("gradient-free", None, UNDECIDED_IN_L0))
    else:
        others.append(("gradient-free", "Square without gradients", SQUARE, partial(_square_passes, sample)))
    others += [
        (f"transfer from {name}", f"examples made on {name}", _CraftedOn(SHORT, surrogate.model), _steps(10))
        for name, surrogate in surrogates.items()
    ]
    for place, (name, words, attack, cost) in enumerate(others):
        checks.append(_check_stronger(sample, name, best, (words, attack, cost), share=1 / (len(others) - place)))
    if not surrogates:
        checks.append(Check("transfer", None, "not checked: give another model of the same images as surrogate"))
    return checks


def _longer(sample: Sample) -> tuple[int, PerSampleResult]:
    """The result of PGD with more steps and their number: the evaluation's own with the most from 20 on, else anew."""
    found = {
        attack.steps: result
        for attack, result in sample.known_results(sample.threat)
        if isinstance(attack, PGD) and attack.steps >= 2 * SHORT.steps and attack.target is None
    }
    if found:
        return max(found), found[max(found)]
    return LONG.steps, sample.measure(LONG, _steps(LONG.steps), share=0.7)


class _Progress:
    """Passes made, of those that the checks make at most."""

    def __init__(self, report: Callable[[int, int], None] | None, most: float) -> None:
        self.report, self.most, self.total = report, most, 0

    def begin(self, passes: float) -> None:
        self.total = max(1, int(min(passes, self.most)))
        self(0)

    def __call__(self, made: float) -> None:
        if self.report and self.total:
            self.report(min(int(made), self.total - 1), self.total)

    def end(self) -> None:
        if self.report:
            self.report(self.total, self.total)


def _steps(steps: int) -> Cost:
    """PGD makes a pass with gradients a step, and few more to verify what it found."""
    return per_image(GRADIENT * steps + 3)


def _square_passes(sample: Sample, images: int) -> float:
    """Square makes a pass a query; few images are tried with several squares at once, whether or not all are needed."""
    batch = min(images, sample.settings.batch_size)
    together = max(batch, min(16 * batch, full_batch(sample.data.images[:1]) // 2))
    return SQUARE.queries * together * ceil(images / batch) + 4 * images


def _most_passes(sample: Sample, attacks: int, surrogates: int) -> float:
    """Per image, if no attack ends early and each of the evaluation's takes no more than PGD at eps 0."""
    steps = (*(UNBOUNDED.steps, SHORT.steps, LONG.steps), *[SHORT.steps] * surrogates, *[2] * attacks)
    return SQUARE.queries + sum(_steps(count)(1) for count in steps) + 6


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


def _check_zero_eps(sample: Sample, attacks: Mapping[str, Attack]) -> Check:
    """At eps = 0 every attack must give back the clean accuracy."""
    zero, images = replace(sample.threat, eps=0.0), int(sample.clean.sum())
    for place, (name, attack) in enumerate(attacks.items()):
        result = sample.measure(shortened(attack), None, zero, share=0.2 / (len(attacks) - place))
        images = min(images, _tested(sample, result))
        changed = int((result.right != sample.clean)[result.finished].sum())
        if changed:
            cause = "the model is random (autoattack_rand)" if sample.classifier.is_random else "a wrong attack"
            return Check("eps = 0", False, f"{name} at eps 0 changes {changed} predictions: {cause}")
    return _passed("eps = 0", images, "at eps 0 every attack leaves the clean accuracy as it is")


def _check_gradients(sample: Sample) -> Check:
    """Too many images classified correctly have a gradient that is 0 everywhere, or not a number somewhere."""
    zeros, model = 0, sample.classifier.model
    images = max(1, affordable(per_image(GRADIENT), int(sample.clean.sum()), 0.1 * sample.left))
    with frozen(model):
        for rows in torch.split(sample.clean.nonzero().squeeze(1)[:images], sample.settings.batch_size):
            x, y = sample.classifier.load(sample.data, rows)
            objective = Objective(get_loss("cross_entropy"), y)
            gradient = value_and_input_grad(model, x, objective, raw=True).gradient.flatten(1)
            zeros += int(((gradient == 0).all(dim=1) | ~gradient.isfinite().all(dim=1)).sum())
    message = f"{zeros / images:.0%} of the images have no gradient, or one that is not a number"
    if zeros / images >= MOST_ZERO:
        return Check("gradients", False, f"{message}: {MASKED}")
    return _passed("gradients", images, message)


def _check_large_eps(sample: Sample) -> Check:
    """Where every image is allowed, PGD must break all of them; L∞ gets everywhere in few steps."""
    threat = sample.threat
    everything = Threat("linf", threat.high - threat.low, threat.low, threat.high)
    result = sample.measure(UNBOUNDED, _steps(UNBOUNDED.steps), everything, share=0.6)
    left, images = int((result.right & result.finished).sum()), _tested(sample, result)
    message = f"PGD without a bound leaves {left} of {images} images right"
    if left:
        return Check("a very large eps", False, f"{message}: it must break all; {MASKED}")
    return _passed("a very large eps", images, message)


def _check_noise(sample: Sample, fgsm: PerSampleResult, noise: PerSampleResult) -> Check:
    """FGSM must break no fewer images than random noise and, where it breaks no more, come nearer to nearly all."""
    check = _compare(sample, "random noise", ("FGSM", fgsm), ("random noise", noise))
    both = fgsm.finished & noise.finished
    fgsm_right, noise_right = fgsm.right & both, noise.right & both
    nearer = float((fgsm.margin > noise.margin)[sample.clean & both].float().mean())
    if not check.passed or nearer >= NEARER or int(fgsm_right.sum()) < int(noise_right.sum()) or not fgsm_right.any():
        return check
    message = f"{check.message}, and FGSM comes nearer to an error on {nearer:.0%} of them: {MASKED}"
    return Check(check.name, False, message)


def _check_stronger(
    sample: Sample, name: str, best: PerSampleResult, weak: tuple[str, Attack, Cost], share: float
) -> Check:
    """PGD must not be clearly weaker than another attack, which need not run where PGD leaves too few images right."""
    words, attack, cost = weak
    left, images = int((best.right & best.finished).sum()), _tested(sample, best)
    if left < LEAST_IMAGES:
        return _passed(name, images, f"PGD leaves {left} of {images} images right: nothing can break clearly more")
    return _compare(sample, name, ("PGD", best), (words, sample.measure(attack, cost, share=share)))


def _compare(
    sample: Sample, name: str, strong: tuple[str, PerSampleResult], weak: tuple[str, PerSampleResult]
) -> Check:
    """`strong` must not leave clearly more images right than `weak` does, on the same images."""
    (strong_name, one), (weak_name, other) = strong, weak
    both = one.finished & other.finished
    strong_right, weak_right = one.right[both], other.right[both]
    more, less = int(strong_right.sum()), int(weak_right.sum())
    message = f"{strong_name} leaves {more}, {weak_name} {less} of {len(strong_right)} images right"
    if more > less and mcnemar(strong_right.numpy(), weak_right.numpy()) < SIGNIFICANT:
        return Check(name, False, f"{message}: {MASKED}")
    return _passed(name, int((sample.clean & both).sum()), message)


def _tested(sample: Sample, result: PerSampleResult) -> int:
    """How many images that the classifier gets right an attack was tried on."""
    return int((sample.clean & result.finished).sum())


def _passed(name: str, images: int, message: str) -> Check:
    """A check in which nothing was found; on too few images that says nothing."""
    if images >= LEAST_IMAGES:
        return Check(name, True, message)
    cause = f"too few images that the model gets right ({images}, it takes {LEAST_IMAGES})"
    return Check(name, None, f"{cause}: give more images, or attacks that take longer")
