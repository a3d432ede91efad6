"""Names and numbers as they are printed."""

from __future__ import annotations

import re
from collections.abc import Collection

MISSING = "–"
_ATTACKS = {
    "fgsm": "FGSM", "pgd": "PGD", "bim": "BIM", "mifgsm": "MI-FGSM", "apgd_ce": "APGD-CE", "apgd_dlr": "APGD-DLR",
    "apgd_t": "APGD-T", "fab_t": "FAB-T", "square": "Square", "deepfool": "DeepFool", "carlini_wagner": "C&W",
    "fmn": "FMN", "autoattack": "AutoAttack", "autoattack_binary": "AutoAttack (binary)",
    "autoattack_quick": "AutoAttack (quick)",
    "autoattack_rand": "AutoAttack (random)", "certified": "proved bound", "worst-case": "the worst case of all",
}  # fmt: skip
_UNCLIPPED = "_unclipped"  # as the paper's study names an attack whose pixels may leave [0, 1]
_NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "l0": "L0"}


def attack_name(attack: str) -> str:
    """The name to print for an attack of the registry, or for one of a study, such as `fgsm_unclipped`."""
    clipped = _ATTACKS.get(attack.removesuffix(_UNCLIPPED))
    return _ATTACKS.get(attack) or (f"{clipped} (not clipped)" if clipped else attack)


def norm_name(norm: str) -> str:
    """The name to print for a norm."""
    return _NORMS.get(norm, norm)


def with_norm_names(message: str) -> str:
    """A message of a run, whose norms are the words of the command line, with the names to print."""
    return re.sub(r"\b(linf|l[012])(?= eps)", lambda found: norm_name(found[0]), message)


def percent(value: float) -> str:
    """A fraction in percent, with one decimal."""
    return f"{100 * value:.1f}"


def points(value: float) -> str:
    """A difference of fractions in signed percentage points, with one decimal."""
    return f"{100 * value + 0.0:+.1f}".replace("-0.0", "+0.0")


def span(values: Collection[int]) -> str:
    """The lowest and the highest of some numbers, `64 to 2,000`; a single number where they are equal."""
    return " to ".join(dict.fromkeys(f"{value:,}" for value in (min(values), max(values))))
