"""The result of `evaluate_variants`: rows, checks; shown, saved and loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from os import PathLike
from pathlib import Path

from inoculate.core.requirements import Bound, judge, parse_requirements
from inoculate.core.results import HasRows, early_termination_words, html_table, name_of
from inoculate.core.row import Row
from inoculate.core.stats import mcnemar
from inoculate.core.threat import Threat
from inoculate.core.verdict import Verdict
from inoculate.evaluation.checks import Check
from inoculate.evaluation.files import load_checks, load_results, save_checks, save_results
from inoculate.evaluation.per_sample import PerSampleResult

OWN_ATTACK = "own-attack"  # the protocol of a row without the examples of the other variants
POINT = 0.01  # of the images: a difference that is flagged
SIGNIFICANT = 0.05


@dataclass(frozen=True, eq=False)
class VariantComparison(HasRows):
    """What `evaluate_variants` measured. It iterates over its rows, and shows itself as a table.

    Fields:
        rows: the clean accuracy of each variant, then for each attack and threat the worst of its own attack and of the
            examples of all others (protocol `white-box`), and that of its own attack alone (`own-attack`). `arm` is the
            variant.
        variants: their names, in order.
        per_image: the result on every image, by row. `broken_by` of a `white-box` one is the variant whose examples
            broke the image.
        checks: for each attack and threat, whether the variants differ by a point or more, and which variant's own
            attack finds significantly less than the examples of the others.
        warnings: what looks wrong, one line each.
        notes: how the images were read, one line each.
        checked: the largest threat.
    """

    rows: list[Row]
    variants: tuple[str, ...]
    per_image: dict[Row, PerSampleResult]
    checks: list[Check] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    checked: Threat | None = None

    @property
    def judged(self) -> list[Row]:
        """The rows that count: clean, and with the examples of all variants."""
        return [row for row in self.rows if row.protocol != OWN_ATTACK]

    def accuracies(self) -> dict[str, dict[str, float]]:
        """The accuracies that count, in [0, 1]: `accuracies()["autoattack linf eps 0.03137"]["int8"]`."""
        found: dict[str, dict[str, float]] = {}
        for row in self.judged:
            found.setdefault(name_of(row), {})[row.arm] = row.accuracy
        return found

    def require(self, requirements: str, on: Bound = "estimate") -> Verdict:
        """Judge requirements as `Evaluation.require` does, each on the variant with the lowest accuracy."""
        lowest: dict[str, Row] = {}
        for row in sorted(self.judged, key=lambda row: row.accuracy):
            lowest.setdefault(name_of(row), row)
        return judge(parse_requirements(requirements), list(lowest.values()), on, self.checks)

    @property
    def title(self) -> str:
        """What was measured on what."""
        first = self.rows[0]
        return f"{first.model} as {', '.join(self.variants)} on {first.n} images of {first.dataset}"

    def __str__(self) -> str:
        lines, cell, width = [self.title], "", max(map(len, self.variants))
        for row in self.judged:
            if name_of(row) != cell:
                cell = name_of(row)
                lines.append(f"  {cell}")
            interval = f"[{row.ci_low:.1%}, {row.ci_high:.1%}]"
            words = "; ".join(self._remarks(row))
            lines.append(f"    {row.arm:{width}} {row.accuracy:6.1%}  {interval}  {words}".rstrip())
        return "\n".join([*lines, *(f"  {check}" for check in self.checks)])

    def _remarks(self, row: Row) -> list[str]:
        """The accuracy under the variant's own attack where it differs, and what its gradients are."""
        own = [each.accuracy for each in self.rows if _cell(each) == _cell(row) and each.protocol == OWN_ATTACK]
        alone = f"own attack alone {own[0]:.1%}" if own and own[0] != row.accuracy else ""
        gradients = f"gradients {row.gradients}" if row.gradients else ""
        return [each for each in (alone, gradients, early_termination_words(row)) if each]

    def _repr_html_(self) -> str:
        cells = [
            (name_of(row), row.arm, f"{row.accuracy:.1%}", f"{row.ci_low:.1%} to {row.ci_high:.1%}",
             "; ".join(self._remarks(row)))
            for row in self.judged
        ]  # fmt: skip
        lines = [*map(str, self.checks), *(f"warning: {each}" for each in self.warnings)]
        table = html_table(("", "variant", "accuracy", "95 % interval", ""), cells, self.title)
        return table + "".join(f"<br>\n{escape(line)}" for line in lines)

    def save(self, folder: str | PathLike[str]) -> Path:
        """Write everything into `folder`; returns it."""
        facts = {"warnings": self.warnings, "variants": list(self.variants), "notes": list(self.notes)}
        save_checks(Path(folder), self.checks, self.checked)
        save_results(Path(folder), self.rows, self.per_image, facts)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> VariantComparison:
        """Read what `save` wrote. Raises `InputError` for a missing or damaged file."""
        rows, per_image, facts = load_results(Path(folder))
        checks, checked = load_checks(Path(folder))
        variants, notes = (tuple(facts.get(name, ())) for name in ("variants", "notes"))
        return cls(rows, variants, per_image, checks, facts.get("warnings", []), notes, checked)


def variant_checks(cells: Sequence[Sequence[tuple[Row, PerSampleResult]]]) -> list[Check]:
    """The checks of a comparison; a cell has the rows of all variants, clean or under one attack at one threat."""
    found: list[Check] = []
    for cell in cells:
        judged = [pair for pair in cell if pair[0].protocol != OWN_ATTACK]
        alone = [pair for pair in cell if pair[0].protocol == OWN_ATTACK]
        found.append(_differences(judged))
        found += [check for pair in zip(alone, judged, strict=False) if (check := _own_attack(*pair)) is not None]
    return found


def _differences(pairs: Sequence[tuple[Row, PerSampleResult]]) -> Check:
    """Variants must differ by less than a point."""
    low, weak = min(pairs, key=lambda pair: pair[0].correct)
    high, strong = max(pairs, key=lambda pair: pair[0].correct)
    name = f"variants differ: {name_of(low)}"
    accuracies = ", ".join(f"{row.arm} {row.accuracy:.1%}" for row, _ in pairs)
    if high.correct - low.correct >= POINT * low.n - 1e-9:
        p = mcnemar(weak.right.numpy(), strong.right.numpy())
        points = 100 * (high.accuracy - low.accuracy)
        return Check(name, False, f"{accuracies}: {points:.1f} points between {low.arm} and {high.arm} (p = {p:.2g})")
    if POINT * low.n < 1:
        least = round(1 / POINT)
        return Check(name, None, f"{accuracies}: {low.n} images cannot show a difference of a point, give {least}")
    return Check(name, True, f"{accuracies}: less than a point between them")


def _own_attack(own: tuple[Row, PerSampleResult], judged: tuple[Row, PerSampleResult]) -> Check | None:
    """A variant's own attack must not find clearly less than the examples of the others do."""
    (row, alone), (_, together) = own, judged
    gap = int(alone.right.sum()) - int(together.right.sum())
    p = mcnemar(together.right.numpy(), alone.right.numpy(), "greater")
    if gap < POINT * row.n - 1e-9 or p >= SIGNIFICANT:
        return None
    message = (
        f"it leaves {int(alone.right.sum())} of {row.n} images right, and the examples of the other variants break "
        f"{gap} of these: its gradients are poor, and it may be weaker than the row says"
    )
    return Check(f"own attack of {row.arm}: {name_of(row)}", False, message)


def _cell(row: Row) -> tuple[str, str]:
    return row.arm, name_of(row)
