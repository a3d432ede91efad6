"""Whether a robustness number can be trusted: checks that fail where gradients are masked or a pipeline is broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inoculate.attacks.base import Attack, shortened
from inoculate.attacks.gradients import lacks_gradient
from inoculate.core.errors import InputError
from inoculate.core.modes import frozen
from inoculate.core.stats import exceeds_rate, mcnemar, proportion_upper
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import Settings
from inoculate.evaluation.extra_outputs import find_attraction
from inoculate.evaluation.panel import SHORT, Panel
from inoculate.evaluation.passes import GRADIENT, counted
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.sample import ENOUGH, FEW, NOTHING, SIGNIFICANT, Known, Sample, affordable, per_image
from inoculate.models.classifier import Classifier

GAP = 0.08  # of the images: what the checks must be able to see
LEAST_IMAGES = 20  # of which one is enough for an alarm: with a gap of `GAP` there is one in four of five samples
MOST_ZERO = 0.05  # of the images may have no gradient
HONEST = 0.02  # of the images: what a weaker attack may break beyond PGD on a network without masked gradients
NEARER = 0.9  # of the images; on networks without masked gradients it is all of them
UNDECIDED_IN_L0 = "in l0 random search beats gradients on honest models too, run sparse_rs beside them"
MASKED = "gradients are probably masked; run square and autoattack, and believe the lowest number"


_WORDS = {True: "passed", False: "FAILED", None: "not checked"}


@dataclass(frozen=True)
class Check:
    """One check. `passed` is None where it could not be made; `message` has its numbers, and a failure's cause."""

    name: str
    passed: bool | None
    message: str

    def __str__(self) -> str:
        return f"{_WORDS[self.passed]}: {self.name}: {self.message}"


def run_checks(
    classifier: Classifier,
    data: Dataset,
    attacks: Mapping[str, Attack],
    threat: Threat,
    settings: Settings = Settings(),
    surrogates: Mapping[str, Classifier] | None = None,
    known: Known = NOTHING,
) -> list[Check]:
    """Check a classifier and the attacks on some images of the data, at one threat.

    The sample has `ENOUGH` images that the classifier gets right, if the data have so many: a gap of 8 points between
    two attacks is then seen in four of five samples. Range and ball are enforced on every image of every evaluation.
    `surrogates` are other classifiers of the same images, from which examples are transferred. `known` is what the
    evaluation found, and how many passes may be made: fewer passes, fewer images, and a check with too few to see such
    a gap does not pass but was not made. `settings.progress` counts passes. A model without gradients is checked as far
    as that goes.
    """
    observer = _Progress(settings.progress, known.passes)
    with counted(classifier, *(surrogates or {}).values(), observer=observer) as passes:
        sample = Sample.draw(classifier, data, threat, settings, known, passes)
        panel = Panel(sample, attacks, surrogates or {})
        observer.begin(int(sample.clean.sum()) * panel.most_passes)
        checks = _run(panel)
        if sample.clean.any() and not classifier.labels_only:
            checks += check_extra_outputs(sample, data.labels.bincount().nonzero().squeeze(1))
    observer.end()
    return checks


def _run(panel: Panel) -> list[Check]:
    """The checks in the order of their cost; what one of them leaves of the passes is the next one's."""
    if not panel.sample.clean.any():
        return [Check("images", None, "the model gets none of the images right: there is nothing to attack")]
    checks = check_zero_eps(panel)
    if panel.sample.classifier.labels_only:
        names = ("gradients", "a very large eps", "more steps", "random noise", "gradient-free", "transfer")
        return [*checks, *(Check(name, None, "– (the model gives labels only)") for name in names)]
    try:
        checks += check_gradients(panel)
    except InputError:
        message = "no gradient reaches the images: only gradient-free attacks count, use square"
        return [*checks, Check("gradients", None, message)]
    return checks + [found for check in GRADIENT_CHECKS for found in check(panel)]


def check_extra_outputs(sample: Sample, labelled: Tensor) -> list[Check]:
    """Outputs that are no class's own (dummy classes, a detector) must not save a model from an adapted attack.

    `labelled` are the classes that images of the data have. No check where there are no such outputs.
    """
    try:
        found = find_attraction(sample, labelled, share=0.9)
    except InputError:  # no gradient, or a layer that cannot be looked into
        return [Check("extra outputs", None, "no gradient reaches the images")]
    if found is None:
        return []
    message = f"{found.attracted} of {found.images} attacked images are taken for outputs that are no class's own"
    if found.is_trick:
        cause = (
            f"not counted as errors they leave {found.right} images right, and {found.right_adapted} if PGD attacks "
            "the largest output of each class: believe this one"
        )
        return [Check("extra outputs", False, f"{message}: {cause}")]
    return [_passed("extra outputs", found.images, message)]


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


def check_zero_eps(panel: Panel) -> list[Check]:
    """At eps = 0 every attack must give back the clean accuracy."""
    sample, attacks = panel.sample, panel.attacks
    zero, few = replace(sample.threat, eps=0.0), sample.first(FEW)
    images = int((sample.clean & few).sum())
    for place, (name, attack) in enumerate(attacks.items()):
        result = sample.measure(shortened(attack), None, zero, share=0.2 / (len(attacks) - place), among=few)
        images = min(images, _tested(sample, result))
        changed = int((result.right != sample.clean)[result.finished].sum())
        if changed:
            cause = "the model is random (autoattack_rand)" if sample.classifier.is_random else "a wrong attack"
            return [Check("eps = 0", False, f"{name} at eps 0 changes {changed} predictions: {cause}")]
    return [_passed("eps = 0", images, "at eps 0 every attack leaves the clean accuracy as it is")]


def check_gradients(panel: Panel) -> list[Check]:
    """Too many images classified correctly have a gradient that is 0 everywhere, or not a number somewhere."""
    sample = panel.sample
    zeros, model = 0, sample.classifier.model
    images = max(1, affordable(per_image(GRADIENT), int(sample.clean.sum()), 0.1 * sample.left))
    with frozen(model):
        for rows in torch.split(sample.clean.nonzero().squeeze(1)[:images], sample.settings.batch_size):
            zeros += int(lacks_gradient(model, *sample.classifier.load(sample.data, rows)).sum())
    message = f"{zeros / images:.0%} of the images have no gradient, or one that is not a number"
    if zeros / images >= MOST_ZERO:
        return [Check("gradients", False, f"{message}: {MASKED}")]
    return [_passed("gradients", images, message)]


def check_large_eps(panel: Panel) -> list[Check]:
    """Where every image is allowed, PGD must break all of them."""
    name, result = "a very large eps", panel.unbounded
    left, images = int((result.right & result.finished).sum()), _tested(panel.sample, result)
    message = f"PGD without a bound leaves {left} of {images} images right"
    if left:
        return [Check(name, False, f"{message}: it must break all; {MASKED}")]
    return [_passed(name, images, message)]


def check_more_steps(panel: Panel) -> list[Check]:
    """More steps of PGD must not break clearly fewer images."""
    steps, long = panel.long
    return [_compare(panel, "more steps", (f"{steps} steps of PGD", long), (f"{SHORT.steps} steps", panel.short))]


def check_noise(panel: Panel) -> list[Check]:
    """FGSM must break no fewer images than random noise and, where it breaks no more, come nearer to nearly all."""
    fgsm, noise, clean = panel.fgsm, panel.noise, panel.sample.clean
    pair = ("FGSM", fgsm), ("random noise", noise)
    check = _compare(panel, "random noise", *pair)
    both = fgsm.finished & noise.finished
    fgsm_right, noise_right = fgsm.right & both, noise.right & both
    nearer = (fgsm.margin > noise.margin)[clean & both].float()
    enough = check.passed is not False and len(nearer) >= LEAST_IMAGES
    if not enough or nearer.mean() >= NEARER or int(fgsm_right.sum()) < int(noise_right.sum()) or not fgsm_right.any():
        return [check]
    message = f"{_words(*pair)}, and FGSM comes nearer to an error on {nearer.mean():.0%} of them: {MASKED}"
    return [Check(check.name, False, message)]


def check_gradient_free(panel: Panel) -> list[Check]:
    """Square, which needs no gradient, must break few images that PGD leaves right."""
    if panel.sample.threat.norm == "l0":
        return [Check("gradient-free", None, UNDECIDED_IN_L0)]
    if panel.sample.threat.norm == "l1":
        return []
    share = 1 / (1 + len(panel.surrogates))
    return [
        _check_beyond_pgd(
            panel, "gradient-free", "Square's examples, made without gradients,", lambda left: panel.square(left, share)
        )
    ]


def check_transfer(panel: Panel) -> list[Check]:
    """Examples of other models must break few images that PGD leaves right."""
    if not panel.surrogates:
        return [Check("transfer", None, "give another model of the same images as surrogate")]
    checks = []
    for place, (name, surrogate) in enumerate(panel.surrogates.items()):
        share = 1 / (len(panel.surrogates) - place)

        def measure(left: Tensor, surrogate: Classifier = surrogate, share: float = share) -> PerSampleResult:
            return panel.crafted_on(surrogate, left, share)

        checks.append(_check_beyond_pgd(panel, f"transfer from {name}", f"examples made on {name}", measure))
    return checks


GRADIENT_CHECKS: tuple[Callable[[Panel], list[Check]], ...] = (
    check_noise,
    check_large_eps,
    check_more_steps,
    check_gradient_free,
    check_transfer,
)


def _check_beyond_pgd(panel: Panel, name: str, words: str, measure: Callable[[Tensor], PerSampleResult]) -> Check:
    """An attack tries the images that PGD leaves right (`measure(left) -> result`), and must break few of them.

    Significantly more than `HONEST` of all images is an alarm (exact binomial test).
    """
    sample, pgd = panel.sample, panel.pgd
    left = sample.clean & pgd.right & pgd.finished
    images = _tested(sample, pgd)
    message = f"PGD leaves {int(left.sum())} of {images} images right"
    if images and proportion_upper(int(left.sum()), images) <= GAP:
        return Check(name, True, f"{message}: nothing can break {GAP:.0%} more")
    result = measure(left)
    untried = (left & ~result.finished).nonzero().flatten()
    tried = torch.arange(len(left)) < (int(untried[0]) if len(untried) else len(left))  # without a choice by the result
    tested = sample.clean & pgd.finished & tried
    broken, images = int((tested & left & ~result.right).sum()), int(tested.sum())
    message = f"PGD leaves {int((tested & left).sum())} of {images} images right, and {words} break {broken} of these"
    if exceeds_rate(broken, images, HONEST) < SIGNIFICANT:
        return Check(name, False, f"{message}: {MASKED}")
    return _passed(name, images, message, ENOUGH)


def _compare(panel: Panel, name: str, strong: tuple[str, PerSampleResult], weak: tuple[str, PerSampleResult]) -> Check:
    """`strong` must not leave clearly more images right than `weak` does, on the same images (McNemar's test)."""
    one, other = strong[1], weak[1]
    both, message = one.finished & other.finished, _words(strong, weak)
    if mcnemar(other.right[both].numpy(), one.right[both].numpy(), "greater") < SIGNIFICANT:
        return Check(name, False, f"{message}: {MASKED}")
    return _passed(name, int((panel.sample.clean & both).sum()), message, ENOUGH)


def _words(strong: tuple[str, PerSampleResult], weak: tuple[str, PerSampleResult]) -> str:
    """How many of the images that both attacked each of them leaves right."""
    (strong_name, one), (weak_name, other) = strong, weak
    both = one.finished & other.finished
    more, less = int(one.right[both].sum()), int(other.right[both].sum())
    return f"{strong_name} leaves {more}, {weak_name} {less} of {int(both.sum())} images right"


def _tested(sample: Sample, result: PerSampleResult) -> int:
    """How many images that the classifier gets right an attack was tried on."""
    return int((sample.clean & result.finished).sum())


def _passed(name: str, images: int, message: str, least: int = LEAST_IMAGES) -> Check:
    """A check in which nothing was found; on fewer than `least` images that says nothing."""
    if images >= least:
        return Check(name, True, message)
    cause = f"too few images that the model gets right to see a gap of {100 * GAP:.0f} points ({images} of {least})"
    return Check(name, None, f"{cause}: give more images, or attacks that take longer")
