"""An optimiser beside that of the network, for what a method trains along with it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def optimizer_like(
    optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], state: dict[str, Any] | None = None
) -> torch.optim.Optimizer:
    """A new optimiser of the same class and settings for other parameters; `state` is loaded if one is given."""
    kind = type(optimizer)
    known = {key: value for key, value in optimizer.defaults.items() if key in inspect.signature(kind).parameters}
    own = kind(parameters, **known)
    if state:
        own.load_state_dict(state)
    return own


def follow(own: torch.optim.Optimizer, network: torch.optim.Optimizer) -> None:
    """Give `own` the present learning rate and settings of the network's optimiser."""
    given = {key: value for key, value in network.param_groups[0].items() if key != "params"}
    own.param_groups[0].update(given)
