"""The results of `evaluate` and `transfer`: rows, per-image arrays, checks; shown, saved and loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inoculate.core.errors import InputError
from inoculate.core.groups import GroupAccuracy, accuracy_by, named_groups
from inoculate.core.options import require_one_of
from inoculate.core.requirements import Bound, judge, parse_requirements
from inoculate.core.results import HasRows, early_termination_words, html_of, name_of
from inoculate.core.row import Row
from inoculate.core.threat import Norm, Threat
from inoculate.core.verdict import Verdict
from inoculate.evaluation.checks import Check
from inoculate.evaluation.combined import combined_rows
from inoculate.evaluation.files import (
    load_checks,
    load_results,
    load_thumbnails,
    save_checks,
    save_results,
    save_thumbnails,
)
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.thumbnails import Thumbnails


@dataclass(frozen=True, eq=False)
class Evaluation(HasRows):
    """What `evaluate` measured. It iterates over its rows, and shows itself as a table.

    Fields:
        rows: clean accuracy first.
        per_image: the result on every image, by row.
        checks: whether the numbers can be trusted, made at the threat `checked`.
        warnings: what looks wrong, one line each.
        labels: of the images (N).
        classes: names of the classes.
        checked: the threat of the checks.
        notes: how the images were read, one line each.
        sources: the file that each image comes from, where they come from files.
        spare_passes: how many forward passes explanations may make so that, with the checks, they cost no more than
            the attacks: `Amounts().within(found.spare_passes)`.
        provenance: what the numbers were made from: digests of data and weights, the options of every attack, and
            versions of software, as JSON values.
        identities: a digest of the pixels of each image (N), by which two evaluations are paired.
        thumbnails: small copies of the images that fail first.
        groups: of the images, by the name of a column (N each).
    """

    rows: list[Row]
    per_image: dict[Row, PerSampleResult]
    checks: list[Check] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    labels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    classes: tuple[str, ...] = ()
    checked: Threat | None = None
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    spare_passes: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)
    identities: tuple[str, ...] = ()
    thumbnails: Thumbnails = field(default_factory=Thumbnails.none)
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def images(self) -> dict[Row, Tensor]:
        """The adversarial images by row (N×C×H×W in [0, 1]; clean where nothing was attacked), if they were kept."""
        return {row: result.images for row, result in self.per_image.items() if result.images is not None}

    @property
    def image_facts(self) -> dict[str, Any]:
        """Labels, class names and source files of the images, as JSON holds them."""
        return {"labels": self.labels.tolist(), "classes": list(self.classes), "sources": list(self.sources)}

    @property
    def title(self) -> str:
        """What was measured on what."""
        return f"{self.rows[0].model} on {len(self.labels)} images of {self.rows[0].dataset}" if self.rows else ""

    def __str__(self) -> str:
        lines = (*map(self._line, self.rows), *self._worst_groups(), *map(str, self.checks))
        return "\n".join([self.title, *(f"  {line}" for line in lines)])

    def accuracy_by(self, column: str, row: Row) -> list[GroupAccuracy]:
        """The accuracy of each group of images under a row, the worst first.

        column: one of `groups`, or `class`. Raises `InputError` for another.
        """
        numbers = self.labels.tolist()
        by_class = [self.classes[number] if number < len(self.classes) else str(number) for number in numbers]
        known = {"class": by_class, **self.groups}
        require_one_of(tuple(known), column=column)
        result = self.per_image[row]
        return accuracy_by(known[column], result.right.numpy(), result.finished.numpy())

    def _worst_groups(self) -> Iterator[str]:
        for column in self.groups:
            for row in self.rows:
                if not (found := self.accuracy_by(column, row)):  # a mean over corruptions
                    continue
                worst, (low, high) = found[0], found[0].interval
                few = " (too few images for a conclusion)" if worst.is_small else ""
                yield (
                    f"worst {column}, {name_of(row)}: {worst.name} {worst.accuracy:.1%}  [{low:.1%}, {high:.1%}] of "
                    f"{worst.n} images{few}"
                )

    def _line(self, row: Row) -> str:
        line = f"{name_of(row):28} {row.accuracy:6.1%}  [{row.ci_low:.1%}, {row.ci_high:.1%}]  {row.seconds:.1f} s"
        if row.hidden is not None:
            line += f"  {early_termination_words(row)}"
        if row.queries is not None:
            line += f"  {row.queries:.0f} queries an image"
        if row.tried is not None:
            line += f"  {row.reached} of {row.tried} taken for target {row.target}"
        if row.n == len(self.labels) or not row.has_eps:
            return line
        low, high = self.per_image[row].bounds
        return f"{line}  {row.n} images in the time given; over all {len(self.labels)} in [{low:.1%}, {high:.1%}]"

    def _repr_html_(self) -> str:
        lines = [*map(str, self.checks), *(f"warning: {message}" for message in self.warnings)]
        lines += [f"note: {note}" for note in self.notes]
        from inoculate import main_figure  # the report lies above this room

        return html_of(self.rows, self.title) + main_figure(self.rows) + "<br>\n".join(map(escape, lines))

    def save(self, folder: str | PathLike[str]) -> Path:
        """Write everything into `folder`, in place of an earlier evaluation; returns it."""
        facts = {"warnings": self.warnings, "notes": list(self.notes), "spare_passes": self.spare_passes}
        facts |= {"provenance": dict(self.provenance), "identities": list(self.identities)}
        facts |= self.image_facts | ({"groups": dict(self.groups)} if self.groups else {})
        save_checks(Path(folder), self.checks, self.checked)
        save_thumbnails(Path(folder), self.thumbnails)
        save_results(Path(folder), self.rows, self.per_image, facts)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> Evaluation:
        """Read what `save` wrote. Raises `InputError` for a missing or damaged file."""
        rows, per_image, facts = load_results(Path(folder))
        checks, checked = load_checks(Path(folder))
        labels = torch.tensor(facts.get("labels", ()), dtype=torch.int64)
        classes, notes, sources, identities = (
            tuple(facts.get(name, ())) for name in ("classes", "notes", "sources", "identities")
        )
        warnings, spare = facts.get("warnings", []), int(facts.get("spare_passes", 0))
        images = load_thumbnails(Path(folder))
        return cls(
            rows, per_image, checks, warnings, labels, classes, checked, notes, sources, spare,
            facts.get("provenance", {}), identities, images, named_groups(facts.get("groups") or {}, len(labels)),
        )  # fmt: skip

    def joined(self, other: Evaluation) -> Evaluation:
        """This evaluation with the attacked or corrupted rows of another, of the same model and images."""
        added = {row: result for row, result in other.per_image.items() if row.attack != "none"}
        return replace(self, rows=[*self.rows, *added], per_image=self.per_image | added)

    def require(self, requirements: str, on: Bound = "estimate") -> Verdict:
        """Judge requirements such as `"autoattack@8/255>=0.35,clean>=90%"`; the verdict is true where all are met.

        Each is `ATTACK[@[NORM:]SIZE]>=VALUE`. ATTACK is that of a row, or `clean`; `worst-case` counts an image that no
        attack breaks at the threat, and `worst-case@union` one that none breaks at any; the word `checks` alone
        requires that no check failed. `on` says what must reach VALUE: the `estimate`, or the `low` or `high` end of
        the 95 % interval, of which `low` also counts what early termination can have hidden. What was not measured is
        not met.

        Raises `InputError` for what is not understood, and where several rows answer one requirement.
        """
        return judge(parse_requirements(requirements), [*self.rows, *combined_rows(self.per_image)], on, self.checks)

    def report(self, path: str | PathLike[str]) -> Path:
        """Write one HTML page of the results to `path`; returns it."""
        from inoculate import write_report  # the report lies above this room

        written: Path = write_report(self, path)
        return written


@dataclass(frozen=True, eq=False)
class TransferMatrix(HasRows):
    """What `transfer` measured. It iterates over its rows, and shows itself as a table.

    Fields:
        rows: the clean accuracy of every model, then crafted on × evaluated on × threat.
        models: their names, in order.
        per_image: the result on every image, by row.
        warnings: what looks wrong with the models, one line each.
        notes: how the images were read, one line each.
    """

    rows: list[Row]
    models: tuple[str, ...]
    per_image: dict[Row, PerSampleResult]
    warnings: list[str] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    def matrix(
        self, eps: float | None = None, norm: Norm | None = None, mask: str | None = None
    ) -> dict[str, dict[str, float]]:
        """The accuracies at one threat: `matrix[crafted_on][evaluated_on]`. A single threat need not be named.

        Raises `InputError` where the threat was not measured, or is not the only one that fits.
        """
        attacked = [row for row in self.rows if row.attack != "none"]
        fitting = [
            row for row in attacked
            if eps in (None, row.eps) and norm in (None, row.norm) and mask in (None, row.mask)
        ]  # fmt: skip
        if len({(row.space, row.eps) for row in fitting}) != 1:
            known = dict.fromkeys(f"{row.space} {row.eps:g}" for row in attacked)
            raise InputError(f"eps {eps} does not name one of the measured threats: give one of {', '.join(known)}")
        found: dict[str, dict[str, float]] = {}
        for row in fitting:
            found.setdefault(_source_of(row), {})[row.model] = row.accuracy
        return found

    def _repr_html_(self) -> str:
        return html_of(self.rows, "Crafted on each model (protocol), evaluated on each")

    def save(self, folder: str | PathLike[str]) -> Path:
        """Write everything into `folder`; returns it."""
        facts = {"warnings": self.warnings, "models": list(self.models), "notes": list(self.notes)}
        save_results(Path(folder), self.rows, self.per_image, facts)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> TransferMatrix:
        """Read what `save` wrote. Raises `InputError` for a missing or damaged file."""
        rows, per_image, facts = load_results(Path(folder))
        models, notes = (tuple(facts.get(name, ())) for name in ("models", "notes"))
        return cls(rows, models, per_image, facts.get("warnings", []), notes)

    def report(self, path: str | PathLike[str]) -> Path:
        """Write one HTML page of the results to `path`; returns it."""
        from inoculate import write_report  # the report lies above this room

        written: Path = write_report(self, path)
        return written


def _source_of(row: Row) -> str:
    """The model that a row's examples were crafted on."""
    if row.protocol == "white-box":
        return row.model
    return row.protocol.removeprefix("transfer:").removesuffix(f"/{row.arm}")
