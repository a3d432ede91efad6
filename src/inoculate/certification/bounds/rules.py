"""Which operator each function of torch is, by the name that `torch.export` gives it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from inoculate.certification.bounds import shapes
from inoculate.certification.bounds.affine import Added, Scaled, Weighted, convolution, linear
from inoculate.certification.bounds.nonlinear import LeakyReLU, MaxPooled, Monotone
from inoculate.certification.bounds.operators import Operator
from inoculate.certification.bounds.places import Place, Rule, UnboundedError, View


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[-1])


def _require_constants(*values: Any) -> None:
    if any(isinstance(each, Place) for each in values):
        raise UnboundedError("it multiplies values that both depend on the image")


def _conv2d(
    view: View, x: Any, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: int = 1,
) -> Weighted:  # fmt: skip
    _require_constants(weight, bias)
    if len(view.inputs[0]) != 3:
        raise UnboundedError("a convolution of an image without channels")
    (stride, dilation), kernel = (_pair(stride), _pair(dilation)), weight.shape[2:]
    if isinstance(padding, str):
        around = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        if any(each % 2 for each in around):
            raise UnboundedError("padding 'same' of an even kernel")
        padding = [each // 2 for each in around]
    return convolution(
        weight, bias, view.inputs[0], stride=stride, padding=_pair(padding), dilation=dilation, groups=groups
    )


def _linear(view: View, x: Any, weight: Tensor, bias: Tensor | None = None) -> Weighted:
    _require_constants(weight, bias)
    if not view.inputs[0] or weight.ndim != 2 or (bias is not None and bias.ndim > 1 and len(bias) > 1):
        raise UnboundedError("it mixes the images of a batch")
    return linear(weight, bias, view.inputs[0])


def _matmul(view: View, x: Any, weight: Any) -> Weighted:
    _require_constants(weight)
    if weight.ndim != 2:
        raise UnboundedError("it multiplies by more than one matrix, or by less")
    return _linear(view, x, weight.T)


def _addmm(view: View, bias: Any, x: Any, weight: Any) -> Weighted:
    _require_constants(bias, weight)
    return _linear(view, x, weight.T, bias)


def _batch_norm(
    view: View, x: Any, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, var: Tensor | None,
    training: bool, *others: Any,
) -> Scaled:  # fmt: skip
    _require_constants(weight, bias, mean, var)
    eps = float(others[1])  # behind the momentum
    if training or mean is None or var is None:
        raise UnboundedError("it takes its statistics from the batch")
    scale = (var.double() + eps).rsqrt()
    scale = scale if weight is None else scale * weight.double()
    added = torch.zeros_like(scale) if bias is None else bias.double()
    shift, size = added - mean.double() * scale, added.abs() + (mean.double() * scale).abs()
    shape = (1, -1, *[1] * (len(view.output) - 1))
    return Scaled(scale.view(shape), shift.view(shape), size.view(shape))


def _constant(value: Any, view: View) -> Tensor:
    """A constant as a tensor that broadcasts to the output (1×…)."""
    found = value.double() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    if found.ndim > len(view.output) and found.shape[0] != 1:
        raise UnboundedError("a constant of its own for each image")
    return found.view([1] * (1 + len(view.output) - found.ndim) + list(found.shape))


def _add(sign: float) -> Rule:
    def rule(view: View, x: Any, other: Any, alpha: float = 1.0) -> Operator:
        factor = sign * alpha
        if isinstance(x, Place) and isinstance(other, Place):
            if view.inputs[0] != view.inputs[-1]:
                raise UnboundedError("it adds values of two shapes")
            return Added(factor)
        if isinstance(x, Place):
            return _scaled(view, 1.0, factor * _constant(other, view))
        return _scaled(view, factor, _constant(x, view))

    return rule


def _rsub(view: View, x: Any, other: Any, alpha: float = 1.0) -> Operator:
    return _add(-1.0)(view, other, x, alpha)


def _scaled(view: View, scale: Any, shift: Any) -> Scaled:
    if view.inputs[0] != view.output:
        raise UnboundedError("a constant of another shape")
    shift = _constant(shift, view)
    return Scaled(_constant(scale, view), shift, shift.abs())


def _mul(view: View, x: Any, other: Any) -> Scaled:
    constant = other if isinstance(x, Place) else x
    _require_constants(constant)
    return _scaled(view, constant, 0.0)


def _div(view: View, x: Any, other: Any) -> Scaled:
    if not isinstance(x, Place):
        raise UnboundedError("it divides by values that depend on the image")
    _require_constants(other)
    return _scaled(view, 1 / _constant(other, view), 0.0)


def _neg(view: View, x: Any) -> Scaled:
    return _scaled(view, -1.0, 0.0)


def _relu(view: View, x: Any) -> LeakyReLU:
    return LeakyReLU()


def _leaky_relu(view: View, x: Any, slope: float = 0.01) -> LeakyReLU:
    if not 0 <= slope <= 1:
        raise UnboundedError(f"slope {slope:g}")
    return LeakyReLU(float(slope))


def _monotone(function: Callable[..., Tensor], terms: int = 8) -> Rule:
    def rule(view: View, x: Any, *args: Any, **kwargs: Any) -> Monotone:
        _require_constants(*args, *kwargs.values())
        return Monotone(lambda values: function(values, *args, **kwargs), terms)

    return rule


def _elu(view: View, x: Any, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Monotone:
    if min(alpha, scale, input_scale) < 0 or max(alpha, 1.0) * scale > 2:
        raise UnboundedError(f"alpha {alpha:g}, scale {scale:g}")
    return Monotone(lambda values: torch.ops.aten.elu(values, alpha, scale, input_scale))


def _max_pool(
    view: View, x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> MaxPooled:
    kernel, padding = _pair(kernel), _pair(padding)
    stride = _pair(stride) if stride or isinstance(stride, int) else kernel
    if _pair(dilation) != (1, 1) or len(view.output) != 3:
        raise UnboundedError("dilated pooling")
    sides, outputs = view.inputs[0][1:], view.output[1:]
    beyond = [
        max(0, (out - 1) * step + size - (side + 2 * pad))
        for out, step, size, side, pad in zip(outputs, stride, kernel, sides, padding, strict=True)
    ]

    def windows(values: Tensor) -> Tensor:
        around = (padding[1], padding[1] + beyond[1], padding[0], padding[0] + beyond[0])
        padded = F.pad(values, around, value=-torch.inf)
        found = padded.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1])
        return found[:, :, : outputs[0], : outputs[1]].flatten(-2)

    return MaxPooled(
        lambda values: F.max_pool2d(values, kernel, stride, padding, ceil_mode=ceil_mode), windows, view.inputs[0]
    )


def _amax(view: View, x: Any, dims: Sequence[int] = (), keepdim: bool = False) -> MaxPooled:
    order = len(view.inputs[0]) + 1
    if sorted(d % order for d in dims) != list(range(2, order)):
        raise UnboundedError("a maximum over other dimensions than those of the image")
    return MaxPooled(
        lambda values: values.amax(tuple(dims), keepdim),
        lambda values: values.flatten(2).view(len(values), *view.output, -1), view.inputs[0],
    )  # fmt: skip


RULES: dict[str, Rule] = {
    "aten.conv2d.default": _conv2d,
    "aten.conv2d.padding": _conv2d,
    "aten.linear.default": _linear,
    "aten.matmul.default": _matmul,
    "aten.mm.default": _matmul,
    "aten.addmm.default": _addmm,
    "aten.batch_norm.default": _batch_norm,
    **dict.fromkeys(("aten.add.Tensor", "aten.add_.Tensor", "aten.add.Scalar"), _add(1.0)),
    **dict.fromkeys(("aten.sub.Tensor", "aten.sub_.Tensor", "aten.sub.Scalar"), _add(-1.0)),
    **dict.fromkeys(("aten.rsub.Tensor", "aten.rsub.Scalar"), _rsub),
    **dict.fromkeys(("aten.mul.Tensor", "aten.mul_.Tensor", "aten.mul.Scalar"), _mul),
    **dict.fromkeys(("aten.div.Tensor", "aten.div_.Tensor", "aten.div.Scalar"), _div),
    "aten.neg.default": _neg,
    **dict.fromkeys(("aten.relu.default", "aten.relu_.default"), _relu),
    **dict.fromkeys(("aten.leaky_relu.default", "aten.leaky_relu_.default"), _leaky_relu),
    **dict.fromkeys(("aten.sigmoid.default", "aten.sigmoid_.default"), _monotone(torch.sigmoid)),
    **dict.fromkeys(("aten.tanh.default", "aten.tanh_.default"), _monotone(torch.tanh)),
    **dict.fromkeys(("aten.elu.default", "aten.elu_.default"), _elu),
    **dict.fromkeys(("aten.hardtanh.default", "aten.hardtanh_.default"), _monotone(F.hardtanh, 0)),
    **dict.fromkeys(("aten.relu6.default", "aten.relu6_.default"), _monotone(F.relu6, 0)),
    "aten.clamp.default": _monotone(torch.clamp, 0),
    "aten.clamp_min.default": _monotone(torch.clamp_min, 0),
    "aten.clamp_max.default": _monotone(torch.clamp_max, 0),
    "aten.max_pool2d.default": _max_pool,
    "aten.amax.default": _amax,
    "aten.avg_pool2d.default": shapes.average_pooled,
    "aten.adaptive_avg_pool2d.default": shapes.adaptively_averaged,
    "aten.mean.dim": shapes.mean,
    **dict.fromkeys(
        ("aten.flatten.using_ints", "aten.view.default", "aten.reshape.default", "aten._unsafe_view.default",
         "aten.squeeze.dim", "aten.squeeze.dims", "aten.squeeze.default", "aten.unsqueeze.default",
         "aten.unflatten.int"), shapes.reshaped,
    ),
    "aten.permute.default": shapes.permuted,
    "aten.transpose.int": shapes.transposed,
    "aten.slice.Tensor": shapes.on_dimension(shapes.sliced),
    "aten.select.int": shapes.on_dimension(shapes.select_one),
    "aten.index_select.default": shapes.on_dimension(shapes.index_select, repeats=True),
    "aten.expand.default": shapes.expanded,
    "aten.repeat.default": shapes.repeated,
    "aten.cat.default": shapes.concatenated,
    "aten.pad.default": shapes.padded,
    "aten.constant_pad_nd.default": lambda view, x, pad, value=0.0: shapes.padded(view, x, pad, "constant", value),
}  # fmt: skip
# Functions that leave the values of their first argument as they are, in eval mode. IDENTICAL return that very tensor,
# COPIES a new one; the others may do either.
IDENTICAL = {
    "aten.alias.default", "aten.detach.default", "aten.detach_.default", "aten.dropout.default",
    "aten.dropout_.default", "aten.feature_dropout.default",
}  # fmt: skip
COPIES = {"aten.clone.default", "aten.lift_fresh_copy.default", "aten._to_copy.default"}
SAME = IDENTICAL | COPIES | {
    "aten._assert_tensor_metadata.default", "aten.contiguous.default", "aten.to.device", "aten.to.dtype",
    "aten.to.dtype_layout", "aten.to.other", "aten.type_as.default",
}  # fmt: skip
