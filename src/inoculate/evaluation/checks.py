"""Whether a robustness number can be believed: checks that fail where gradients are masked or a pipeline is broken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from inoculate.core.modes import device_of, frozen
from inoculate.core.pixels import to_float
from inoculate.core.rng import Draws, generator
from inoculate.core.stats import mcnemar
from inoculate.core.threat import Threat, sample
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import judge_attack, judge_clean
from inoculate.evaluation.per_sample import Verdict

IMAGES = 64
DOUBT = 0.01  # a difference counts when chance would give it less often than this
NEARER = 0.9  # of the images; on networks without masked gradients it is all of them
MASKED = "gradients are probably masked; run square and autoattack, and believe the lowest number"


@dataclass(frozen=True)
class Check:
    """One check. `passed` is None where it could not be made; `says` is for people: numbers, and a failure's cause."""

    name: str
    passed: bool | None
    says: str


def trust_panel(
    model: nn.Module,
    split: Dataset,
    attacks: Mapping[str, Attack],
    threat: Threat,
    *,
    seed: int = 0,
    batch_size: int = 256,
    surrogates: Mapping[str, nn.Module] | None = None,
) -> list[Check]:
    """Check a model and the attacks on up to 64 images of the split, at one threat.

    Range and ball are enforced on every image of every evaluation. `surrogates` are other classifiers of the same
    images, from which examples are transferred. A model without gradients is checked as far as that goes.
    """
    part = split.subset(torch.randperm(len(split), generator=generator(seed, "trust panel"))[:IMAGES])
    clean = judge_clean(model, part, batch_size).right
    if not clean.any():
        return [Check("images", None, "the model gets none of the images right: there is nothing to attack")]

    def judged(attack: Attack, at: Threat = threat) -> Verdict:
        (verdict,) = judge_attack(model, part, attack, at, [at.eps], clean, batch_size=batch_size, seed=seed)
        return verdict

    def right(attack: Attack, at: Threat = threat) -> Tensor:
        return judged(attack, at).right

    checks = [_identity(right, clean, attacks, threat)]
    noise = judged(_Noise())
    square = right(Square(queries=200)) if threat.norm != "l1" else None
    try:
        zero = _zero_gradients(model, part, clean, batch_size)
    except InputError:
        says = "no gradient reaches the images: only gradient-free attacks count, use square"
        return [*checks, Check("gradients", None, says)]
    fgsm, short, long = judged(FGSM()), right(PGD(steps=10)), right(PGD(steps=50, step=0.1))
    # every image is allowed then, in whichever norm; L∞ gets everywhere in few steps
    far = right(PGD(steps=20, step=0.25), Threat("linf", threat.high - threat.low, threat.low, threat.high))
    checks += [
        Check(
            "gradients", zero < 0.05,
            f"{zero:.0%} of the images have no gradient, or one that is not a number"
            + ("" if zero < 0.05 else f": {MASKED}"),
        ),
        Check(
            "a very large eps", not bool(far.any()),
            f"PGD without a bound leaves {int(far.sum())} of {int(clean.sum())} images right"
            + (f": it must break all; {MASKED}" if far.any() else ""),
        ),
        _compare("more steps", "50 steps of PGD", long, "10 steps", short, MASKED),
        _beats_noise(fgsm, noise, clean),
    ]  # fmt: skip
    best = short & long
    if square is not None:
        checks.append(_compare("gradient-free", "PGD", best, "Square without gradients", square, MASKED))
    for name, surrogate in (surrogates or {}).items():
        replayed = right(_From(PGD(steps=10), surrogate))
        checks.append(_compare(f"transfer from {name}", "PGD", best, f"examples made on {name}", replayed, MASKED))
    if not surrogates:
        checks.append(Check("transfer", None, "not checked: give another model of the same images as surrogate"))
    return checks


@dataclass(frozen=True)
class _Noise:
    """A random point of the ball: no attack, but the least that an attack must beat."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return sample(x, threat, Draws(x, generator))


@dataclass(frozen=True, eq=False)
class _From:
    """An attack that crafts on another model."""

    attack: Attack
    surrogate: nn.Module

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return self.attack(self.surrogate, x, y, threat, generator=generator)


def _identity(
    right: Callable[[Attack, Threat], Tensor], clean: Tensor, attacks: Mapping[str, Attack], threat: Threat
) -> Check:
    """At eps = 0 every attack must give back the clean accuracy."""
    nothing = replace(threat, eps=0.0)
    for name, attack in attacks.items():
        quick = shortened(attack)
        changed = int((right(quick, nothing) != clean).sum())
        if changed:
            says = f"{name} at eps 0 changes {changed} verdicts: a random model (autoattack_rand), or a wrong attack"
            return Check("eps = 0", False, says)
    return Check("eps = 0", True, "at eps 0 every attack leaves the clean accuracy as it is")


def _zero_gradients(model: nn.Module, part: Dataset, clean: Tensor, batch_size: int) -> float:
    """Share of the images that the model gets right whose gradient is 0 everywhere, or not a number somewhere."""
    device = device_of(model)
    zeros = 0
    with frozen(model):
        for rows in torch.split(clean.nonzero().squeeze(1), batch_size):
            x, y = to_float(part.images[rows].to(device)), part.labels[rows].to(device)
            gradient = value_and_input_grad(
                model, x, Objective(get_loss("cross_entropy"), y), raw=True
            ).gradient.flatten(1)
            zeros += int(((gradient == 0).all(dim=1) | ~gradient.isfinite().all(dim=1)).sum())
    return zeros / int(clean.sum())


def _beats_noise(fgsm: Verdict, noise: Verdict, clean: Tensor) -> Check:
    """FGSM must break no fewer images than random noise and, where it breaks no more, come nearer to nearly all."""
    check = _compare("random noise", "FGSM", fgsm.right, "random noise", noise.right, MASKED)
    assert fgsm.outcome is not None
    assert noise.outcome is not None
    nearer = float((fgsm.outcome.margin > noise.outcome.margin)[clean].float().mean())
    if not check.passed or nearer >= NEARER or int(fgsm.right.sum()) < int(noise.right.sum()) or not fgsm.right.any():
        return check
    return Check(
        check.name, False, f"{check.says}, and FGSM comes nearer to an error on {nearer:.0%} of them: {MASKED}"
    )


def _compare(name: str, strong: str, strong_right: Tensor, weak: str, weak_right: Tensor, cause: str) -> Check:
    """`strong` must not leave clearly more images right than `weak` does, on the same images."""
    more, less = int(strong_right.sum()), int(weak_right.sum())
    failed = more > less and mcnemar(strong_right.numpy(), weak_right.numpy()) < DOUBT
    says = f"{strong} leaves {more}, {weak} {less} of {len(strong_right)} images right"
    return Check(name, not failed, says + (f": {cause}" if failed else ""))
