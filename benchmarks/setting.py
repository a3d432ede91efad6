"""Which setting gives the pair that the paper prints before hardening: clean accuracy, and accuracy under FGSM?

`python -m benchmarks.setting results/setting`. A line for each setting and unit of eps, the nearest first: accuracies
are means of ResNet-18 and ResNet-50, FGSM's over the three eps; behind ± is half the distance between the lowest and
the highest seed. The distance is Euclidean, in points, from the published pair of the same two networks.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

from inoculate.artifacts.rows import read_rows
from inoculate.core.row import Row
from inoculate.report import published

NETWORKS = ("resnet18", "resnet50")
UNITS = {
    "[0, 1]": ("fgsm", (0.01, 0.02, 0.03)),
    "[0, 1], unclipped": ("unclipped", (0.01, 0.02, 0.03)),
    "normalised by 0.5": ("fgsm", (0.005, 0.01, 0.015)),
    "normalised by 0.3": ("fgsm", (0.003, 0.006, 0.009)),
    "normalised by 0.226": ("fgsm", (0.00226, 0.00452, 0.00678)),
}


def main(folder: str) -> None:
    """Print the table as Markdown."""
    rows = [row for row in read_rows(Path(folder) / "results.json") if row.protocol == "white-box"]
    printed = fmean(pair[0] for name in NETWORKS if (pair := published.clean("mnist", name)))
    target = (printed, published.adversarial_before("mnist") or math.nan)
    lines = []
    for dataset in dict.fromkeys(row.dataset for row in rows):
        own = [row for row in rows if row.dataset == dataset]
        for unit, (attack, eps) in UNITS.items():
            clean = by_seed(row for row in own if row.attack == "none")
            fgsm = by_seed(row for row in own if row.attack == attack and round(row.eps, 6) in eps)
            distance = math.dist((fmean(clean), fmean(fgsm)), target)
            lines.append((distance, f"| {dataset} | {unit} | {spread(clean)} | {spread(fgsm)} | {distance:.1f} |"))
    print("| setting | unit of eps | clean | FGSM, mean | distance |\n|---|---|---|---|---|")
    print("\n".join(line for _, line in sorted(lines)))


def by_seed(rows: Iterable[Row]) -> list[float]:
    """The mean accuracy in percent of each seed."""
    found: dict[int, list[float]] = {}
    for row in rows:
        found.setdefault(row.seed, []).append(100 * row.accuracy)
    return [fmean(values) for values in found.values()]


def spread(values: list[float]) -> str:
    """The mean, and half the distance between the lowest and the highest."""
    return f"{fmean(values):.1f} ± {(max(values) - min(values)) / 2:.1f}"


if __name__ == "__main__":
    main(sys.argv[1])
