"""What a training consists of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from inoculate.core.progress import Progress
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.training.methods.base import Method
from inoculate.training.recipe import Recipe
from inoculate.training.samples import TrainingSet

UpdateObserver = Callable[[int, int, dict[str, float]], None]  # updates done, updates in all, metrics of the last one


def observe_updates(progress: Progress | None, what: str) -> UpdateObserver | None:
    """An observer of a job, as one of `fit`."""
    return None if progress is None else lambda done, total, _: progress(what, done, total)


@dataclass(frozen=True, eq=False)
class TrainingPlan:
    """What a network is trained on, by which method, and how.

    samples: what batches are drawn from. val: chooses the best round. threat: what an adversarial method trains
    against. fallback: continues, once, after a monitor has detected a failure. Every random draw depends on `seed` and
    on the number of its update alone.
    """

    samples: TrainingSet
    val: Dataset
    method: Method
    recipe: Recipe
    seed: int = 0
    threat: Threat | None = None
    fallback: Method | None = None

    @property
    def methods(self) -> dict[str, Method]:
        """The methods by their role."""
        return {"method": self.method, **({} if self.fallback is None else {"fallback": self.fallback})}
