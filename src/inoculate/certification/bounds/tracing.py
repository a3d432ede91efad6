"""The steps of a network, followed with `torch.export`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from inoculate.certification.bounds.builder import Builder
from inoculate.certification.bounds.graph import Graph
from inoculate.certification.bounds.places import BATCH
from inoculate.certification.bounds.rules import RULES
from inoculate.core.calls import call
from inoculate.core.errors import InputError, one_line
from inoculate.core.modes import device_of, dtype_for, frozen, modules_of
from inoculate.core.outputs import logits_of


@dataclass(frozen=True, eq=False)
class Program:
    """What a network does with images of `shape` (C×H×W), step by step.

    constants: its parameters and buffers, the very tensors, by the names of the nodes that read them.
    """

    shape: tuple[int, ...]
    nodes: tuple[fx.Node, ...]
    constants: dict[str, Tensor]


def trace(model: nn.Module, shape: Sequence[int]) -> Graph:
    """The steps of `model` in eval mode for images of `shape` (C×H×W), in float64.

    The model is left as it was.

    Raises `InputError` for a model whose steps cannot be followed, that is random, changes itself, is in half
    precision, or has a layer without bounds, which it names.
    """
    if any(each.dtype.itemsize < 4 for module in modules_of(model) for each in module.parameters()):
        raise InputError("bounds are for a model in float32: give model.float()")
    with frozen(model), torch.no_grad():
        program = follow(model, shape)
        constants = {name: value.clone() for name, value in program.constants.items()}
        versions = [each._version for each in constants.values()]
        builder = Builder(program.shape, constants, RULES)
        for node in program.nodes:
            builder.add(node)
        if versions != [each._version for each in constants.values()]:
            raise InputError("the model changes its own parameters or buffers when it runs in eval mode: no bounds")
        return builder.graph.to(torch.float64, device_of(model))


def follow(model: nn.Module, shape: Sequence[int]) -> Program:
    """What `model` does in its present mode with images of `shape` (C×H×W). Raises `InputError` where that depends on
    the images."""
    images = torch.zeros(BATCH, *shape, dtype=dtype_for(model), device=device_of(model))
    with frozen(model), torch.no_grad():
        call(model, images)  # what it does not take is said better here than by the trace
    try:
        with torch.autocast(images.device.type, enabled=False):
            found = torch.export.export(_Caller(model), (images,), strict=False)
    except Exception as error:
        raise InputError(f"the model's steps cannot be followed ({one_line(error)}): no bounds") from error
    constants = {}
    for spec in found.graph_signature.input_specs:
        if spec.target is not None:
            store = found.state_dict if spec.target in found.state_dict else found.constants
            constants[spec.arg.name] = store[spec.target]
    return Program(tuple(shape), tuple(found.graph.nodes), constants)


class _Caller(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = logits_of(self.model(x))
        return logits
