"""ONNX operators with weights: convolutions, products of matrices, normalisations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inoculate.models.onnx.nodes import Node, UnsupportedError
from inoculate.models.onnx.operators.tensors import together
from inoculate.models.onnx.operators.windows import Windows, pad

CONVOLUTIONS: Mapping[int, Callable[..., Tensor]] = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
TRANSPOSED: Mapping[int, Callable[..., Tensor]] = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}


def layer_for(node: Node, constants: Sequence[nn.Parameter | None]) -> nn.Module | None:
    """A plain torch layer for a convolution of images or a BatchNorm with these constant inputs, if there is one.

    Copies for crafting fold and speed up such layers, and Grad-CAM explains by them.
    """
    if node.op not in ("Conv", "BatchNormalization") or any(each is None for each in constants):
        return None
    weight, *rest = (each for each in constants if each is not None)
    if node.op == "BatchNormalization" and not node.get("training_mode", 0) and node.get("spatial", 1):
        return _batch_norm_layer(node, weight, *rest)
    if node.op != "Conv" or weight.ndim != 4 or node.get("auto_pad", "NOTSET") != "NOTSET":
        return None
    windows, groups = Windows.of(node, weight.shape[2:]), node.get("group", 1)
    before, after = windows.padding(node, ())
    if before != after:
        return None
    layer = nn.Conv2d(
        weight.shape[1] * groups, weight.shape[0], windows.kernel, windows.stride, tuple(before),  # type: ignore[arg-type]
        windows.dilation, groups, bias=bool(rest), device="meta",  # type: ignore[arg-type]
    )  # fmt: skip
    layer.weight = weight
    if rest:
        layer.bias = rest[0]
    return layer


def _batch_norm_layer(
    node: Node, scale: nn.Parameter, shift: nn.Parameter, mean: nn.Parameter, variance: nn.Parameter
) -> nn.Module:
    layer = nn.BatchNorm2d(len(scale), node.get("epsilon", 1e-5), device="meta")
    layer.weight, layer.bias = scale, shift
    layer.running_mean, layer.running_var = mean.detach(), variance.detach()
    layer.num_batches_tracked = None
    return layer.eval()


def _conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    windows = Windows.of(node, weight.shape[2:])
    before, after = windows.padding(node, x.shape[2:])
    if before != after:
        x, before = pad(x, before, after), [0] * len(before)
    return CONVOLUTIONS[x.ndim](x, weight, bias, windows.stride, before, windows.dilation, node.get("group", 1))


def _conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computed without padding; then what the padding covers is cut off."""
    windows, sides = Windows.of(node, weight.shape[2:]), x.ndim - 2
    extra = node.get("output_padding", [0] * sides)
    full = TRANSPOSED[x.ndim](x, weight, None, windows.stride, 0, 0, node.get("group", 1), windows.dilation)
    full = pad(full, [0] * sides, extra)
    full = full if bias is None else full + bias.view(-1, *[1] * sides)
    auto, wanted = node.get("auto_pad", "NOTSET"), node.get("output_shape")
    if auto in ("SAME_UPPER", "SAME_LOWER") or wanted is not None:
        sizes = wanted or [length * stride for length, stride in zip(x.shape[2:], windows.stride, strict=True)]
        total = [have - want for have, want in zip(full.shape[2:], sizes[-sides:], strict=True)]
        small, large = [each // 2 for each in total], [each - each // 2 for each in total]
        before, after = (large, small) if auto != "SAME_UPPER" else (small, large)
    else:
        before, after = windows.padding(node, x.shape[2:])
    return pad(full, [-each for each in before], [-each for each in after])


def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a, b = a.T if node.get("transA", 0) else a, b.T if node.get("transB", 0) else b
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    product = a @ b if alpha == 1 else alpha * (a @ b)
    return product if c is None else product + (c if beta == 1 else beta * c)


def _matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    a, b = together(a, b)
    return a @ b


def _fused_matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    if node.get("transBatchA", 0) or node.get("transBatchB", 0):
        raise UnsupportedError("FusedMatMul with a transposed batch")
    a, b = a.mT if node.get("transA", 0) else a, b.mT if node.get("transB", 0) else b
    return node.get("alpha", 1.0) * (a @ b)  # type: ignore[no-any-return]


def _einsum(node: Node, *inputs: Tensor) -> Tensor:
    return torch.einsum(node.get("equation"), *inputs)


def _batch_norm(node: Node, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    if node.get("training_mode", 0):  # torch writes standardised weights so
        return F.batch_norm(x, None, None, scale, shift, training=True, eps=node.get("epsilon", 1e-5))
    return F.batch_norm(x, mean, variance, scale, shift, eps=node.get("epsilon", 1e-5))


def _layer_norm(node: Node, x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    sizes = x.shape[node.get("axis", -1) % x.ndim :]
    if scale.shape == sizes and (shift is None or shift.shape == sizes):
        return F.layer_norm(x, sizes, scale, shift, node.get("epsilon", 1e-5))
    normal = F.layer_norm(x, sizes, eps=node.get("epsilon", 1e-5)) * scale
    return normal if shift is None else normal + shift


def _rms_norm(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    sizes = list(x.shape[node.get("axis", -1) % x.ndim :])
    return F.rms_norm(x, sizes, eps=node.get("epsilon", 1e-5)) * scale


def _instance_norm(node: Node, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=shift, eps=node.get("epsilon", 1e-5))


def _group_norm(node: Node, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Scale and shift are per channel since opset 21, per group before."""
    groups, channels = node.get("num_groups"), x.shape[1]
    if len(scale) != channels:
        scale, shift = (each.repeat_interleave(channels // groups) for each in (scale, shift))
    return F.group_norm(x, groups, scale, shift, node.get("epsilon", 1e-5))


def _lrn(node: Node, x: Tensor) -> Tensor:
    size, channels = node.get("size"), x.shape[1]
    squares = pad((x**2).movedim(1, -1), [(size - 1) // 2], [size // 2]).unfold(-1, size, 1)
    total = squares.sum(dim=-1)[..., :channels].movedim(-1, 1)
    scaled: Tensor = node.get("bias", 1.0) + node.get("alpha", 1e-4) / size * total
    return x / torch.pow(scaled, node.get("beta", 0.75))


def _lp_norm(node: Node, x: Tensor) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(x, node.get("p", 2), dim=node.get("axis", -1), keepdim=True)
    return x / norm


def _mean_variance_norm(node: Node, x: Tensor) -> Tensor:
    axes = node.get("axes", [0, 2, 3])
    centred = x - x.mean(dim=axes, keepdim=True)
    return centred / (centred.square().mean(dim=axes, keepdim=True).sqrt() + 1e-9)


def _dropout(node: Node, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> Tensor:
    if training is not None and bool(training):
        raise UnsupportedError("Dropout in training mode")
    return x


LAYERS: Mapping[str, Callable[..., Any]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "com.microsoft:FusedMatMul": _fused_matmul,
    "Einsum": _einsum,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "LRN": _lrn,
    "LpNormalization": _lp_norm,
    "MeanVarianceNormalization": _mean_variance_norm,
    "Dropout": _dropout,
}
