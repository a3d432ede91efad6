"""What predictions on clean images say about the classes: numbered otherwise, or not known at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from inoculate.core.stats import mcnemar
from inoculate.data.class_order import natural_key
from inoculate.models.findings import MAX_P_VALUE, MIN_GAIN, Finding

MIN_PREDICTIONS = 8  # below, predictions say nothing about the classes
CHANCE_P_VALUE = 0.05  # of one-sided tests against guessing
MIN_CLASSES, NUMBERINGS = 5, 1000  # for a comparison with so many random numberings of the classes
MOST_CLASSES = 2000  # present among labels and predictions, for a search over all renumberings
_RENUMBERED_GAIN, _RENUMBERED_P_VALUE, _PRECISION = 0.5, 0.01, 0.6


def prediction_findings(predicted: Tensor, y: Tensor, classes: Sequence[str]) -> list[Finding]:
    """What looks wrong with the predicted classes (N) of clean images with labels `y` (N, in 0..K-1)."""
    return class_order(predicted, y, classes) or chance_level(predicted, y, classes)


def class_order(predicted: Tensor, y: Tensor, classes: Sequence[str]) -> list[Finding]:
    """Whether another numbering of the classes makes the predictions right.

    The natural and the alphabetical order of the names are tried, the reversed one and shifts by one, then every
    renumbering: that is found on one half of the images and judged on the other.
    """
    predicted, y = predicted.cpu(), y.cpu()
    if len(y) < MIN_PREDICTIONS or torch.equal(predicted, y):
        return []
    by_name, by_search = _best_known_order(predicted, y, classes), _best_renumbering(predicted, y, len(classes))
    found = [each for each in (by_name, by_search) if each is not None]
    return [max(found, key=lambda each: each[0])[1]] if found else []


def chance_level(predicted: Tensor, y: Tensor, classes: Sequence[str]) -> list[Finding]:
    """Whether the model gives one answer for all images, or is right no more often than guessing is.

    The images of a class are alike, and so are the answers of a random network: beside a binomial test, numbering the
    classes at random must make fewer of the same answers right.
    """
    from scipy.stats import binomtest

    predicted, y, n = predicted.cpu(), y.cpu(), len(y)
    if n < MIN_PREDICTIONS or len(_distinct(y)) < 2:
        return []
    answers = _distinct(predicted)
    if len(answers) == 1:
        answer = int(answers)
        name = f" ({classes[answer]})" if answer < len(classes) else ""
        return [Finding(
            f"the model gives one answer for all {n} clean images, class {answer}{name}",
            "it is untrained or broken, or it expects other pixels than [0, 1]",
        )]  # fmt: skip
    most = int(max(predicted.max(), y.max())) + 1
    shares = [each.bincount(minlength=most).double() / n for each in (predicted, y)]
    guessing, right = float((shares[0] * shares[1]).sum()), int((predicted == y).sum())
    better = binomtest(right, n, guessing, alternative="greater").pvalue < CHANCE_P_VALUE
    if right / n > (1 + guessing) / 2 or (better and _better_than_renumbered(predicted, y)):
        return []
    return [Finding(
        f"the model is at chance level: right on {right} of {n} clean images, and guessing is on {guessing:.1%}",
        "its head may be random (a pretrained one that did not fit is drawn anew), or it was trained for other classes",
    )]  # fmt: skip


def _better_than_renumbered(predicted: Tensor, y: Tensor) -> bool:
    """Whether random numberings of the classes make fewer predictions right; true for too few classes to tell."""
    known = _distinct(y)
    if not MIN_CLASSES <= len(known) <= MOST_CLASSES:
        return True
    among = torch.isin(predicted, known)
    p, c = (torch.searchsorted(known, each[among]) for each in (predicted, y))
    counts = torch.bincount(p * len(known) + c, minlength=len(known) ** 2).view(len(known), -1)
    orders = torch.rand(NUMBERINGS, len(known), generator=torch.Generator().manual_seed(0)).argsort(dim=1)
    found = counts[orders, torch.arange(len(known))].sum(dim=1)
    return float((found >= counts.diagonal().sum()).float().mean()) < CHANCE_P_VALUE


def _known_orders(classes: Sequence[str]) -> dict[str, list[int]]:
    """By its name, the output that each class has in another usual order."""
    count = len(classes)
    alphabetical = sorted(range(count), key=lambda i: classes[i])
    natural = sorted(range(count), key=lambda i: natural_key(classes[i]))
    orders = {
        "sorted as numbers (2 before 10)": _places(natural),
        "sorted as text (10 before 2)": _places(alphabetical),
        "one number higher": [(i + 1) % count for i in range(count)],
        "one number lower": [(i - 1) % count for i in range(count)],
        "in reverse": list(reversed(range(count))),
    }
    return {name: order for name, order in orders.items() if order != list(range(count))}


def _places(order: list[int]) -> list[int]:
    places = [0] * len(order)
    for place, index in enumerate(order):
        places[index] = place
    return places


def _best_known_order(predicted: Tensor, y: Tensor, classes: Sequence[str]) -> tuple[float, Finding] | None:
    plain, count = predicted == y, len(classes)
    best: tuple[float, Finding] | None = None
    for name, order in _known_orders(classes).items():
        right = predicted == torch.tensor(order)[y]
        after, before = float(right.float().mean()), float(plain.float().mean())
        least = max(before + MIN_GAIN, float(y.bincount().max()) / len(y) + MIN_GAIN)
        if not name.startswith("sorted"):
            least = max(least, before + _RENUMBERED_GAIN, (1 + 1 / count) / 2)
        if after >= least and mcnemar(plain.numpy(), right.numpy()) <= MAX_P_VALUE and after > (best or (0,))[0]:
            finding = _renumbered(name, plain, after, [(order[c], c) for c in range(count) if order[c] != c])
            best = (after + 1e-6, finding)  # before a search that comes to the same
    return best


def _best_renumbering(predicted: Tensor, y: Tensor, count: int) -> tuple[float, Finding] | None:
    known = _distinct(torch.cat([predicted, y]))
    p, c = (torch.searchsorted(known, each) for each in (predicted, y))
    if len(known) > MOST_CLASSES:
        return None
    order, plain = _assign(p, c, len(known)), p == c
    counts = torch.bincount(p * len(known) + c, minlength=len(known) ** 2).view(len(known), -1)
    own, other = counts.diagonal(), counts[order, torch.arange(len(known))]
    moved = other > own
    inside = moved[c]
    if int(moved.sum()) < 2:
        return None
    right = _held_out(p, c, len(known)) if int(c.bincount().max()) > 1 else order[c] == p
    before, after = float(plain[inside].float().mean()), float(right[inside].float().mean())
    share = float(c[inside].bincount().max()) / int(inside.sum())
    precise = float((right & inside).sum()) / max(1, int(moved[_places_of(order)][p].sum()))
    least = max(before + _RENUMBERED_GAIN, share + MIN_GAIN, (1 + 1 / count) / 2)
    if after < least or precise < _PRECISION:
        return None
    if int(c.bincount().max()) == 1 and not _distinct_by_merit(p, count):
        return None
    if mcnemar(plain[inside].numpy(), right[inside].numpy()) > _RENUMBERED_P_VALUE:
        return None
    overall = torch.where(inside, order[c] == p, plain)
    swaps = [(int(known[order[i]]), int(known[i])) for i in range(len(known)) if moved[i]]
    total = float(overall.float().mean())
    return total, _renumbered("renumbered", plain, total, sorted(swaps))


def _assign(p: Tensor, c: Tensor, count: int) -> Tensor:
    """The output for each of `count` classes with which most predictions are right; its own where nothing is better."""
    from scipy.optimize import linear_sum_assignment

    counts = torch.bincount(p * count + c, minlength=count**2).view(count, count).double() + 1e-3 * torch.eye(count)
    rows, columns = linear_sum_assignment(counts.numpy(), maximize=True)
    order = torch.empty(count, dtype=torch.long)
    order[torch.from_numpy(columns)] = torch.from_numpy(rows)
    return order


def _held_out(p: Tensor, c: Tensor, count: int) -> Tensor:
    """Which predictions are right under the renumbering found on the other half of each class."""
    ranks = torch.empty_like(c)
    for each in _distinct(c):
        rows = (c == each).nonzero().squeeze(1)
        ranks[rows] = torch.arange(len(rows))
    right = torch.zeros(len(c), dtype=torch.bool)
    for half in (0, 1):
        judged = ranks % 2 == half
        right[judged] = _assign(p[~judged], c[~judged], count)[c[judged]] == p[judged]
    return right


def _distinct(values: Tensor) -> Tensor:
    return torch.from_numpy(np.unique(values.numpy()))


def _places_of(order: Tensor) -> Tensor:
    """The class of each output, from the output of each class."""
    return order.argsort()


def _distinct_by_merit(p: Tensor, count: int) -> bool:
    """Whether predictions for single images of different classes differ more than random ones would."""
    if len(_distinct(p)) < len(p):
        return False
    return float((1 - torch.arange(len(p)) / count).clamp_min(0).prod()) <= MAX_P_VALUE


def _renumbered(how: str, plain: Tensor, after: float, swaps: Sequence[tuple[int, int]]) -> Finding:
    listed = ", ".join(f"{output}→{number}" for output, number in swaps)
    listed = f"{listed[:57]}…" if len(listed) > 58 else listed
    order = "its outputs are renumbered" if how == "renumbered" else f"its outputs are taken as {how}"
    return Finding(
        f"the model numbers the classes otherwise: right on {plain.float().mean():.0%} of {len(plain)} images, and on "
        f"{after:.0%} once {order} ({listed})",
        "name the outputs in their order with --class-names FILE (class_names=...)",
    )
