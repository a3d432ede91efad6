"""The images that fail first, each with its label, its prediction, and the eps and the attack that break it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inoculate.artifacts.rows import Records
from inoculate.attribution.explanation import Explanation
from inoculate.core.row import Row
from inoculate.report.formatting import attack_name
from inoculate.report.image_record import ImageRecord
from inoculate.report.results import Results

MOST = 24  # images
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Failure:
    """One image that is misclassified.

    Fields:
        number: of the image in the data. source: its file, or nothing. label, prediction: names of classes.
        eps: the smallest at which it is wrong; 0: without an attack. attack: the one that breaks it there, or nothing.
        steps: for every eps of the run, from 0 on, what it is taken for; nothing while it is classified correctly.
        clean, attacked: pixels (H×W×C), as far as they were kept.
    """

    number: int
    source: str
    label: str
    prediction: str
    eps: float
    attack: str
    steps: Sequence[tuple[float, str]]
    clean: Pixels | None
    attacked: Pixels | None = None


def failures(results: Results, side: tuple[str, str], rows: Sequence[Row], record: ImageRecord) -> list[Failure]:
    """The failures of one network (model, arm), those that fail first at the beginning; `rows` are the record's.

    Where thumbnails were kept, only these images.
    """
    chosen = [(place, row) for place, row in enumerate(rows) if _belongs(row, results, side)]
    epsilons = sorted({0.0, *(row.eps for _, row in chosen)})
    by_eps = {eps: [place for place, row in chosen if row.eps == eps] for eps in epsilons}
    numbers: Iterable[int] = record.thumbnails or range(len(record.labels))
    found = []
    for number in numbers:
        steps = [(eps, _taken_for(record, by_eps[eps], number)) for eps in epsilons]
        first = next(((eps, wrong) for eps, wrong in steps if wrong is not None), None)
        if first is not None:
            eps, (place, predicted) = first
            found.append(
                Failure(
                    number,
                    record.sources[number] if record.sources else "",
                    record.name_of(int(record.labels[number])),
                    predicted,
                    eps,
                    _broken_by(record, rows, place, number),
                    [(size, wrong[1] if wrong else "") for size, wrong in steps],
                    record.thumbnails.get(number),
                )
            )
    return sorted(found, key=lambda each: each.eps)[:MOST]


def _belongs(row: Row, results: Results, side: tuple[str, str]) -> bool:
    where = row.dataset == results.dataset and (row.model, row.arm) == side
    measured = row.attack == "none" or (row.space == results.norm and row.protocol == "white-box")
    return where and measured and row.has_eps and row.attack != "certified"


def _taken_for(record: ImageRecord, places: Sequence[int], number: int) -> tuple[int, str] | None:
    """The first of the rows under which the image is wrong, and its prediction there; None while it stands."""
    for place in places:
        if record.finished[place, number] and not record.right[place, number]:
            return place, record.name_of(int(record.predicted[place, number])) or "another class"
    return None


def _broken_by(record: ImageRecord, rows: Sequence[Row], place: int, number: int) -> str:
    if rows[place].attack == "none":
        return ""
    name, part = attack_name(rows[place].attack), int(record.broken_by[place, number])
    names = record.names[place]
    inner = attack_name(str(names[part])) if 0 <= part < len(names) else name
    return name if inner == name else f"{name} ({inner})"


def explained_failures(results: Results, explained: Explanation, records: Records) -> list[Failure]:
    """The failures among the images of an explanation; `records` tell at which eps its attack breaks them first."""
    facts = explained.facts
    classes, attack = facts["classes"], facts["attack"]
    side = (facts["model"], facts["arm"])
    outcomes = _outcomes(results, side, attack, records)
    found = []
    for place, image in enumerate(facts["images"]):
        label, taken = image["label"], {name: image[name]["predicted"] for name in ("clean", "adversarial")}
        if taken["adversarial"] == label and taken["clean"] == label:
            continue
        row = image["row"]
        broken = [eps for eps, right in outcomes.items() if row < len(right) and not right[row]]
        eps = 0.0 if taken["clean"] != label else min([*broken, float(facts["eps"])])
        steps = [(0.0, "" if taken["clean"] == label else classes[taken["clean"]])]
        steps += [(size, _at(size, float(facts["eps"]), classes[taken["adversarial"]]) if size >= eps else "")
                  for size in outcomes]  # fmt: skip
        found.append(
            Failure(
                row,
                "",
                classes[label],
                classes[taken["adversarial" if eps else "clean"]],
                eps,
                attack_name(attack) if eps else "",
                steps,
                explained.arrays["clean"][place],
                adversarial_pixels(explained, place),
            )
        )
    return sorted(found, key=lambda each: each.eps)


def _at(eps: float, explained: float, prediction: str) -> str:
    """What an image is taken for: the prediction is known at the explanation's eps only."""
    return prediction if f"{eps:g}" == f"{explained:g}" else "another class"


def _outcomes(
    results: Results, side: tuple[str, str], attack: str, records: Records
) -> Mapping[float, NDArray[np.bool_]]:
    """Which images stand under the white-box attack, by eps."""
    found: dict[float, Any] = {}
    for eps in results.epsilons(attack):
        number = results.find(*side, attack, eps, "white-box")
        if number and number.rows[0].key in records:
            found[eps] = records[number.rows[0].key]
    return found


def adversarial_pixels(explained: Explanation, place: int) -> Pixels:
    """The adversarial image of an explanation (uint8, H×W×C)."""
    clean = explained.arrays["clean"][place].astype(np.float64)
    moved = explained.arrays["perturbation"][place] / 127 * explained.facts["images"][place]["scale"] * 255
    pixels: Pixels = (clean + moved).round().clip(0, 255).astype(np.uint8)
    return pixels


def eps_of_steps(found: Sequence[Failure]) -> list[float]:
    """Every eps at which it is known which of the images stand, ascending from 0."""
    return sorted({eps for each in found for eps, _ in each.steps})
