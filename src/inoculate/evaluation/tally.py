"""What classifiers make of each image at each threat, and what it cost, as it becomes known batch after batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from inoculate.core.threat import Threat
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.models.classifier import Prediction

_IMAGES = "images"


class Tally:
    """Arrays over N images, K classifiers and T threats.

    `right`, `predicted`, `margin`, `distance` (N×K×T) as in `PerSampleResult`; `seconds` (N×K×T), `queries` (N×T) and
    `passes` (N) are an image's part of its batch. `images` are T tensors N×C×H×W, if they are kept.
    """

    def __init__(self, n: int, classifiers: int, threats: int, images: Tensor | None = None) -> None:
        shape = (n, classifiers, threats)
        self.right = torch.zeros(shape, dtype=torch.bool)
        self.predicted = torch.full(shape, -1)
        self.margin = torch.full(shape, torch.nan)
        self.distance = torch.zeros(shape)
        self.seconds = torch.zeros(shape, dtype=torch.float64)
        self.queries = torch.zeros(n, threats, dtype=torch.float64)
        self.passes = torch.zeros(n, dtype=torch.float64)
        self.images = None if images is None else [images.clone() for _ in range(threats)]

    def record(
        self,
        rows: Tensor,
        place: tuple[int, int],
        prediction: Prediction,
        moved: Tensor,
        x_adv: Tensor,
    ) -> None:
        """Note what the classifier made of the images `rows` at the threat; `place` are the numbers of both."""
        at = (rows, *place)
        self.right[at], self.predicted[at] = prediction.right, prediction.predicted
        self.margin[at], self.distance[at] = prediction.margin, moved.float().cpu()
        if self.images is not None:
            self.images[place[1]][rows] = x_adv.detach().cpu().to(self.images[place[1]].dtype)

    def rows(self, rows: Tensor) -> dict[str, NDArray[Any]]:
        """Everything about these images, to be kept."""
        return {name: tensor[rows].numpy() for name, tensor in self._tensors().items()}

    def take(self, rows: Tensor, kept: Mapping[str, NDArray[Any]]) -> None:
        """Take over what was kept of these images."""
        for name, tensor in self._tensors().items():
            tensor[rows] = torch.tensor(kept[name], dtype=tensor.dtype)

    def results(self, threats: Sequence[Threat], missing: Tensor, counts_queries: bool) -> list[list[PerSampleResult]]:
        """A list for each classifier with a result for each threat; the images `missing` (N, bool) are not finished."""
        return [
            [self._result(number, place, threat, missing, counts_queries) for place, threat in enumerate(threats)]
            for number in range(self.right.shape[1])
        ]

    def _result(
        self, number: int, place: int, threat: Threat, missing: Tensor, counts_queries: bool
    ) -> PerSampleResult:
        empty = PerSampleResult.empty(len(self.right), threat.eps)
        return empty.copy(
            seconds=float(self.seconds[:, number, place].sum()),
            right=self.right[:, number, place] | missing,
            predicted=self.predicted[:, number, place].clone(),
            margin=self.margin[:, number, place].clone(),
            distance=self.distance[:, number, place].clone(),
            finished=~missing,
            images=None if self.images is None else self.images[place].clone(),
            queries=round(float(self.queries[:, place].sum())) if counts_queries else None,
        )

    def _tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Any] = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return tensors | {f"{_IMAGES}{place}": images for place, images in enumerate(self.images or ())}
