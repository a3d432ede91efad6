"""What the jobs share that change images as nature does, without an attack: the classifier, and its clean result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from inoculate.core.rng import seeded
from inoculate.core.row import Row
from inoculate.data.dataset import Dataset
from inoculate.data.load import DataLike
from inoculate.evaluation.engine import Settings, measure_clean
from inoculate.evaluation.inputs import name_of_model, prepare_checked, resolve_data
from inoculate.evaluation.journal import Journal
from inoculate.evaluation.passes import batch_within_memory, require_batch_size
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.provenance import facts_of, provenance_of
from inoculate.evaluation.result import Evaluation
from inoculate.evaluation.spread import spread_over
from inoculate.models.classifier import Classifier
from inoculate.models.loading.load import ModelLike

if TYPE_CHECKING:
    from inoculate.evaluation.evaluate import EvaluationOptions


@dataclass(frozen=True, eq=False)
class Natural:
    """A prepared classifier and images, the result on these as they are, and what all rows share."""

    classifier: Classifier
    data: Dataset
    settings: Settings
    clean: PerSampleResult
    labels: Mapping[str, Any]
    warnings: list[str]

    @classmethod
    def begin(
        cls, model: ModelLike, data: DataLike, norm: str, batch_size: int | None, seed: int, options: EvaluationOptions
    ) -> Natural:
        """Prepare and measure the clean images; `norm` is what rows call the changes. Raises `InputError`."""
        require_batch_size(batch_size)
        images = resolve_data(data, model)
        prepared = prepare_checked(model, images, options.precision, options.device, seed, matching=options.matching)
        classifier, images = prepared.classifier, prepared.data
        journal = Journal.at(options.store)
        settings = Settings(batch_within_memory(classifier, images, batch_size), seed, journal=journal)
        labels = {
            "model": options.name or name_of_model(model), "arm": options.arm, "protocol": "white-box", "seed": seed,
            "dataset": images.name, "norm": norm,
        }  # fmt: skip
        with seeded(seed, "clean"):
            clean = measure_clean(classifier, images, settings)
        return cls(classifier, images, settings, clean, labels, prepared.warnings)

    @contextmanager
    def spread(self, options: EvaluationOptions) -> Iterator[Natural]:
        """Inside, the workers of the options' executor, if there are any, are in the settings."""
        with spread_over(options.executor, options.store, [self.classifier], self.data, self.settings) as settings:
            yield replace(self, settings=settings)

    def evaluation(self, changed: Mapping[Row, PerSampleResult]) -> Evaluation:
        """The clean row, and those of the changed images."""
        per_image = {self.clean.row(**self.labels, attack="none"): self.clean, **changed}
        return Evaluation(
            list(per_image), per_image, [], self.warnings, **facts_of(self.data),
            provenance=provenance_of(self.classifier, self.data),
        )  # fmt: skip
