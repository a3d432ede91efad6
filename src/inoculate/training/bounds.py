"""Bounds of the network that is being trained, which gradients pass through to its weights: IBP and CROWN-IBP.

They are those of fp32 arithmetic without a margin: they train; what is reported is certified elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from inoculate.certification.bounds.affine import Scaled, Weighted
from inoculate.certification.bounds.builder import Builder
from inoculate.certification.bounds.graph import Graph
from inoculate.certification.bounds.margins import pass_back
from inoculate.certification.bounds.operators import cast
from inoculate.certification.bounds.places import Place, View
from inoculate.certification.bounds.rules import RULES
from inoculate.certification.bounds.span import Span
from inoculate.certification.bounds.tracing import Program, follow
from inoculate.core.errors import InputError

_PROGRAMS: WeakKeyDictionary[nn.Module, tuple[object, Program]] = WeakKeyDictionary()  # of models that still live


@dataclass(frozen=True, eq=False)
class Propagated:
    """The steps of a network, BatchNorm as what it did to its batch, and the span behind each; the images' is first."""

    graph: Graph
    spans: list[Span]

    @property
    def plain(self) -> Tensor | None:
        """The logits (B×K) of the points; None without points."""
        return self.spans[self.graph.output].points

    def margins(self, y: Tensor, *, relax: bool = False) -> Tensor:
        """Lower bounds of true logit minus each logit (B×K; 0 for the true one).

        What is behind the last layer that is not affine is one linear map with the difference, which is tighter than
        the difference of two bounds. `relax` passes this map backwards to the images (CROWN-IBP, Zhang et al. 2020).
        """
        images = self.spans[0].centre
        weight = torch.eye(self.graph.classes, dtype=images.dtype, device=images.device)
        weight = weight[y][:, None] - weight[None]
        pending, low, _ = pass_back(self.graph, self.spans, self.graph.output, weight, relax=relax)
        for number, left in pending.items():
            span, left = self.spans[number], left.flatten(2)
            low = low + torch.einsum("bkf,bf->bk", left, span.centre.flatten(1))
            low = low - torch.einsum("bkf,bf->bk", left.abs(), span.radius.flatten(1))
        return low


def propagate(model: nn.Module, span: Span) -> Propagated:
    """Pass a span of images through `model` in its present mode (Gowal et al. 2018); dropout is left out.

    BatchNorm in train mode takes its statistics from the points, without them from the centre, and keeps them.

    Raises `InputError` for a layer without bounds, which it names, and for a network that does not end in a linear one.
    """
    shape, dtype = tuple(span.centre.shape[1:]), span.centre.dtype
    program, spans = _program(model, shape), [span]
    rules = {**RULES, "aten.batch_norm.default": _batch_norm(spans)}
    builder = Builder(shape, program.constants, rules, dropout=True)
    for node in program.nodes:
        builder.add(node)
        for step in builder.nodes[len(spans) - 1 :]:
            spans.append(cast(step.operator, dtype).span(*(spans[i] for i in step.inputs)))
    graph = builder.graph
    if not isinstance(graph.nodes[graph.output - 1].operator, Weighted):
        raise InputError("certified training needs a network that ends in a linear layer: use cnn7 or small_cnn")
    return Propagated(graph.to(dtype), spans)


def _program(model: nn.Module, shape: tuple[int, ...]) -> Program:
    """What the model does, followed once for its mode and its parameters."""
    tensors = (id(each) for each in (*model.parameters(), *model.buffers()))  # which the program keeps alive
    key = (shape, *(module.training for module in model.modules()), *tensors)
    known = _PROGRAMS.get(model)
    if known is None or known[0] != key:
        known = (key, follow(model, shape))
        _PROGRAMS[model] = known
    return known[1]


def _batch_norm(spans: list[Span]) -> Any:
    """The rule of BatchNorm where the spans in front of it are known."""

    def rule(view: View, x: Place, *args: Any) -> Scaled:
        weight, bias, mean, var, training, momentum, eps, *_ = args
        if not training:
            return RULES["aten.batch_norm.default"](view, x, *args)  # type: ignore[return-value]
        span = spans[x.number]
        points = span.centre if span.points is None else span.points
        variance, middle = torch.var_mean(points, dim=[d for d in range(points.ndim) if d != 1], correction=0)
        if mean is not None and var is not None:
            count = points.numel() // points.shape[1]
            with torch.no_grad():
                mean.lerp_(middle.detach(), momentum)
                var.lerp_(variance.detach() * (count / max(count - 1, 1)), momentum)
        scale = (variance + eps).rsqrt()
        scale = scale if weight is None else scale * weight
        shift = -middle * scale if bias is None else bias - middle * scale
        shape = (1, -1, *[1] * len(view.output[1:]))
        return Scaled(scale.view(shape), shift.view(shape), shift.view(shape).abs())

    return rule
