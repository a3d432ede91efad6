"""What the checks of the delivered network mean: whether its gradients are masked, and what hardening could not do."""

from __future__ import annotations

from collections.abc import Sequence

from inoculate.core.row import Row
from inoculate.core.stats import mcnemar
from inoculate.evaluation.checks import Check
from inoculate.evaluation.result import Evaluation
from inoculate.evaluation.sample import SIGNIFICANT
from inoculate.hardening.measure import attacked

# PGD-20 and AutoAttack on honest networks, adversarially trained or not, differ by less.
MAX_GAP = 0.15


def checks_of(found: Evaluation) -> list[Check]:
    """The checks of an evaluation by `measure`, and whether AutoAttack agrees with PGD on all of its images."""
    pgd, strongest = attacked(found.rows)[-2:]
    if pgd.attack != "pgd":  # L1, for which there is no AutoAttack
        return found.checks
    message = f"PGD leaves {pgd.accuracy:.1%}, {strongest.attack} {strongest.accuracy:.1%} of {pgd.n} images right"
    one, other = (found.per_image[row].right.numpy() for row in (pgd, strongest))
    if pgd.accuracy - strongest.accuracy > MAX_GAP and mcnemar(one, other) < SIGNIFICANT:
        message += ": PGD's gradients are probably masked; believe the lowest number"
        return [*found.checks, Check("strongest attack", False, message)]
    return [*found.checks, Check("strongest attack", True, message)]


def failed_checks(checks: Sequence[Check]) -> list[str]:
    """The names of the checks that failed."""
    return [check.name for check in checks if check.passed is False]


def masking_warnings(before: Sequence[Check], after: Sequence[Check], worst: Row) -> list[str]:
    """At most one line: which checks the network failed, `before` and `after` hardening, and what follows.

    worst: the row of the delivered network's lowest accuracy.
    """
    given, delivered = failed_checks(before), failed_checks(after)
    if not delivered:
        if not given:
            return []
        return [
            f"the network failed checks before hardening ({', '.join(given)}) and passes them now: its accuracies "
            "before may be too high, so do not compare with them"
        ]
    found = (
        f"no trustworthy robust network was made: the delivered one fails checks ({', '.join(delivered)}), so its "
        f"accuracy under attack may be lower than the {worst.accuracy:.1%} measured ({worst.attack})"
    )
    if not given:
        return [
            f"{found}; before hardening it passed them, so the training has masked its gradients: try another method"
        ]
    return [
        f"{found}; it failed checks before hardening too, so what hides its errors is in its layers or in what it does "
        "to the images, which training does not change: take out what rounds, is a step, draws at random or scales the "
        "logits, and harden again"
    ]
