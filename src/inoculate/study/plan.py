"""What a study has to do, in dependency order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inoculate.study.config import MOST_VULNERABLE, Study, is_one_step
from inoculate.training.methods.names import CONTROLS

Reading = Literal["white-box", "replayed", "surrogate"]
ANY_SURROGATE = "(surrogate)"


@dataclass(frozen=True)
class Cell:
    """One step of a study; its result is one artefact.

    `fit` trains `model` for `arm`. `surrogate` chooses one of the standard networks. `craft` makes adversarial examples
    of `part` on the standard version of `model`. `evaluate` measures `attack` (`none`: clean) on a trained network,
    under one reading: `white-box` (crafted on it), `replayed` (crafted on its standard version), or the `surrogate`'s.
    `explain` shows what a trained network sees in clean and in adversarial images, and how near its errors are.
    """

    kind: Literal["fit", "surrogate", "craft", "evaluate", "explain"]
    dataset: str
    seed: int
    model: str = ""
    arm: str = "standard"
    part: Literal["", "train", "test"] = ""
    attack: str = ""
    reading: Reading = "white-box"

    @property
    def title(self) -> str:
        """What happens, for a person."""
        where = f"{self.dataset}" + (f" seed {self.seed}" if self.seed else "")
        if self.kind == "fit":
            return f"{where}: train {self.model} ({self.arm})"
        if self.kind == "surrogate":
            return f"{where}: choose the most vulnerable network"
        if self.kind == "craft":
            return f"{where}: craft on {self.model} ({self.part} images)"
        if self.kind == "explain":
            return f"{where}: explain {self.model} ({self.arm})"
        reading = "" if self.attack == "none" or self.reading == "white-box" else f", {self.reading} examples"
        return f"{where}: test {self.model} ({self.arm}) {'clean' if self.attack == 'none' else self.attack}{reading}"


def plan(study: Study, only: str | None = None) -> list[Cell]:
    """Every cell of the study (of dataset `only`), each after those it needs; the standard networks come first."""
    return [
        cell
        for dataset in study.datasets
        if only in (None, dataset)
        for seed in study.seeds
        for cell in _plan_one(study, dataset, seed)
    ]


def _plan_one(study: Study, dataset: str, seed: int) -> list[Cell]:
    cells: list[Cell] = []
    one_step = [name for name, choice in study.attacks.items() if is_one_step(choice)]
    for model in study.models:
        cells.append(Cell("fit", dataset, seed, model))
        cells.append(Cell("evaluate", dataset, seed, model, attack="none"))
        cells += [Cell("craft", dataset, seed, model, part="test", attack=attack) for attack in one_step]
        cells += [
            Cell("evaluate", dataset, seed, model, attack=attack)
            for attack in one_step
            if study.attacks[attack].covers(dataset, model, "standard")
        ]
    surrogate = study.surrogate
    if surrogate == MOST_VULNERABLE:
        surrogate = ANY_SURROGATE
        if seed == study.seeds[0]:  # chosen once, so that all seeds speak of the same network
            cells.append(Cell("surrogate", dataset, seed, attack=study.transfer))
    cells += _readings(study, dataset, seed, "standard", surrogate, one_step)
    if "transferred" in study.arms:
        cells.append(Cell("craft", dataset, seed, surrogate, part="train", attack=study.transfer))
    for arm in study.arms:
        if arm == "standard":
            continue
        for model in study.models:
            cells.append(Cell("fit", dataset, seed, model, arm))
            cells.append(Cell("evaluate", dataset, seed, model, arm, attack="none"))
            cells += [
                Cell("evaluate", dataset, seed, model, arm, attack=attack)
                for attack in one_step
                if study.attacks[attack].covers(dataset, model, arm)
            ]
        cells += _readings(study, dataset, seed, arm, surrogate, one_step)
    if study.explanations and seed == study.seeds[0]:
        arms = study.explanations.arms or [arm for arm in study.arms if arm not in CONTROLS]
        models = study.explanations.models or study.models
        cells += [Cell("explain", dataset, seed, m, arm, attack=study.transfer) for m in models for arm in arms]
    return cells


def _readings(study: Study, dataset: str, seed: int, arm: str, surrogate: str, one_step: list[str]) -> list[Cell]:
    """What is measured on an arm beside the white-box one-step attacks: transferred examples, then stronger attacks."""
    cells = []
    for model in study.models:
        for attack in study.attacks:
            if not study.attacks[attack].covers(dataset, model, arm):
                continue
            if attack not in one_step:
                cells.append(Cell("evaluate", dataset, seed, model, arm, attack=attack))
                continue
            if arm != "standard":
                cells.append(Cell("evaluate", dataset, seed, model, arm, attack=attack, reading="replayed"))
            if model != surrogate:
                cells.append(Cell("evaluate", dataset, seed, model, arm, attack=attack, reading="surrogate"))
    return cells
