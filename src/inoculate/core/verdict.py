"""The verdict of a gate: one outcome for each thing that was required of the measured numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """Whether one requirement is met.

    Fields:
        name: the requirement as it was written.
        rule: the kind of requirement, such as `robust-accuracy`.
        met: the verdict. What was not measured is not met.
        sentence: the measured value, the required one, and what they were judged on.
        facts: the numbers behind it, as JSON values.
    """

    name: str
    rule: str
    met: bool
    sentence: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What a gate decided. It is true where every requirement is met."""

    outcomes: tuple[Outcome, ...]

    def __bool__(self) -> bool:
        return self.met

    @property
    def met(self) -> bool:
        """Whether every requirement is met."""
        return all(outcome.met for outcome in self.outcomes)

    @property
    def missed(self) -> tuple[Outcome, ...]:
        """The outcomes that are not met."""
        return tuple(outcome for outcome in self.outcomes if not outcome.met)

    @property
    def line(self) -> str:
        """One line: what was missed, else that everything is met."""
        if self.met:
            return f"met: {'; '.join(outcome.sentence for outcome in self.outcomes)}"
        many = f"{len(self.missed)} of {len(self.outcomes)} requirements: " if len(self.outcomes) > 1 else ""
        return f"missed: {many}{'; '.join(outcome.sentence for outcome in self.missed)}"

    def __str__(self) -> str:
        return self.line

    def as_dict(self) -> dict[str, Any]:
        """The verdict as JSON values."""
        outcomes = [
            {"requirement": each.name, "rule": each.rule, "met": each.met, "sentence": each.sentence, **each.facts}
            for each in self.outcomes
        ]
        return {"met": self.met, "outcomes": outcomes}
