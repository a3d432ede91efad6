"""A running mean of the weights, with BatchNorm statistics of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from inoculate.core.modes import has_batchnorm

RECENT = 16  # batches from which the mean network's BatchNorm statistics are estimated


class Average:
    """The exponential moving average of a network's weights (Izmailov et al. 2018; Gowal et al. 2020, section 4.4).

    `decay` is reached gradually, (1 + n) / (10 + n) after n updates, so that the first weights are soon forgotten.
    Mean weights see other activations than the last ones: `network` gets BatchNorm statistics from passing the batches
    on which the model was last trained (adversarial ones, as they were) through it, each in `parts` if they come so.
    """

    def __init__(self, model: nn.Module, decay: float, parts: int = 1) -> None:
        def mean(old: Sequence[Tensor], new: Sequence[Tensor], count: Tensor | int) -> None:
            n = int(count)
            share = min(decay, (1 + n) / (10 + n))
            torch._foreach_lerp_(list(old), list(new), 1 - share)

        self._mean = AveragedModel(model, multi_avg_fn=mean)
        self._seen: deque[Tensor] = deque(maxlen=RECENT * parts)

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Inside, what `model` sees in train mode is remembered; crafting, which is done in eval mode, is not."""

        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if module.training:
                self._seen.append(inputs[0].detach())

        self._seen.clear()  # so that a resumed round knows what an uninterrupted one does
        # compiled together with the network, it would be compiled anew for each batch
        hook = model.register_forward_pre_hook(torch.compiler.disable(note))  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            hook.remove()

    def update(self, model: nn.Module) -> None:
        """Take in the weights after an optimiser step."""
        self._mean.update_parameters(model)

    @property
    def network(self) -> nn.Module:
        """The network with the mean weights, in eval mode."""
        network: nn.Module = self._mean.module
        if self._seen and has_batchnorm(network):
            with torch.no_grad():
                update_bn(list(self._seen), network)
        return network.eval()

    def state_dict(self) -> dict[str, Any]:
        return self._mean.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._mean.load_state_dict(state)
