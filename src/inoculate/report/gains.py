"""The difference in accuracy between two arms, with its 95 % interval over images and seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import lcm
from typing import Literal

from inoculate.artifacts.rows import Records
from inoculate.core.row import Row
from inoculate.core.stats import paired_gain, seeds_margin, unpaired_gain
from inoculate.report.formatting import points
from inoculate.report.results import CLEAN, Results, View

Verdict = Literal["supported", "contradicted", "not decided"]
CONTROLS = {"duplicates": "training on clean copies", "noise": "training on random noise of the same size"}
Side = tuple[str, str]  # model, arm


@dataclass(frozen=True)
class Gain:
    """A mean difference of accuracy in [-1, 1] with its 95 % interval, and what it was measured on.

    The interval is over images, or over seeds where that is wider.
    """

    value: float
    low: float
    high: float
    images: int
    seeds: int
    models: tuple[str, ...]
    paired: bool

    @property
    def verdict(self) -> Verdict:
        """Whether the interval lies above 0 (`supported`), below 0 (`contradicted`) or on both sides."""
        if self.low > 0:
            return "supported"
        return "contradicted" if self.high < 0 else "not decided"

    @property
    def text(self) -> str:
        """The gain with its interval: `+1.2 points [0.3, 2.1]`."""
        return f"{points(self.value)} points {self.interval}"

    @property
    def interval(self) -> str:
        """The interval in points: `[0.3, 2.1]`."""
        return f"[{100 * self.low:.1f}, {100 * self.high:.1f}]"

    @property
    def basis(self) -> str:
        """The number of images and seeds, in parentheses."""
        seeds = "1 seed" if self.seeds == 1 else f"{self.seeds} seeds"
        how = "" if self.paired else ", unpaired interval from the counts"
        return f"({self.images:,} images, {seeds}{how})"


def arm_gain(
    results: Results, records: Records, models: Sequence[str], before: str, after: str, view: View
) -> Gain | None:
    """The mean gain of arm `after` over arm `before`, over networks × eps, or None where nothing is paired."""
    return compare(results, records, [((model, before), (model, after)) for model in models], view)


def compare(results: Results, records: Records, sides: Iterable[tuple[Side, Side]], view: View) -> Gain | None:
    """The mean gain of the second side, each (model, arm), over the first, over every eps and seed that both have.

    Each network counts as much as the others, however many seeds it has.
    """
    cells: list[list[tuple[Row, Row]]] = []  # of every network and eps: before and after by seed
    models: list[str] = []
    for left, right in sides:
        for eps in [0.0] if view == CLEAN else results.epsilons(view.attack):
            one, other = (results.find(*side, view.attack, eps, view.reading) for side in (left, right))
            after = {row.seed: row for row in other.rows} if other else {}
            both = [(row, after[row.seed]) for row in one.rows if row.seed in after] if one else []
            if both:
                cells.append(both)
                models.append(right[0])
    if not cells:
        return None
    most = lcm(*map(len, cells))
    pairs = [pair for cell in cells for pair in cell * (most // len(cell))]  # repeated: as many for each network
    images = min(row.n for pair in pairs for row in pair)
    seeds = len({row.seed for row, _ in pairs})
    paired = all(row.key in records for pair in pairs for row in pair)
    if paired:
        # A seed is one more column: averaging seeds image by image holds whether or not they share their images.
        numbers = paired_gain([records[row.key] for row, _ in pairs], [records[row.key] for _, row in pairs])
    else:
        means = [sum(pair[side].accuracy for pair in pairs) / len(pairs) for side in (0, 1)]
        numbers = unpaired_gain(means[0], means[1], images)
    value, low, high = numbers
    margin = _seeds_margin([{after.seed: after.accuracy - before.accuracy for before, after in cell} for cell in cells])
    return Gain(
        value, min(low, value - margin), max(high, value + margin), images, seeds, tuple(dict.fromkeys(models)), paired
    )


def _seeds_margin(cells: Sequence[Mapping[int, float]]) -> float:
    """Half the interval of the mean gain over seeds; 0 where no network has two.

    A seed's effect is its mean distance from what the same networks gain on average, so that networks with fewer seeds
    do not count as variation between seeds.
    """
    effects: dict[int, list[float]] = {}
    for cell in cells:
        mean = sum(cell.values()) / len(cell) if cell else 0.0
        for seed, gain in cell.items() if len(cell) > 1 else ():
            effects.setdefault(seed, []).append(gain - mean)
    return seeds_margin([sum(each) / len(each) for each in effects.values()]) if effects else 0.0
