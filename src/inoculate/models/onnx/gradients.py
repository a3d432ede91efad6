"""Whether the gradient of an ONNX graph means anything: no operator on the way from the pixels may round them."""

from __future__ import annotations

from inoculate.models.onnx.nodes import Graph, Node, UnsupportedError, torch_dtype
from inoculate.models.onnx.operators.registry import OPERATORS

# Their gradient is 0 wherever it exists: an attack would see a flat loss, and the model look robust.
FLAT = {"Round", "Floor", "Ceil", "Sign", "ArgMax", "ArgMin", "OneHot", "NonZero", "DequantizeLinear"}
# What they give does not depend on the pixels, or only through a choice, whose branches keep their gradients.
CUTS = {"Shape", "Size", "Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "IsNaN"}
# They only move numbers, so that they do the same before and after a cast to float.
MOVES = {"Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Concat", "Split", "Gather"}


def require_gradient(graph: Graph, whole_numbers: bool) -> None:
    """Raise `UnsupportedError` for operators without a conversion, or with no useful gradient in the pixels.

    whole_numbers: whether the images are uint8. They are converted as floats, which is the same only if the graph
    makes them floats before it computes anything.
    """
    if missing := sorted({node.op for node in graph.nodes} - OPERATORS.keys()):
        raise UnsupportedError(f"the operator{'s' if len(missing) > 1 else ''} {', '.join(missing)}")
    pixels, still_whole = {graph.input}, {graph.input} if whole_numbers else set()
    for node in graph.nodes:
        if not pixels.intersection(node.inputs) or node.op in CUTS:
            continue
        if still_whole.intersection(node.inputs) and not _makes_float(node):
            if node.op not in MOVES:
                raise UnsupportedError(f"the operator {node} on whole numbers")
            still_whole.update(node.outputs)
        if node.op in FLAT or (node.op == "Cast" and not _makes_float(node)):
            raise UnsupportedError(f"the operator {node} between pixels and logits, whose gradient is 0")
        pixels.update(node.outputs)


def _makes_float(node: Node) -> bool:
    return node.op == "Cast" and torch_dtype(node.get("to")).is_floating_point
