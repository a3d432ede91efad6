"""Which cells' artefacts a cell is made from: the edges of the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from inoculate.study.cell import ANY_SURROGATE, Cell
from inoculate.study.config import MOST_VULNERABLE, Study
from inoculate.training.methods.names import NEEDS_SURROGATES, NEEDS_TEACHER

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Inputs(Generic[T]):
    """What a cell is made from, as cells or as the folders of their artefacts.

    `networks` are trained networks: of a `fit`, the teacher or the surrogates of its method; of `explain`, the network
    and its standard version; of `surrogate`, the candidates; of other cells, the one network. `clean` is a clean
    evaluation. `examples` are stored adversarial examples.
    """

    networks: tuple[T, ...] = ()
    clean: T | None = None
    examples: T | None = None

    def __iter__(self) -> Iterator[T]:
        yield from self.networks
        yield from (each for each in (self.clean, self.examples) if each is not None)

    def map(self, function: Callable[[T], U]) -> Inputs[U]:
        """The same inputs with `function` applied to each."""
        clean = None if self.clean is None else function(self.clean)
        examples = None if self.examples is None else function(self.examples)
        return Inputs(tuple(map(function, self.networks)), clean, examples)


def inputs_of(study: Study, cell: Cell) -> Inputs[Cell]:
    """The cells that `cell` is made from; a surrogate that the study chooses is `ANY_SURROGATE`."""
    surrogate = ANY_SURROGATE if study.surrogate == MOST_VULNERABLE else study.surrogate
    standard = Cell("fit", cell.dataset, cell.seed, cell.model)
    clean = Cell("evaluate", cell.dataset, cell.seed, cell.model, attack="none")
    if cell.kind == "fit":
        examples = None
        if cell.arm == "transferred":
            examples = Cell("craft", cell.dataset, cell.seed, surrogate, part="train", attack=study.transfer)
        return Inputs(_helpers(study, cell), examples=examples)
    if cell.kind == "surrogate":
        return Inputs(tuple(replace(standard, model=model) for model in study.models))
    if cell.kind == "craft":
        return Inputs((standard,))
    network = replace(standard, arm=cell.arm)
    if cell.kind == "explain":
        return Inputs((network, standard), clean)
    if cell.attack == "none":
        return Inputs((network,))
    return Inputs((network,), replace(clean, arm=cell.arm), _replayed(study, cell, surrogate))


def dependencies(study: Study, cell: Cell) -> tuple[Cell, ...]:
    """The cells that must be done before `cell`, known before any of them is.

    Where the surrogate is chosen by the study, the choice and every candidate's examples are among them.
    """
    found: dict[Cell, None] = {}
    for each in inputs_of(study, cell):
        if each.model == ANY_SURROGATE and each.part != "train":
            found[Cell("surrogate", cell.dataset, study.seeds[0], attack=study.transfer)] = None
            found |= {replace(each, model=model): None for model in study.models}
        else:
            found[each] = None
    return tuple(found)


def _helpers(study: Study, cell: Cell) -> tuple[Cell, ...]:
    """The trained networks that the method of an arm needs: a teacher, or surrogates."""
    config = study.methods.get(cell.arm)
    if config is None:
        return ()
    if config.method in NEEDS_TEACHER:
        return (Cell("fit", cell.dataset, cell.seed, config.teacher or study.surrogate, config.teacher_arm),)
    if config.method in NEEDS_SURROGATES:
        models = config.surrogates or study.models
        return tuple(Cell("fit", cell.dataset, cell.seed, model, config.surrogate_arm) for model in models)
    return ()


def _replayed(study: Study, cell: Cell, surrogate: str) -> Cell | None:
    """The stored examples that an evaluation replays; None if it crafts its own."""
    own_standard = cell.arm == "standard" and study.attacks[cell.attack].is_one_step
    if cell.reading == "surrogate":
        model = surrogate
    elif cell.reading == "replayed" or own_standard:
        model = cell.model
    else:
        return None
    return Cell("craft", cell.dataset, cell.seed, model, part="test", attack=cell.attack)
