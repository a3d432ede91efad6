"""Sound bounds on the outputs of a network over all images of a threat: IBP, CROWN-IBP and CROWN."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from inoculate.certification.bounds.box import Box
from inoculate.certification.bounds.graph import Graph
from inoculate.certification.bounds.operators import cast
from inoculate.certification.bounds.region import Region
from inoculate.certification.bounds.span import Span
from inoculate.core.errors import InputError
from inoculate.core.options import require_one_of
from inoculate.core.threat import Threat

Relaxation = Literal["ibp", "crown-ibp", "crown"]
RELATIVE = 1e-9  # of the sums of absolute values in float64: what rounding of linear bounds is granted
MOST_VALUES = 2**24  # coefficients at a time


def interval_bounds(graph: Graph, x: Tensor, threat: Threat) -> tuple[Tensor, Tensor]:
    """Lower and upper bounds (B×K each) of the logits for all images of the threat, by interval bound propagation.

    `x` is B×C×H×W in float32 or float64. The bounds hold for exact arithmetic and for that of `x`, in any order of
    additions.

    Source: Gowal et al. (2018), "On the effectiveness of interval bound propagation for training verifiably robust
    models".
    """
    box = boxes_of(graph, Region.of(x, threat))[graph.output]
    return box.low, box.high


def margin_bounds(graph: Graph, x: Tensor, y: Tensor, threat: Threat, method: Relaxation = "ibp") -> Tensor:
    """Lower bounds (B×K, float64) of true logit minus each logit for all images of the threat; 0 for the true class.

    Everything behind the last ReLU or maximum is one linear function with the difference, so that a linear model's
    margin is exact.

    Args:
        graph: of `trace`.
        x: images (B×C×H×W) in float64; in float32 intervals are quicker and, by rounding outwards, a little looser. The
            rest is done in float64.
        y: their labels (B).
        threat: in L∞, L2 or L1.
        method: `ibp` bounds each layer by intervals; `crown-ibp` passes linear bounds backwards over these intervals
            (Zhang et al. 2020); `crown` finds the intervals themselves so (Zhang et al. 2018). Each is at least as
            tight as the one before.

    Raises `InputError` for another method or norm, and for a graph in another precision.
    """
    require_one_of(get_args(Relaxation), method=method)
    if graph.dtype is not torch.float64:  # linear bounds take no account of rounded weights
        raise InputError("the graph is in float32: give that of trace, and images in float32")
    region = Region.of(x.double(), threat)
    boxes = boxes_of(graph, Region.of(x, threat))
    weight = torch.eye(graph.classes, dtype=torch.float64, device=x.device)
    weight = weight[y][:, None] - weight[None]
    low = lower_bounds(graph, boxes, region, graph.output, weight, relax=False)
    if method != "ibp":
        low = torch.maximum(low, lower_bounds(graph, boxes, region, graph.output, weight))
    if method == "crown":  # whose tighter intervals may lead to other lines, and so to looser bounds of some margin
        boxes = boxes_of(graph, Region.of(x, threat), refine=region)
        low = torch.maximum(low, lower_bounds(graph, boxes, region, graph.output, weight))
    return low.scatter(1, y[:, None], 0.0)


def boxes_of(graph: Graph, region: Region, *, refine: Region | None = None) -> list[Box]:
    """The box of each node's values, in the precision of the region; with `refine` (the region in float64, as the graph
    is) those in front of a ReLU by backward linear bounds too."""
    boxes = [Box.of(region)]
    kinks = {i for node in graph.nodes if node.operator.kinked for i in node.inputs}
    for number, node in enumerate(graph.to(region.x.dtype).nodes[: graph.output], start=1):
        boxes.append(node.operator.interval(*(boxes[i] for i in node.inputs)))
        if refine is not None and number in kinks and not graph.is_exact(number):
            boxes[number] = _refined(graph, boxes, refine, number)
    return boxes


def lower_bounds(
    graph: Graph, boxes: list[Box], region: Region, at: int, weight: Tensor, *, relax: bool = True, exact: bool = True
) -> Tensor:
    """Lower bounds (B×S) of S linear functions (B×S×…, float64) of the output of node `at`.

    `relax` passes them backwards through every layer to the images, else only through affine ones: up to a layer that
    is not, whose box is then used. `exact` is that of `Region.least`.
    """
    pending, total, size = pass_back(graph, boxes, at, weight, relax=relax)
    for number, left in pending.items():
        if number:
            box, left = boxes[number].to(weight.dtype), left.flatten(2)
            low, high = box.low.flatten(1)[:, None], box.high.flatten(1)[:, None]
            total = total + torch.minimum(left * low, left * high).sum(dim=2)
            size = size + (left.abs() * box.size.flatten(1)[:, None]).sum(dim=2)
        else:
            flat = left.flatten(2)
            total = total + (flat * region.x.flatten(1)[:, None]).sum(dim=2) + region.least(left, exact=exact)
            size = size + (flat.abs() * (region.x.abs() + region.above - region.below).flatten(1)[:, None]).sum(dim=2)
    return total - RELATIVE * size


def pass_back(
    graph: Graph, boxes: Sequence[Box] | Sequence[Span], at: int, weight: Tensor, *, relax: bool
) -> tuple[dict[int, Tensor], Tensor, Tensor]:
    """Linear functions (B×S×…) of the output of node `at` as lower bounds in what is in front of it.

    Returns their coefficients (B×S×…) of nodes by number, what is added (B×S), and the sum of the absolute values of
    which that consists (B×S). `relax` is that of `lower_bounds`.
    """
    total, size = weight.new_zeros(weight.shape[:2]), weight.new_zeros(weight.shape[:2])
    pending = {at: weight}
    for number in range(at, 0, -1):
        if number not in pending:
            continue
        node = graph.nodes[number - 1]
        if not (relax or node.operator.affine):
            break
        operator, before = cast(node.operator, weight.dtype), [boxes[i].to(weight.dtype) for i in node.inputs]
        parts, offset = operator.backward(pending.pop(number), *before)
        total, size = total + offset, size + offset.abs()
        for i, part in zip(node.inputs, parts, strict=True):
            pending[i] = pending[i] + part if i in pending else part
    return pending, total, size


def _refined(graph: Graph, boxes: list[Box], region: Region, number: int) -> Box:
    """The box of a node, cut off at linear bounds of those of its values that can be of either sign."""
    box = boxes[number]
    low, high = box.low.flatten(1).double(), box.high.flatten(1).double()
    for places in _unstable(low, high, MOST_VALUES // (2 * len(low) * max(graph.sizes))):
        weight = region.x.new_zeros(*places.shape, low.shape[1]).scatter_(2, places.unsqueeze(2), 1.0)
        weight = weight.view(*places.shape, *box.low.shape[1:])
        found = lower_bounds(graph, boxes, region, number, torch.cat([weight, -weight], dim=1), exact=False)
        one, other = found.chunk(2, dim=1)
        low.scatter_(1, places, torch.maximum(low.gather(1, places), one))
        high.scatter_(1, places, torch.minimum(high.gather(1, places), -other))
    if box.low.dtype is not low.dtype:
        low, high = low.to(box.low), high.to(box.high)
        low, high = low.nextafter(low.new_tensor(-torch.inf)), high.nextafter(high.new_tensor(torch.inf))
    return replace(box, low=low.view_as(box.low), high=high.view_as(box.high))


def _unstable(low: Tensor, high: Tensor, most: int) -> Iterator[Tensor]:
    """The places (B×S) of values that can be of either sign, at most so many at a time; some rows repeat others."""
    unstable = (low < 0) & (high > 0)
    count = int(unstable.sum(dim=1).max()) if len(unstable) else 0
    order = unstable.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :count]
    yield from torch.split(order, max(1, most), dim=1) if count else ()
