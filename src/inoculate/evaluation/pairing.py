"""Which images and rows of two evaluations belong together; refuses evaluations that cannot be compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inoculate.core.errors import InputError
from inoculate.core.results import name_of
from inoculate.core.row import Row
from inoculate.evaluation.result import Evaluation

Names = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Pairs:
    """The same images in two evaluations: image `old[i]` of one is image `new[i]` of the other."""

    old: NDArray[np.int64]
    new: NDArray[np.int64]


def pair_images(old: Evaluation, new: Evaluation, names: Names) -> Pairs:
    """Pair images by their pixels; raises `InputError` where the images or their labels are not the same."""
    for found, name in zip((old, new), names, strict=True):
        if not found.identities or len(found.identities) != len(found.labels):
            raise InputError(f"{name} does not tell its images apart: evaluate again with --out, then compare")
    missing = Counter(old.identities) - Counter(new.identities)
    extra = Counter(new.identities) - Counter(old.identities)
    if missing or extra:
        raise InputError(
            f"{missing.total()} of {len(old.labels)} images of {names[0]} are not in {names[1]}, and {extra.total()} "
            f"of {len(new.labels)} the other way: evaluate both on the same data, split, image size, --limit and --seed"
        )
    one, other = (_order(found) for found in (old, new))
    for first, second in zip(one.tolist(), other.tolist(), strict=True):
        if _label(old, first) != _label(new, second):
            raise InputError(
                f"image {first} of {names[0]} has the label {_label(old, first)}, in {names[1]} it has "
                f"{_label(new, second)}: evaluate both on the same data"
            )
    return Pairs(one, other)


def pair_rows(old: Evaluation, new: Evaluation, names: Names) -> list[tuple[Row, Row]]:
    """The rows that measure the same, in their order; raises `InputError` where attacks, seeds or masks differ."""
    known = {_key(row): row for row in new.rows}
    seeds = ({row.seed for row in old.rows}, {row.seed for row in new.rows})
    if seeds[0] != seeds[1]:
        shown = [", ".join(map(str, sorted(each))) for each in seeds]
        raise InputError(
            f"{names[0]} has seed {shown[0]}, {names[1]} has {shown[1]}: evaluate both with the same --seed"
        )
    found = []
    for row in old.rows:
        if not bool(old.per_image[row].finished.any()):  # a mean over corruptions: they are compared one by one
            continue
        if _key(row) not in known:
            raise InputError(f"{names[1]} lacks {name_of(row)}: evaluate it with the same attacks, norm, eps and mask")
        found.append((row, known[_key(row)]))
    _require_same_attacks(old, new, names, [row.attack for row, _ in found])
    _require_same_masks(old, new, names)
    return found


def _key(row: Row) -> tuple[Any, ...]:
    if row.attack == "none":
        return ("none",)
    size = (row.norm, f"{row.eps:.6g}", row.severity, row.movements, row.mask, row.threats)
    return (row.attack, *size, row.protocol, row.target)


def _require_same_attacks(old: Evaluation, new: Evaluation, names: Names, attacks: list[str]) -> None:
    before, after = (found.provenance.get("attacks", {}) for found in (old, new))
    for attack in dict.fromkeys(attacks):
        one, other = before.get(attack), after.get(attack)
        if one != other:
            raise InputError(
                f"{attack} is {_differing(one, other)} in {names[0]} but {_differing(other, one)} in {names[1]}: "
                "evaluate both with the same options"
            )


def _differing(one: Any, other: Any) -> str:
    """The options in which one attack differs from the other."""
    if not isinstance(one, Mapping):
        return "unknown" if one is None else str(one)
    theirs = other if isinstance(other, Mapping) else {}
    return ", ".join(f"{name}={value}" for name, value in one.items() if theirs.get(name) != value) or "without them"


def _require_same_masks(old: Evaluation, new: Evaluation, names: Names) -> None:
    masks = [[each.get("mask") for each in found.provenance.get("threats", ())] for found in (old, new)]
    if [each for each in masks[0] if each] != [each for each in masks[1] if each]:
        raise InputError(f"the masks of {names[0]} and {names[1]} differ: evaluate both with the same --mask")


def _order(found: Evaluation) -> NDArray[np.int64]:
    """The images sorted by pixels, those of the same pixels by label, and then in their order."""
    keys = list(zip(found.identities, (_label(found, place) for place in range(len(found.labels))), strict=True))
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def _label(found: Evaluation, place: int) -> str:
    number = int(found.labels[place])
    return found.classes[number] if found.classes else str(number)
