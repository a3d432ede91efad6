"""What every artefact of a study is made from: the specs whose fingerprints name them in the store."""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from inoculate.artifacts.files import file_digest, read_json
from inoculate.artifacts.specs import fingerprint
from inoculate.artifacts.store import Store
from inoculate.core.errors import InputError
from inoculate.data.sources import Source, find_source
from inoculate.study.arm_names import WITH_COPIES
from inoculate.study.cell import ANY_SURROGATE, CHOICE, Cell
from inoculate.study.code import code_of
from inoculate.study.config import MOST_VULNERABLE, Study
from inoculate.study.inputs import Inputs, inputs_of
from inoculate.study.sections import TrainingConfig
from inoculate.training.methods.names import NEEDS_NETWORK

Spec = dict[str, Any]


@dataclass
class Specs:
    """Specs of a study's cells. The surrogate, where the study chooses it, is read from the store."""

    study: Study
    store: Store
    data_root: str | os.PathLike[str] | None = None
    sources: dict[str, Source] = field(default_factory=dict)

    def source(self, dataset: str) -> Source:
        """Where a dataset of the study comes from; raises `InputError` if it is nowhere."""
        if dataset not in self.sources:
            self.sources[dataset] = find_source(self.study.datasets[dataset].source or dataset, self.data_root)
        return self.sources[dataset]

    def surrogate(self, dataset: str) -> str:
        """The network whose examples are transferred; raises `InputError` if the study has not chosen it yet."""
        if self.study.surrogate != MOST_VULNERABLE:
            return self.study.surrogate
        choice = Cell("surrogate", dataset, self.study.seeds[0], attack=self.study.transfer)
        return str(read_json(self.path(choice) / CHOICE)["surrogate"])

    def resolved(self, cell: Cell) -> Cell:
        """The cell with the surrogate's name filled in."""
        return replace(cell, model=self.surrogate(cell.dataset)) if cell.model == ANY_SURROGATE else cell

    def known(self, cell: Cell) -> Cell | None:
        """The resolved cell; None if the study has not chosen the surrogate yet that it, or an input, depends on."""
        with contextlib.suppress(InputError):
            known = self.resolved(cell)
            self.path(known)
            return known
        return None

    def repeats(self, cell: Cell) -> bool:
        """Whether this is the surrogate on its own examples, which is its white-box or replayed reading."""
        return cell.reading == "surrogate" and cell.model == self.surrogate(cell.dataset)

    def inputs(self, cell: Cell) -> Inputs[Cell]:
        """The cells that `cell` is made from, with the surrogate's name filled in."""
        return inputs_of(self.study, cell).map(self.resolved)

    def protocol(self, cell: Cell) -> str:
        """How the rows of an evaluation say on which network its examples were crafted (`Row.protocol`)."""
        examples = None if cell.reading == "white-box" else self.inputs(cell).examples
        return f"transfer:{examples.model}/standard" if examples else "white-box"

    def path(self, cell: Cell) -> Path:
        """Where a cell's artefact is, or will be."""
        return self.store.path(cell.kind, self.of(cell))

    def find(self, cell: Cell) -> Path | None:
        """A cell's artefact, if it is there and whole."""
        return self.store.find(cell.kind, self.of(cell))

    def of(self, cell: Cell) -> Spec:
        """The spec of a cell's artefact."""
        specs = {
            "fit": self._fit,
            "surrogate": self._surrogate,
            "craft": self._craft,
            "evaluate": self._evaluate,
            "explain": self._explain,
        }
        return {"code": code_of(cell.kind), **specs[cell.kind](cell)}

    def split(self, dataset: str, seed: int) -> Spec:
        """The spec of a dataset's train, val and test parts."""
        config = self.study.datasets[dataset]
        return {
            "code": code_of("split"),
            "data": self.source(dataset).digest,
            "reading": config.preprocessing.spec,
            "split": self.study.split.model_dump(),
            "limit": self.study.limit,
            "seed": seed,
        }

    def _fit(self, cell: Cell) -> Spec:
        study, arm, inputs = self.study, cell.arm, self.inputs(cell)
        training = study.training_for(cell.dataset)
        spec: Spec = {
            "split": fingerprint(self.split(cell.dataset, cell.seed)),
            "model": cell.model,
            "stem": study.stem,
            "pretrained": study.pretrained,
            "arm": arm,
            "training": training.model_dump(exclude=_without_effect(training, arm)),
            "seed": cell.seed,
            "networks": [fingerprint(self.of(network)) for network in inputs.networks],
            "examples": fingerprint(self.of(inputs.examples)) if inputs.examples else None,
        }
        if cell.model in study.weights:
            spec["weights"] = file_digest(study.weights[cell.model])
        if study.datasets[cell.dataset].normalize is not None:
            spec["normalize"] = study.datasets[cell.dataset].normalize
        if arm != "standard":
            spec["augment"] = study.datasets[cell.dataset].augment or f"default of {cell.dataset}"
        if arm in WITH_COPIES:
            spec["copies"] = study.eps
        if arm == "duplicates":  # its copies have no eps, and with `balance` there is one per image
            spec["copies"] = 1 if training.balance else len(study.eps)
        return spec | (self._method(arm) if arm in study.methods else {})

    def _method(self, arm: str) -> Spec:
        """What an arm that is trained by a method depends on beside its networks."""
        config = self.study.methods[arm]
        return {
            "method": config.method,
            "options": config.options,
            "eps": self.study.threat_for(arm).eps,
            "norm": self.study.norm,
            "length": config.length,
            "alongside": self.study.surrogate if config.method in NEEDS_NETWORK else None,
        }

    def _surrogate(self, cell: Cell) -> Spec:
        return {
            "networks": {network.model: fingerprint(self.of(network)) for network in self.inputs(cell).networks},
            "attack": self._attack(self.study.transfer),
            "eps": self.study.eps,
            "images": self.study.evaluation.images,
            "evaluation": self._evaluation(),
        }

    def _craft(self, cell: Cell) -> Spec:
        return {
            "network": fingerprint(self.of(self.inputs(cell).networks[0])),
            "attack": self._attack(cell.attack),
            "eps": None if self.study.attacks[cell.attack].is_one_step else max(self.study.eps),
            "part": cell.part,
            "images": self.study.evaluation.images if cell.part == "test" else None,
            "evaluation": self._evaluation(),
        }

    def _evaluate(self, cell: Cell) -> Spec:
        study, inputs = self.study, self.inputs(cell)
        spec: Spec = {"network": fingerprint(self.of(inputs.networks[0])), "images": study.evaluation.images}
        if cell.attack == "none":
            return spec
        limits = (study.evaluation.images, study.attacks[cell.attack].images)
        return {
            **spec,
            "images": min((limit for limit in limits if limit is not None), default=None),
            "attack": self._attack(cell.attack),
            "eps": study.eps_for(cell.attack),
            "evaluation": self._evaluation(),
            "examples": fingerprint(self.of(inputs.examples)) if inputs.examples else None,
        }

    def _explain(self, cell: Cell) -> Spec:
        inputs, config = self.inputs(cell), self.study.explanations
        assert inputs.clean is not None  # explain cells have one
        return {
            "networks": [fingerprint(self.of(network)) for network in inputs.networks],
            "shown": fingerprint(self.of(inputs.clean)),  # images that the standard network classifies correctly
            "amounts": asdict(config.amounts) if config else None,
            "attack": self._attack(cell.attack),
            "eps": max(self.study.eps),
        }

    def _attack(self, name: str) -> Spec:
        config = self.study.attacks[name]
        spec = {"attack": config.attack, "norm": self.study.norm, **config.options}
        return spec if config.clip else spec | {"clip": False}

    def _evaluation(self) -> Spec:
        """The settings of evaluation that can change a number, beside which images are measured."""
        return self.study.evaluation.model_dump(include={"precision", "batch_size"})


def _without_effect(training: TrainingConfig, arm: str) -> set[str]:
    """The settings that do not change how an arm's network is trained."""
    unused = {"balance", "budget", "passes"} if arm == "standard" else set()
    return unused | ({"accumulate"} if training.accumulate == 1 else set())
