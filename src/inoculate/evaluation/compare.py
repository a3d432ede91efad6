"""The job `compare`: is a new model less robust than an old one, image by image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inoculate.core.errors import InputError
from inoculate.core.options import is_number
from inoculate.core.results import html_table, name_of
from inoculate.core.row import Row
from inoculate.core.stats import holm, mcnemar, paired_difference
from inoculate.core.verdict import Outcome, Verdict
from inoculate.evaluation.pairing import Pairs, pair_images, pair_rows
from inoculate.evaluation.result import Evaluation

SIGNIFICANT = 0.05
RULE = "no-regression"
Paired = tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]
_SHOWN = 10  # images that are named in text


@dataclass(frozen=True, eq=False)
class Change:
    """One attack at one threat, on the images that both evaluations finished.

    Fields:
        old, new: the rows.
        n: how many images are paired.
        old_accuracy, new_accuracy: on them, in [0, 1].
        difference: the new accuracy minus the old one, in [-1, 1].
        low, high: its 95 % score interval for pairs (Newcombe 1998).
        p: of McNemar's exact test, two-sided, adjusted for the number of rows (Holm 1979).
        broken: numbers in the new data of the images that were right and are wrong.
        mended: those that were wrong and are right.
    """

    old: Row
    new: Row
    n: int
    old_accuracy: float
    new_accuracy: float
    difference: float
    low: float
    high: float
    p: float
    broken: tuple[int, ...]
    mended: tuple[int, ...]

    def worse(self, allow: float = 0.0) -> bool:
        """Whether the new model is significantly worse, and by more than `allow`."""
        return self.p < SIGNIFICANT and len(self.broken) - len(self.mended) > allow * self.n + 1e-9

    def __str__(self) -> str:
        accuracies = f"{self.old_accuracy:.1%} to {self.new_accuracy:.1%}"
        interval = f"[{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
        return (
            f"{name_of(self.new)}: {accuracies}, {100 * self.difference:+.1f} points {interval}, "
            f"p = {self.p:.2g}, {len(self.broken)} images broke anew, {len(self.mended)} no longer break"
        )

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values; the rows whole."""
        return vars(self) | {
            "old": self.old.as_dict(), "new": self.new.as_dict(),
            "broken": list(self.broken), "mended": list(self.mended),
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Comparison:
    """What `compare` found. It iterates over its changes, and shows itself as a table.

    Fields:
        changes: one for each row of both evaluations, clean first.
        allow: the loss of accuracy that is tolerated, in [0, 1].
        uncompared: rows of the new evaluation that the old one lacks.
        sources: the files that the images of the new evaluation come from, where they come from files.
    """

    changes: tuple[Change, ...]
    allow: float
    uncompared: tuple[Row, ...] = ()
    sources: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)

    def __len__(self) -> int:
        return len(self.changes)

    def __getitem__(self, place: int) -> Change:
        return self.changes[place]

    @property
    def verdict(self) -> Verdict:
        """Missed where the new model is significantly worse in some row, by more than is allowed."""
        return Verdict(tuple(
            Outcome(name_of(each.new), RULE, not each.worse(self.allow), str(each),
                    {"allowed": self.allow, "significance": SIGNIFICANT, **each.as_dict()})
            for each in self.changes
        ))  # fmt: skip

    @property
    def title(self) -> str:
        """What is compared with what."""
        first = self.changes[0]
        return f"{first.new.model} against {first.old.model}, {first.n} paired images of {first.new.dataset}"

    def __str__(self) -> str:
        lines = [self.title]
        for each in self.changes:
            lines.append(f"  {'WORSE' if each.worse(self.allow) else 'ok':5} {each}")
            if each.broken:
                lines.append(f"        broke anew: {self._images(each.broken)}")
        lines += [f"  not compared: {name_of(row)} (not measured on the old model)" for row in self.uncompared]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        head = ("", "old", "new", "difference, points", "95 % interval", "p", "broke anew", "worse")
        cells = [
            (name_of(each.new), f"{each.old_accuracy:.1%}", f"{each.new_accuracy:.1%}", f"{100 * each.difference:+.1f}",
             f"{100 * each.low:+.1f} to {100 * each.high:+.1f}", f"{each.p:.2g}", len(each.broken),
             "yes" if each.worse(self.allow) else "no")
            for each in self.changes
        ]  # fmt: skip
        return html_table(head, cells, self.title)

    def _images(self, numbers: Sequence[int]) -> str:
        shown = [self.sources[number] if self.sources else f"image {number}" for number in numbers[:_SHOWN]]
        more = len(numbers) - len(shown)
        return ", ".join(shown) + (f" and {more} more" if more else "")

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        worse = [each.worse(self.allow) for each in self.changes]
        changes = [each.as_dict() | {"worse": bad} for each, bad in zip(self.changes, worse, strict=True)]
        return {
            "worse": any(worse), "allow": self.allow, "significance": SIGNIFICANT, "changes": changes,
            "uncompared": [row.as_dict() for row in self.uncompared],
        }  # fmt: skip


def compare(
    old: str | os.PathLike[str] | Evaluation, new: str | os.PathLike[str] | Evaluation, *, allow: float = 0.0
) -> Comparison:
    """Compare two evaluations on the same images under the same attacks.

    Images are paired by their pixels, so their order and names do not matter. Only images that both evaluations
    finished count. A row is worse where McNemar's exact test says so (p < 0.05 over all rows together) and the loss is
    larger than allowed.

    Args:
        old, new: results of `evaluate`, or folders that `evaluate --out` wrote.
        allow: the loss of accuracy that is tolerated, in [0, 1].

    Raises `InputError` where images, labels, attacks, threats or seeds differ, or the old evaluation measured what the
    new one did not.
    """
    if not is_number(allow) or not 0 <= allow <= 1:
        raise InputError(f"allow {allow!r} is not a share: give a loss of accuracy from 0 to 1, such as 0.01")
    before, after = (each if isinstance(each, Evaluation) else Evaluation.load(each) for each in (old, new))
    names = tuple(f"the {age} evaluation" if isinstance(each, Evaluation) else str(each)
                  for age, each in (("old", old), ("new", new)))  # fmt: skip
    pairs = pair_images(before, after, names)
    matched = pair_rows(before, after, names)
    outcomes = [_outcomes(before, after, pairs, *rows) for rows in matched]
    p_values = holm([mcnemar(one, other) for one, other, _ in outcomes])
    changes = tuple(_change(rows, outcome, p) for rows, outcome, p in zip(matched, outcomes, p_values, strict=True))
    compared = {new_row for _, new_row in matched}
    extra = tuple(row for row in after.rows if row not in compared and bool(after.per_image[row].finished.any()))
    return Comparison(changes, float(allow), extra, after.sources)


def _outcomes(before: Evaluation, after: Evaluation, pairs: Pairs, old: Row, new: Row) -> Paired:
    """Right by the old and by the new model (N, bool), and numbers in the new data of the images that both finished."""
    one, other = before.per_image[old], after.per_image[new]
    finished = one.finished.numpy()[pairs.old] & other.finished.numpy()[pairs.new]
    if not finished.any():
        raise InputError(f"no image was finished under {name_of(new)} in both evaluations: give them more time")
    places = pairs.new[finished]
    return one.right.numpy()[pairs.old[finished]], other.right.numpy()[places], places


def _change(rows: tuple[Row, Row], outcomes: Paired, p: float) -> Change:
    one, other, places = outcomes
    broken, mended = (tuple(sorted(places[each].tolist())) for each in (one & ~other, ~one & other))
    accuracies = float(one.mean()), float(other.mean())
    return Change(*rows, len(one), *accuracies, *paired_difference(one, other), p, broken, mended)
