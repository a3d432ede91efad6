"""A cell of a study's plan: one step, whose result is one artefact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reading = Literal["white-box", "replayed", "surrogate"]
RIGHT, MEASURED, CHOICE = "right.npy", "measured.json", "choice.json"  # files in artefacts of `evaluate`, `surrogate`
ANY_SURROGATE = "(surrogate)"  # in place of a model's name until the most vulnerable network is chosen


@dataclass(frozen=True)
class Cell:
    """One step of a study.

    `fit` trains `model` for `arm`. `surrogate` chooses one of the standard networks. `craft` makes adversarial examples
    of `part` on the standard version of `model`. `evaluate` measures `attack` (`none`: clean) on a trained network,
    under one reading: `white-box` (crafted on it), `replayed` (crafted on its standard version), or `surrogate`
    (crafted on the surrogate). `explain` attributes a network's decisions on clean and on adversarial images.
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
        """What the step does, in words."""
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
