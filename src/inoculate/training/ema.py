"""An exponential moving average of the weights, with BatchNorm statistics of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from inoculate.core.modes import has_batchnorm

RECENT_BATCHES = 16  # from which the averaged network's BatchNorm statistics are estimated


class EMA:
    """The exponential moving average of a network's weights (Izmailov et al. 2018; Gowal et al. 2020, section 4.4).

    `decay` is reached gradually, (1 + n) / (10 + n) after n updates, so that the first weights soon lose their weight.
    Averaged weights see other activations than the last ones: `network` gets BatchNorm statistics from passing the
    batches on which the model was last trained (adversarial ones, as they were) through it, each in `parts` parts.
    """

    def __init__(self, model: nn.Module, decay: float, parts: int = 1) -> None:
        def average(old: Sequence[Tensor], new: Sequence[Tensor], count: Tensor | int) -> None:
            n = int(count)
            weight = min(decay, (1 + n) / (10 + n))
            torch._foreach_lerp_(list(old), list(new), 1 - weight)

        self._average = AveragedModel(model, multi_avg_fn=average)
        self._recent: deque[Tensor] = deque(maxlen=RECENT_BATCHES * parts)

    @contextmanager
    def recording(self, model: nn.Module) -> Iterator[None]:
        """Inside, the batches that `model` sees in train mode are kept; attacks call it in eval mode."""

        def record(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if module.training:
                self._recent.append(inputs[0].detach())

        self._recent.clear()  # a resumed round must start as an uninterrupted one does
        # compiled together with the network, it would be compiled anew for each batch
        hook = model.register_forward_pre_hook(torch.compiler.disable(record))  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            hook.remove()

    def update(self, model: nn.Module) -> None:
        """Include the weights after an optimiser step."""
        self._average.update_parameters(model)

    def network(self) -> nn.Module:
        """The network with the averaged weights, in eval mode."""
        network: nn.Module = self._average.module
        if self._recent and has_batchnorm(network):
            with torch.no_grad():
                update_bn(list(self._recent), network)
        return network.eval()

    def state_dict(self) -> dict[str, Any]:
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._average.load_state_dict(state)
