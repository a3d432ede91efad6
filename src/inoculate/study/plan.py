"""The plan of a study: a graph of cells, each listed after those that it depends on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from inoculate.study.arm_names import CONTROLS
from inoculate.study.cell import ANY_SURROGATE, Cell
from inoculate.study.config import MOST_VULNERABLE, Study
from inoculate.study.inputs import dependencies


@dataclass(frozen=True)
class Plan:
    """The cells of a study in an order in which they can be done, and for each the cells that it depends on."""

    cells: tuple[Cell, ...]
    dependencies: Mapping[Cell, tuple[Cell, ...]]

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets that the plan needs."""
        return tuple(dict.fromkeys(cell.dataset for cell in self.cells))


def plan(study: Study, only: str | None = None) -> Plan:
    """The plan of the study (of dataset `only`). The standard networks come first."""
    cells = tuple(
        cell
        for dataset in study.datasets
        if only in (None, dataset)
        for seed in study.seeds
        for cell in _plan_seed(study, dataset, seed)
    )
    return Plan(cells, {cell: dependencies(study, cell) for cell in cells})


def _plan_seed(study: Study, dataset: str, seed: int) -> list[Cell]:
    one_step = [name for name, config in study.attacks.items() if config.is_one_step]
    cells: list[Cell] = []
    trained = study.models_for(seed)
    for model in trained:
        cells.append(Cell("fit", dataset, seed, model))
        cells.append(Cell("evaluate", dataset, seed, model, attack="none"))
        cells += [Cell("craft", dataset, seed, model, part="test", attack=attack) for attack in one_step]
        cells += _white_box(study, dataset, seed, model, "standard")
    surrogate = study.surrogate
    if surrogate == MOST_VULNERABLE:
        surrogate = ANY_SURROGATE
        if seed == study.seeds[0]:  # chosen once, so that all seeds share it
            cells.append(Cell("surrogate", dataset, seed, attack=study.transfer))
    cells += _other_evaluations(study, dataset, seed, "standard", surrogate)
    if "transferred" in study.arms:
        cells.append(Cell("craft", dataset, seed, surrogate, part="train", attack=study.transfer))
    for arm in study.arms:
        if arm == "standard":
            continue
        for model in study.models_for(seed, arm):
            cells.append(Cell("fit", dataset, seed, model, arm))
            cells.append(Cell("evaluate", dataset, seed, model, arm, attack="none"))
            cells += _white_box(study, dataset, seed, model, arm)
        cells += _other_evaluations(study, dataset, seed, arm, surrogate)
    if study.explanations and seed == study.seeds[0]:
        arms = study.explanations.arms or [arm for arm in study.arms if arm not in CONTROLS]
        networks = {arm: study.models_for(seed, arm) for arm in arms}
        shown = study.explanations.models or trained
        explained = [(model, arm) for model in shown for arm in arms if model in networks[arm]]
        cells += [Cell("explain", dataset, seed, model, arm, attack=study.transfer) for model, arm in explained]
    return cells


def _white_box(study: Study, dataset: str, seed: int, model: str, arm: str) -> list[Cell]:
    """One-step attacks on a network itself."""
    return [
        Cell("evaluate", dataset, seed, model, arm, attack=name)
        for name, config in study.attacks.items()
        if config.is_one_step and config.covers(dataset, model, arm)
    ]


def _other_evaluations(study: Study, dataset: str, seed: int, arm: str, surrogate: str) -> list[Cell]:
    """What is measured on an arm beside the white-box one-step attacks: stored examples, and attacks of more steps."""
    cells = []
    for model in study.models_for(seed, arm):
        for attack, config in study.attacks.items():
            if not config.covers(dataset, model, arm):
                continue
            if not config.is_one_step:
                cells.append(Cell("evaluate", dataset, seed, model, arm, attack=attack))
                continue
            if arm != "standard":
                cells.append(Cell("evaluate", dataset, seed, model, arm, attack=attack, reading="replayed"))
            if model != surrogate:
                cells.append(Cell("evaluate", dataset, seed, model, arm, attack=attack, reading="surrogate"))
    return cells
