"""Whether proofs and attacks agree: no attack may break a certified image."""

from __future__ import annotations

from collections.abc import Mapping

from inoculate.core.results import hardest
from inoculate.core.row import CERTIFIED, Row
from inoculate.evaluation.checks import Check
from inoculate.evaluation.per_sample import PerSampleResult

NAME = "certificates"


def certificate_checks(row: Row, per_image: Mapping[Row, PerSampleResult]) -> list[Check]:
    """A check of the certified accuracy in `row` against every attack in its norm and mask at no larger an eps."""
    result, at = per_image[row], f"{row.norm} eps {row.eps:.4g}"
    attacked = [
        each for each in per_image
        if each.attack not in ("none", CERTIFIED) and each.space == row.space and each.eps <= row.eps
    ]  # fmt: skip
    for each in attacked:
        broken = result.right & ~per_image[each].right
        if bool(broken.any()):
            count, first = int(broken.sum()), int(broken.nonzero()[0])
            message = (
                f"{at}: {each.attack} at eps {each.eps:.4g} breaks {count} of {row.correct} certified images (first: "
                f"image {first}): a bound or the attack is wrong, believe neither and report it"
            )
            return [Check(NAME, False, message)]
    same = [each for each in attacked if each.eps == row.eps and each.n]
    if not same:
        return [Check(NAME, None, f"{at}: no attack was finished beside the proofs")]
    lowest = hardest(same)
    undecided = f"{lowest.accuracy - row.accuracy:.1%} of the images are neither proven nor broken"
    message = f"{at}: certified {row.accuracy:.1%} ≤ true ≤ {lowest.accuracy:.1%} ({lowest.attack}); {undecided}"
    return [Check(NAME, True, message)]
