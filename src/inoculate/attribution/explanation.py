"""The result of `explain`: images as arrays, everything else as JSON. Nothing here imports torch."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inoculate.artifacts.files import read_json, write_json
from inoculate.artifacts.names import file_name
from inoculate.core.errors import InputError

FACTS, ARRAYS = "explain.json", "explain.npz"
EXPLANATIONS = "explanations"  # the folder of a run that holds one folder per network and arm
FORMAT = 1
_WANTED = {"dataset", "model", "arm", "seed", "norm", "eps", "attack", "classes", "image_size", "images", "drift"}


@dataclass(frozen=True)
class Amounts:
    """How much of a network is explained.

    `images` are shown, `drift` are followed from clean to adversarial, `fragility` are searched for the smallest eps
    that breaks them; `steps` of each path integral, `search` steps of each search.
    """

    images: int = 6
    drift: int = 32
    fragility: int = 64
    steps: int = 16
    search: int = 30


@dataclass(frozen=True, eq=False)
class Explanation:
    """One network explained: `facts` (JSON values) and, for the shown images, `arrays`.

    clean: uint8, N×H×W×C. perturbation: int8, N×H×W×C, in 1/127 of each image's `scale`. gradients: int8, N×2×H×W,
    evidence for (+) and against (−) the class on the clean and the adversarial image. focus: uint8, N×2×H×W, or absent.
    """

    facts: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    @property
    def key(self) -> tuple[str, str, str]:
        """Dataset, model, arm."""
        return self.facts["dataset"], self.facts["model"], self.facts["arm"]

    def save(self, folder: Path) -> None:
        """Write both files into `folder`."""
        arrays: dict[str, Any] = dict(self.arrays)
        np.savez_compressed(folder / ARRAYS, **arrays)
        write_json(folder / FACTS, {"format": FORMAT, **self.facts})

    @classmethod
    def load(cls, folder: Path) -> Explanation:
        """Read what `save` wrote; raises `InputError` if it is missing, damaged or of another format."""
        facts = read_json(folder / FACTS)
        if not isinstance(facts, dict) or facts.get("format") != FORMAT or not set(facts) >= _WANTED:
            raise InputError(f"{folder / FACTS} is no explanation of this version: delete it and run again")
        try:
            with np.load(folder / ARRAYS, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{folder / ARRAYS} cannot be read ({error}): delete it and run again") from None
        shown = len(facts["images"])
        if any(len(array) != shown for array in arrays.values()) or not {"clean", "perturbation"} <= set(arrays):
            raise InputError(f"{folder / ARRAYS} does not fit {FACTS}: delete both and run again")
        return cls(facts, arrays)


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
