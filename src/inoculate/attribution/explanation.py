"""The result of `explain`: images as arrays, everything else as JSON. Nothing here imports torch."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inoculate.artifacts.files import read_json, write_file, write_json
from inoculate.artifacts.names import file_name
from inoculate.core.errors import InputError
from inoculate.core.results import html_table

FACTS, ARRAYS = "explain.json", "explain.npz"
EXPLANATIONS = "explanations"  # the folder of a run that holds one folder per network and arm
FORMAT = 2
LEAST_MEASURED = 8  # images: the statistics of fewer say little
_REQUIRED = {"dataset", "model", "arm", "seed", "norm", "eps", "attack", "classes", "image_size", "images", "stability"}


@dataclass(frozen=True)
class Amounts:
    """How much of a network is explained.

    Args:
        images: how many are shown.
        stability: of how many the attribution stability is measured.
        fragility: for how many the smallest eps that breaks them is searched.
        steps: of each path integral.
        search: steps of each search.
    """

    images: int = 6
    stability: int = 32
    fragility: int = 64
    steps: int = 16
    search: int = 30

    def within(self, passes: float) -> Amounts:
        """The largest amounts, up to these, that cost no more than so many forward passes; under PGD with 10 steps.

        Half is for the images shown, at least one; the rest for the images of the two measurements, which are left out
        if fewer than eight could be measured. Where not even three images could be shown, paths have eight steps.
        """
        steps = self.steps if passes / 2 >= 3 * self._shown else min(self.steps, 8)
        own = replace(self, steps=steps)
        images = min(self.images, max(1, int(passes / 2 / own._shown)))
        left = passes - images * own._shown
        stability = _enough(left / 2 / own._stable, self.stability)
        left -= stability * own._stable
        return replace(own, images=images, stability=stability, fragility=_enough(left / own._fragile, self.fragility))

    def passes(self, attack: int = 20) -> float:
        """How many forward passes these amounts cost; one with gradients counts as two. `attack`: those of the attack.

        The passes on which images are chosen are not counted.
        """
        shown, stable = (each + attack - 20 for each in (self._shown, self._stable))
        return self.images * shown + self.stability * stable + self.fragility * self._fragile

    @property
    def _shown(self) -> int:  # two path integrals, two Grad-CAMs, two predictions, one attack
        return 20 + 2 * 2 * self.steps + 2 * 2 + 2

    @property
    def _stable(self) -> int:  # three path integrals, one prediction, one attack
        return 20 + 3 * 2 * self.steps + 1

    @property
    def _fragile(self) -> int:  # the gradient of the margin, and the search with its checks
        return 2 + 2 * self.search + 8


def _enough(affordable: float, wanted: int) -> int:
    """As many images as are affordable, up to those wanted; none rather than a few."""
    found = min(wanted, int(affordable))
    return found if found >= min(LEAST_MEASURED, wanted) else 0


@dataclass(frozen=True, eq=False)
class Explanation:
    """One network explained: `facts` (JSON values) and, for the N images shown, `arrays`.

    Facts:
        images: predictions and attribution change of each.
        stability: the attribution changes under the attack and under noise.
        fragility: margin, gradient norm, estimated and measured smallest eps per image.
        notes: what is left out and why, one sentence each.

    Arrays:
        clean: uint8, N×H×W×C.
        perturbation: int8, N×H×W×C, in 1/127 of each image's `scale`.
        attribution: int8, N×2×H×W: integrated gradients for (+) and against (−) the class on the clean and on the
            adversarial image.
        grad_cam: uint8, N×2×H×W; absent for a network whose features have no place in the image.
    """

    facts: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    @property
    def space(self) -> str:
        """Norm and mask of the threat, as in rows (`Row.space`)."""
        mask = self.facts.get("mask")
        return f"{self.facts['norm']} in {mask}" if mask else str(self.facts["norm"])

    @property
    def key(self) -> tuple[str, str, str]:
        """Dataset, model, arm."""
        return self.facts["dataset"], self.facts["model"], self.facts["arm"]

    def table(self) -> dict[str, list[Any]]:
        """The images shown as columns: row, label, prediction and confidence clean and adversarial, change."""
        classes, images = self.facts["classes"], self.facts["images"]
        columns: dict[str, list[Any]] = {
            "row": [image["row"] for image in images],
            "label": [classes[image["label"]] for image in images],
        }
        for name in ("clean", "adversarial"):
            columns[name] = [classes[image[name]["predicted"]] for image in images]
            columns[f"{name}_confidence"] = [image[name]["confidence"] for image in images]
        return columns | {"attribution_change": [image["change"] for image in images]}

    def _repr_html_(self) -> str:
        from inoculate import main_figure  # the report lies above this room

        facts, columns = self.facts, self.table()
        title = f"{facts['model']} on {facts['dataset']} under {facts['attack']} {facts['norm']} eps {facts['eps']:.4g}"
        return html_table(columns, zip(*columns.values(), strict=True), title) + main_figure(self)

    def save(self, folder: str | PathLike[str]) -> Path:
        """Write both files into `folder`; returns it."""
        folder, arrays = Path(folder), dict[str, Any](self.arrays)
        write_file(folder / ARRAYS, lambda stream: np.savez_compressed(stream, **arrays))
        write_json(folder / FACTS, {"format": FORMAT, **self.facts})
        return folder

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> Explanation:
        """Read what `save` wrote; raises `InputError` if it is missing, damaged or of another format."""
        folder = Path(folder)
        facts = read_json(folder / FACTS)
        if not isinstance(facts, dict) or facts.get("format") != FORMAT or not set(facts) >= _REQUIRED:
            raise InputError(f"{folder / FACTS} is not an explanation of this version: delete it and run again")
        try:
            with np.load(folder / ARRAYS, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{folder / ARRAYS} cannot be read ({error}): delete it and run again") from None
        shown = len(facts["images"])
        if any(len(array) != shown for array in arrays.values()) or not {"clean", "perturbation"} <= set(arrays):
            raise InputError(f"{folder / ARRAYS} does not fit {FACTS}: delete both and run again")
        return cls({name: value for name, value in facts.items() if name != "format"}, arrays)

    def report(self, path: str | PathLike[str]) -> Path:
        """Write one HTML page of the explanation to `path`; returns it."""
        from inoculate import write_report  # the report lies above this room

        written: Path = write_report(self, path)
        return written


def save_explanations(folder: Path, explanations: Sequence[Explanation]) -> None:
    """Write explanations into a run's folder, in place of those of an earlier run."""
    place = folder / EXPLANATIONS
    by_name = {file_name(*explanation.key): explanation for explanation in explanations}
    for stale in place.glob(f"*/{FACTS}"):
        if stale.parent.name not in by_name:
            shutil.rmtree(stale.parent)
    for name, explanation in by_name.items():
        (place / name).mkdir(parents=True, exist_ok=True)
        explanation.save(place / name)
