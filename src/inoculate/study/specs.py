"""What every artefact of a study is made from: the specs whose fingerprints name them in the store."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from inoculate.artifacts.files import read_json
from inoculate.artifacts.specs import fingerprint
from inoculate.artifacts.store import Store
from inoculate.data.sources import Source, find_source
from inoculate.study.config import MOST_VULNERABLE, AttackChoice, Study, is_one_step
from inoculate.study.plan import ANY_SURROGATE, Cell
from inoculate.training.methods.names import NEEDS_NETWORK, NEEDS_SURROGATES, NEEDS_TEACHER, WITH_COPIES

Spec = dict[str, Any]
VERSIONS = {"trades": 2, "mart": 2, "rslad": 2}  # raised when a method's code gives other weights: see MEANING
TARGETS = 2  # likewise of attacks of several steps with a target
MEANING = 2  # raised when a change of the code gives another result for the same study: nothing old is then reused


@dataclass
class Specs:
    """Specs of a study's cells. One that was chosen during the study (the surrogate) is read from the store."""

    study: Study
    store: Store
    data_root: Path | None = None
    sources: dict[str, Source] = field(default_factory=dict)

    def source(self, dataset: str) -> Source:
        """Where a dataset of the study comes from."""
        if dataset not in self.sources:
            self.sources[dataset] = find_source(self.study.datasets[dataset].source or dataset, self.data_root)
        return self.sources[dataset]

    def of(self, cell: Cell) -> Spec:
        """The spec of a cell's artefact."""
        specs = {"fit": self._fit, "craft": self._craft, "evaluate": self._evaluate, "explain": self._explain}
        return specs.get(cell.kind, self._choice)(cell)

    def resolved(self, cell: Cell) -> Cell:
        """The cell with the surrogate's name filled in."""
        return self.examples(cell, cell.part, cell.attack) if cell.model == ANY_SURROGATE else cell

    def repeats(self, cell: Cell) -> bool:
        """Whether this is the surrogate tested on its own examples: its white-box or replayed reading is the same."""
        return cell.reading == "surrogate" and cell.model == self.surrogate(cell.dataset, cell.seed)

    def split(self, dataset: str, seed: int) -> Spec:
        """The spec of a dataset's train, val and test parts."""
        chosen = self.study.datasets[dataset]
        return {
            "meaning": MEANING,
            "data": self.source(dataset).digest,
            "image_size": chosen.image_size,
            "channels": chosen.channels,
            "split": self.study.split.model_dump(),
            "limit": self.study.limit,
            "seed": seed,
        }

    def _fit(self, cell: Cell) -> Spec:
        study, arm = self.study, cell.arm
        spec: Spec = {
            "split": fingerprint(self.split(cell.dataset, cell.seed)),
            "model": cell.model,
            "stem": study.stem,
            "pretrained": study.pretrained,
            "arm": arm,
            "training": self._training(cell.dataset, arm),
            "seed": cell.seed,
        }
        if arm in study.methods:
            return spec | self._method(cell)
        if arm != "standard":
            spec["augment"] = study.datasets[cell.dataset].augment or f"default of {cell.dataset}"
        if arm in WITH_COPIES:
            spec["copies"] = study.eps
        if arm == "duplicates":  # its copies have no eps, and with `balance` there is one per image
            spec["copies"] = 1 if study.training_for(cell.dataset).balance else len(study.eps)
        if arm == "transferred":
            spec["examples"] = fingerprint(self._craft(self.examples(cell, "train", study.transfer)))
        return spec

    def _training(self, dataset: str, arm: str) -> Spec:
        """What of the training section counts for an arm; keys that came later are named only where they are used."""
        training = self.study.training_for(dataset)
        unused = {"balance", "budget", "passes"} if arm == "standard" else set()
        if training.budget != "passes":
            unused.add("passes")
        unused |= {key for key in ("rounds", "val_images") if getattr(training, key) is None}
        return training.model_dump(exclude=unused)

    def _method(self, cell: Cell) -> Spec:
        """What a hardened arm is made from beside the clean training part: method, eps, and the networks that help."""
        study, hardened = self.study, self.study.methods[cell.arm]
        return {
            **({"version": VERSIONS[hardened.method]} if hardened.method in VERSIONS else {}),
            "method": hardened.method,
            "options": hardened.options,
            "eps": study.threat_for(cell.arm).eps,
            "norm": study.norm,
            "augment": study.datasets[cell.dataset].augment or f"default of {cell.dataset}",
            "helpers": [fingerprint(self._fit(helper)) for helper in self.helpers(cell)],
            **({"length": hardened.length} if hardened.length != 1 else {}),
            "alongside": study.surrogate if hardened.method in NEEDS_NETWORK else None,
        }

    def helpers(self, cell: Cell) -> list[Cell]:
        """The trained networks that a hardened arm needs: a teacher, or surrogates."""
        study, hardened = self.study, self.study.methods[cell.arm]
        if hardened.method in NEEDS_TEACHER:
            return [Cell("fit", cell.dataset, cell.seed, study.surrogate, hardened.teacher_arm)]
        if hardened.method in NEEDS_SURROGATES:
            models = hardened.surrogates or study.models
            return [Cell("fit", cell.dataset, cell.seed, model, hardened.surrogate_arm) for model in models]
        return []

    def _craft(self, cell: Cell) -> Spec:
        choice = self.study.attacks[cell.attack]
        return {
            "fit": fingerprint(self._fit(Cell("fit", cell.dataset, cell.seed, cell.model))),
            "attack": _attack_spec(choice),
            **({} if is_one_step(choice) else {"eps": max(self.study.eps)}),
            "norm": self.study.norm,
            "part": cell.part,
            "images": self.study.evaluation.images if cell.part == "test" else None,
            "evaluation": self._how(),
        }

    def _evaluate(self, cell: Cell) -> Spec:
        study, choice = self.study, self.study.attacks.get(cell.attack)
        limits = [limit for limit in (study.evaluation.images, choice.images if choice else None) if limit is not None]
        spec: Spec = {
            "fit": fingerprint(self._fit(cell)),
            "attack": _attack_spec(choice) if choice else "none",
            "images": min(limits, default=None),
        }
        if choice:
            spec |= {"eps": study.eps_for(choice), "norm": study.norm, "evaluation": self._how()}
            crafted = self.crafted_on(cell)
            spec["examples"] = fingerprint(self._craft(crafted)) if crafted else None
        return spec

    def _explain(self, cell: Cell) -> Spec:
        study, standard = self.study, Cell("evaluate", cell.dataset, cell.seed, cell.model, attack="none")
        amounts = asdict(study.explanations.amounts) if study.explanations else None
        return {
            "fit": fingerprint(self._fit(cell)),
            "shown": fingerprint(self._evaluate(standard)),  # images that the standard network gets right
            "amounts": amounts,
            "attack": _attack_spec(study.attacks[cell.attack]),
            "eps": max(study.eps),
            "norm": study.norm,
        }

    def _choice(self, cell: Cell) -> Spec:
        fits = [self._fit(Cell("fit", cell.dataset, cell.seed, model)) for model in self.study.models]
        attack = _attack_spec(self.study.attacks[self.study.transfer])
        return {
            "fits": dict(zip(self.study.models, map(fingerprint, fits), strict=True)),
            "attack": attack,
            "eps": self.study.eps,
            "norm": self.study.norm,
            "images": self.study.evaluation.images,
            "evaluation": self._how(),
        }

    def _how(self) -> Spec:
        """What of the evaluation's settings can move a number beside which images it sees."""
        return self.study.evaluation.model_dump(include={"precision", "batch_size"})

    def examples(self, cell: Cell, part: Any, attack: str, model: str = ANY_SURROGATE) -> Cell:
        """The crafting whose examples `cell` uses."""
        name = self.surrogate(cell.dataset, cell.seed) if model == ANY_SURROGATE else model
        return Cell("craft", cell.dataset, cell.seed, name, part=part, attack=attack)

    def crafted_on(self, cell: Cell) -> Cell | None:
        """The stored examples that this evaluation replays; None if it crafts its own."""
        if cell.reading == "surrogate":
            return self.examples(cell, "test", cell.attack)
        own_standard = cell.arm == "standard" and is_one_step(self.study.attacks[cell.attack])
        if cell.reading == "replayed" or own_standard:
            return self.examples(cell, "test", cell.attack, cell.model)
        return None

    def surrogate(self, dataset: str, seed: int) -> str:
        """The network whose examples are transferred: named in the study, or chosen on validation."""
        if self.study.surrogate != MOST_VULNERABLE:
            return self.study.surrogate
        folder = self.store.path("surrogate", self._choice(Cell("surrogate", dataset, self.study.seeds[0])))
        return str(read_json(folder / "choice.json")["surrogate"])


def _attack_spec(choice: AttackChoice) -> Spec:
    version = {"version": TARGETS} if choice.options.get("target") is not None and not is_one_step(choice) else {}
    return {"attack": choice.attack, **choice.options, **version}
