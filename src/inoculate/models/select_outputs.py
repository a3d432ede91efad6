"""A model with some of its outputs, in another order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from inoculate.core.modes import device_of
from inoculate.core.outputs import logits_of


class SelectOutputs(nn.Module):
    """The outputs `indices` of `model`, in that order: B×M logits → B×K.

    `class_names` are the names of the K outputs; `what` and `cure` say what was selected, and how it is changed.
    """

    def __init__(
        self, model: nn.Module, indices: Sequence[int], class_names: Sequence[str], what: str, cure: str
    ) -> None:
        super().__init__()
        self.model, self.class_names, self.what, self.cure = model, tuple(class_names), what, cure
        self.indices: Tensor
        self.register_buffer("indices", torch.tensor(list(indices), device=device_of(model)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = logits_of(self.model(x))
        return logits.index_select(1, self.indices.to(logits.device))
