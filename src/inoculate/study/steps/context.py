"""What the artefacts of one dataset and seed are made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import nn

from inoculate.data.dataset import Dataset
from inoculate.models.loading.load import load_model
from inoculate.study.config import Study
from inoculate.study.sections import TrainingConfig
from inoculate.study.steps.split import SplitData
from inoculate.training.distributed import SINGLE, ProcessGroup

_KEPT = 2  # networks in memory: the next few cells mostly need the same


class StepProgress(Protocol):
    """Receives units done and their total, with facts to show beside them, such as the loss."""

    def __call__(self, done: int, total: int, facts: Mapping[str, float]) -> None: ...


@dataclass(eq=False)
class Networks:
    """Trained networks by the folder of their artefact, on `device`."""

    device: str
    _loaded: dict[Path, nn.Module] = field(default_factory=dict)

    def load(self, folder: Path) -> nn.Module:
        """The network in eval mode; the same object while it stays in memory."""
        network = self._loaded.pop(folder, None) or load_model(folder).to(self.device)
        self._loaded[folder] = network
        while len(self._loaded) > _KEPT:
            del self._loaded[next(iter(self._loaded))]
        return network


@dataclass(frozen=True, eq=False)
class Context:
    """The study, its data, the seed, the networks trained so far, who is told of the progress, and who trains."""

    study: Study
    data: SplitData
    seed: int
    networks: Networks
    progress: StepProgress
    group: ProcessGroup = SINGLE

    @property
    def device(self) -> str:
        """Where everything is computed."""
        return self.networks.device

    @property
    def training(self) -> TrainingConfig:
        """How this dataset's networks are trained."""
        return self.study.training_for(self.data.train.name)

    @property
    def tested(self) -> Dataset:
        """The test images on which accuracy is measured."""
        return self.data.test.subset(range(self.study.evaluation.limit(len(self.data.test))))

    def count(self, done: int, total: int) -> None:
        """Progress without facts."""
        self.progress(done, total, {})

    def report(self, what: str, done: int, total: int) -> None:
        """Progress of a job, whose steps all belong to this one."""
        self.progress(done, total, {})
