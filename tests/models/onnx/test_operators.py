"""Every converted ONNX operator: outputs as onnxruntime's, gradients as its finite differences."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_samples import Sample, numbers, one, whole

from inoculate.models.onnx.module import OnnxModule
from inoculate.models.onnx.nodes import read_graph
from inoculate.models.onnx.operators.registry import OPERATORS

pytest.importorskip("onnx", reason="onnx is not installed: pip install 'inoculate[onnx]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inoculate[onnx]'")

POSITIVE = ("Abs", ["x"], ["p"], {}), ("Add", ["p", "c"], ["q"], {})  # q = |x| + c
C = {"c": np.float32(0.5)}
F = np.float32

ELEMENTWISE = [
    one("Add", numbers(3, 1, 1)), one("Sub", numbers(6)), one("Mul", numbers(1, 3, 6, 6)), one("Div", F(3.0)),
    one("Pow", F(2.0)), one("Pow", np.int64(3), opset=13), one("Sum", numbers(6), numbers(3, 1, 1)),
    one("Mean", numbers(6), numbers(3, 1, 1)), one("Min", numbers(6), numbers(3, 1, 1)), one("Max", numbers(6)),
    one("Mod", F(0.7), fmod=1), *(one(op) for op in ("Neg", "Abs", "Exp", "Sin", "Cos", "Atan", "Erf", "Identity")),
    *(Sample([*POSITIVE, (op, ["q"], ["y"], {})], C) for op in ("Sqrt", "Reciprocal", "Log")),
    one("Clip", F(-0.5), F(0.5)), one("Clip", None, F(0.3)), one("Clip", min=-0.4, max=0.2, opset=7),
    one("Cast", to=1), one("CastLike", numbers(1)), one("CumSum", np.int64(2)),
    one("CumSum", np.int64(-1), exclusive=1, reverse=1), one("Trilu"), one("Trilu", np.int64(1), upper=0),
]  # fmt: skip
ACTIVATIONS = [
    *(one(op) for op in (
        "Relu", "LeakyRelu", "ThresholdedRelu", "Elu", "Celu", "Selu", "Sigmoid", "HardSigmoid", "HardSwish",
        "Softplus", "Softsign", "Tanh",
    )),
    one("LeakyRelu", alpha=0.2), one("ThresholdedRelu", alpha=0.3), one("Elu", alpha=2.0), one("Celu", alpha=0.5),
    one("HardSigmoid", alpha=0.3, beta=0.4), one("PRelu", numbers(3, 1, 1)), one("PRelu", numbers(1, 1, 1)),
    one("Gelu", opset=20), one("Gelu", approximate="tanh", opset=20), one("Mish", opset=18), one("Swish", opset=24),
    *(one(op, axis=1, opset=opset) for op in ("Softmax", "LogSoftmax") for opset in (11, 13)), one("Softmax"),
    one("com.microsoft:Gelu"), one("com.microsoft:QuickGelu"), one("com.microsoft:BiasGelu", numbers(6)),
]  # fmt: skip
LAYERS = [
    one("Conv", numbers(4, 3, 3, 3), numbers(4), pads=[1, 1, 1, 1], strides=[2, 2]),
    one("Conv", numbers(4, 3, 3, 2), pads=[0, 1, 2, 0]), one("Conv", numbers(6, 1, 2, 2), group=3, dilations=[2, 1]),
    *(one("Conv", numbers(2, 3, 4, 3), auto_pad=pad, strides=[1, 2]) for pad in ("SAME_UPPER", "SAME_LOWER", "VALID")),
    one("Conv", numbers(2, 3, 3), shape=(2, 3, 8)), one("Conv", numbers(2, 3, 2, 2, 2), shape=(1, 3, 3, 4, 3)),
    one("ConvTranspose", numbers(3, 2, 3, 3), numbers(2), strides=[2, 2], pads=[1, 0, 0, 1]),
    one("ConvTranspose", numbers(3, 2, 3, 3), numbers(2), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    one("ConvTranspose", numbers(3, 2, 2, 2), group=3, dilations=[2, 2]),
    one("ConvTranspose", numbers(3, 2, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    one("ConvTranspose", numbers(3, 2, 3, 3), strides=[2, 2], auto_pad="SAME_LOWER"),
    one("ConvTranspose", numbers(3, 2, 3, 3), strides=[2, 2], output_shape=[12, 13]),
    one("Gemm", numbers(5, 4), numbers(4), transA=1, transB=0, alpha=0.5, beta=2.0, shape=(5, 3)),
    one("Gemm", numbers(4, 5), transB=1, shape=(3, 5)), one("MatMul", numbers(6, 4)),
    one("com.microsoft:FusedMatMul", numbers(4, 6), transB=1, alpha=0.3),
    one("Einsum", numbers(6, 2), equation="bchw,wk->bkch"),
    one("BatchNormalization", *(numbers(3, low=0.5, high=2, seed=s) for s in range(4)), epsilon=1e-3),
    one("BatchNormalization", *(numbers(4, low=0.5, high=2, seed=s) for s in range(4)), shape=(3, 4)),
    Sample([("BatchNormalization", ["x", "s", "m", "t", "v"], ["y", "a", "b"], {"training_mode": 1})],
           {name: numbers(3, low=0.5, high=2) for name in "smtv"}),
    one("LayerNormalization", numbers(6), numbers(6)), one("LayerNormalization", numbers(6, 6), axis=-2, epsilon=1e-2),
    one("RMSNormalization", numbers(6), opset=23), one("InstanceNormalization", numbers(3), numbers(3, seed=1)),
    one("GroupNormalization", numbers(2), numbers(2, seed=1), num_groups=2, shape=(2, 4, 3, 3), opset=18),
    one("GroupNormalization", numbers(4), numbers(4, seed=1), num_groups=2, shape=(2, 4, 3, 3), opset=21),
    one("LRN", size=3, alpha=0.3, beta=0.6, bias=1.2), one("LpNormalization", axis=1, p=2),
    one("LpNormalization", axis=-1, p=1), one("MeanVarianceNormalization"), one("Dropout"),
    one("Dropout", F(0.5), opset=13),
    one("Dropout", ratio=0.5, opset=7),
]  # fmt: skip
POOLS: list[dict[str, object]] = [
    {"kernel_shape": [2, 2], "strides": [2, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [0, 1, 1, 0]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [2, 2], "strides": [1, 1], "auto_pad": "SAME_LOWER"},
]
POOLING = [
    *(one("MaxPool", **each) for each in POOLS), one("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]),
    *(one("AveragePool", **each) for each in POOLS),
    *(one("AveragePool", count_include_pad=1, **each) for each in POOLS),
    one("AveragePool", kernel_shape=[2, 2], dilations=[2, 2], opset=19),
    one("AveragePool", kernel_shape=[3], shape=(1, 2, 7)),
    one("LpPool", kernel_shape=[2, 2], strides=[2, 2], p=2), one("LpPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], p=3),
    one("GlobalAveragePool"), one("GlobalMaxPool"), one("GlobalLpPool", p=2), one("GlobalLpPool", p=3),
]  # fmt: skip
SHAPES = [
    one("Reshape", whole(0, -1)), one("Reshape", whole(2, 9, 2, 6)), one("Flatten"), one("Flatten", axis=2),
    one("Flatten", axis=-1),
    one("Transpose", perm=[0, 2, 3, 1]), one("Transpose"), one("Squeeze", shape=(2, 1, 3, 1)),
    one("Squeeze", whole(1), shape=(2, 1, 3, 1)), one("Squeeze", axes=[3], opset=11, shape=(2, 1, 3, 1)),
    one("Unsqueeze", whole(0, -1)), one("Unsqueeze", axes=[1, 3], opset=11), one("Concat", numbers(2, 3, 2, 6), axis=2),
    Sample([("Split", ["x", "s"], ["a", "y"], {"axis": 2})], {"s": whole(2, 4)}),
    Sample([("Split", ["x"], ["a", "y"], {"axis": -1})], opset=11),
    Sample([("Split", ["x"], ["y", "a"], {"axis": 1, "split": [1, 2]})], opset=11),
    Sample([("Split", ["x"], ["a", "b", "c", "y"], {"axis": 2, "num_outputs": 4})], opset=18, shape=(1, 2, 7, 2)),
    one("Slice", whole(1), whole(2**63 - 1), whole(2)),
    one("Slice", whole(-1, 4), whole(-9, 0), whole(3, 2), whole(-1, -2)),
    one("Slice", whole(-9, 1), whole(4, -1), whole(1, 3), whole(1, 2)),
    one("Slice", starts=[1, 0], ends=[3, 2], axes=[2, 3], opset=9),
    one("Expand", whole(2, 1, 3, 1, 4), shape=(3, 1, 4)), one("Tile", whole(1, 2, 1, 3)),
    one("Pad", whole(0, 0, 1, 2, 0, 1, 0, 1), F(0.3)), one("Pad", whole(0, 0, -1, 0, 0, 0, 2, -1)),
    one("Pad", pads=[0, 0, 1, 2, 0, 0, 0, 1], opset=9, value=2.0),
    *(one("Pad", whole(0, 0, 2, 1, 0, 1, 0, 3), mode=mode) for mode in ("reflect", "edge")),
    one("Pad", whole(1, 2, 3, 0), F(1.0), whole(2, 3), opset=18),
    one("Pad", whole(0, 0, 2, 0, 0, 0, 0, 1), mode="wrap", opset=19),
    one("DepthToSpace", blocksize=2, shape=(1, 8, 2, 3)),
    one("DepthToSpace", blocksize=2, mode="CRD", shape=(1, 8, 2, 3)),
    one("SpaceToDepth", blocksize=2, shape=(1, 2, 4, 6)),
    # Shapes computed as a file with a free batch size does.
    Sample([
        ("Shape", ["x"], ["s"], {}), ("Gather", ["s", "i"], ["b"], {}), ("Unsqueeze", ["b", "i1"], ["b1"], {}),
        ("Concat", ["b1", "rest"], ["t"], {"axis": 0}), ("Reshape", ["x", "t"], ["y"], {}),
    ], {"i": np.int64(0), "i1": whole(0), "rest": whole(-1)}),
    Sample([
        ("Shape", ["x"], ["s"], {"start": 2, "end": 3}), ("Size", ["x"], ["n"], {}), ("Squeeze", ["s"], ["h"], {}),
        ("Div", ["n", "h"], ["d"], {}), ("Cast", ["d"], ["f"], {"to": 1}), ("Mul", ["x", "f"], ["y"], {}),
    ]),
    Sample([
        ("Shape", ["x"], ["s"], {}), ("ConstantOfShape", ["s"], ["k"], {"value": np.array([2.5], dtype="float32")}),
        ("Range", ["a", "b", "c"], ["r"], {}), ("Cast", ["r"], ["f"], {"to": 1}), ("Mul", ["k", "f"], ["kf"], {}),
        ("Add", ["x", "kf"], ["y"], {}),
    ], {"a": np.int64(1), "b": np.int64(13), "c": np.int64(2)}),
    Sample([("Shape", ["x"], ["s"], {}), ("Equal", ["s", "three"], ["e"], {}), ("Where", ["e", "one", "s"], ["t"], {}),
            ("Expand", ["half", "t"], ["h"], {}), ("ReduceSum", ["x", "axis"], ["r"], {}),
            ("Mul", ["r", "h"], ["y"], {})],
           {"three": whole(3), "one": whole(1), "half": F(0.5), "axis": whole(1)}),
]  # fmt: skip
COMPARED = [
    Sample([(op, ["x", "c"], ["m"], {}), ("Where", ["m", "x", "d"], ["y"], {})], {"c": F(0.1), "d": F(0.2)})
    for op in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual")
] + [
    Sample([("Less", ["x", "c"], ["a"], {}), ("Greater", ["x", "d"], ["b"], {}), (op, ["a", "b"], ["e"], {}),
            ("Not", ["e"], ["m"], {}), ("Where", ["m", "x", "two"], ["y"], {})],
           {"c": F(-0.3), "d": F(0.1), "two": F(2)}) for op in ("And", "Or", "Xor")
] + [Sample([("IsNaN", ["x"], ["m"], {}), ("Where", ["m", "c", "x"], ["y"], {})], {"c": F(0.1)})]  # fmt: skip
INDEXING = [
    one("Gather", whole(2, 0, -1), axis=1), one("Gather", np.int64(1), axis=2),
    one("Gather", np.array([[0, 1], [1, 1]]), axis=-1),
    one("GatherElements", np.array([[0, 1], [-1, 0]]), axis=1, shape=(2, 3)),
    one("GatherND", np.array([[0, 1], [1, 2]])), one("GatherND", np.array([[1], [2]]), batch_dims=1, shape=(2, 3, 4)),
    one("ScatterElements", np.array([[1, 0]]), numbers(1, 2), axis=1, shape=(2, 3)),
    one("ScatterElements", np.array([[1, 1]]), numbers(1, 2), axis=1, reduction="add", shape=(2, 3), opset=18),
    one("ScatterND", np.array([[0, 1], [1, 2]]), numbers(2, 6, 6)),
    one("ScatterND", np.array([[0], [0]]), numbers(2, 3), reduction="add", shape=(2, 3)),
    Sample([("TopK", ["x", "k"], ["y", "i"], {"axis": 1, "largest": 0})], {"k": whole(2)}),
    # Constant places, which are found while the file is read.
    *(Sample([(op, ["c"], ["i"], {"axis": 0, "keepdims": 0}), ("Gather", ["x", "i"], ["y"], {"axis": 1})],
             {"c": F([0.3, 0.9, 0.1])}, label=op) for op in ("ArgMax", "ArgMin")),
    Sample([("OneHot", ["i", "d", "v"], ["h"], {"axis": 0}), ("MatMul", ["x", "h"], ["y"], {})],
           {"i": whole(1, 0, 2), "d": np.int64(6), "v": F([0.0, 2.0])}),
    Sample([("NonZero", ["c"], ["n"], {}), ("Squeeze", ["n", "a"], ["i"], {}),
            ("Gather", ["x", "i"], ["y"], {"axis": 3})],
           {"c": whole(0, 1, 1, 0, 1, 0), "a": whole(0)}),
    *(Sample([(op, ["c"], ["r"], {}), ("Mul", ["x", "r"], ["y"], {})], {"c": numbers(6, low=-3, high=3)}) for op in
      ("Round", "Floor", "Ceil", "Sign")),
    Sample([("DequantizeLinear", ["w", "s", "z"], ["f"], {"axis": 0}), ("MatMul", ["x", "f"], ["y"], {})],
           {"w": np.arange(12, dtype="int8").reshape(6, 2), "s": numbers(6), "z": np.arange(6, dtype="int8")}),
    Sample([("DequantizeLinear", ["w", "s"], ["f"], {}), ("MatMul", ["x", "f"], ["y"], {})],
           {"w": np.arange(12, dtype="uint8").reshape(6, 2), "s": F(0.1)}),
]  # fmt: skip
REDUCED = (
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSumExp",
)
REDUCTIONS = [
    *(one(op, axes=[1, -1], opset=13) for op in REDUCED), *(one(op, whole(2), keepdims=0, opset=18) for op in REDUCED),
    one("ReduceMean", opset=13), one("ReduceSum", whole(2, 3), keepdims=0), one("ReduceSum", axes=[2], opset=11),
    one("ReduceSum", noop_with_empty_axes=1), one("ReduceSum", keepdims=0),
    Sample([*POSITIVE, ("ReduceLogSum", ["q"], ["y"], {"axes": [1]})], C),
]  # fmt: skip
UP, DOWN = F([1, 1, 2, 1.5]), F([1, 1, 0.5, 0.7])
RESIZED = [
    *(one("Resize", None, scales, mode=mode, coordinate_transformation_mode=how) for scales in (UP, DOWN)
      for mode in ("linear", "cubic") for how in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")),
    *(one("Resize", None, UP, mode="nearest", nearest_mode=rounding, coordinate_transformation_mode="asymmetric")
      for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
    one("Resize", None, None, whole(2, 3, 9, 4), mode="linear"), one("Resize", None, DOWN, mode="nearest"),
    one("Resize", None, DOWN, mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5),
    one("Resize", None, None, whole(9, 4), mode="linear", axes=[2, 3], opset=18),
    one("Resize", UP, mode="nearest", opset=10), one("Upsample", F([1, 1, 2, 2]), mode="linear", opset=9),
    one("Upsample", mode="nearest", scales=[1.0, 1.0, 2.0, 3.0], opset=7),
]  # fmt: skip
FLAT = {"coefficients": numbers(24).tolist(), "intercepts": numbers(4).tolist(), "classlabels_ints": [0, 1, 2, 3]}
CLASSICAL = [
    *(Sample([("ai.onnx.ml:LinearClassifier", ["x"], ["l", "y"], {**FLAT, "post_transform": how})], shape=(5, 6))
      for how in ("NONE", "SOFTMAX", "LOGISTIC")),
    one("ai.onnx.ml:Scaler", offset=[0.1] * 6, scale=[0.5, 1.0, 2.0, 1.0, 1.0, 1.0], shape=(5, 6)),
    *(Sample([*POSITIVE, ("ai.onnx.ml:Normalizer", ["q"], ["y"], {"norm": norm})], C, (5, 6))
      for norm in ("L1", "L2", "MAX")),
]  # fmt: skip
SAMPLES = [
    *ELEMENTWISE, *ACTIVATIONS, *LAYERS, *POOLING, *SHAPES, *COMPARED, *INDEXING, *REDUCTIONS, *RESIZED, *CLASSICAL,
]  # fmt: skip


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_outputs_and_gradients(sample: Sample) -> None:
    values = numbers(*sample.shape, low=-1.5, high=1.5, seed=3)
    module = OnnxModule(read_graph(sample.proto(), "x", "y"))
    x = torch.from_numpy(values).requires_grad_()
    y = module(x)
    expected = np.asarray(sample.run(values))
    assert y.dtype is torch.float32
    torch.testing.assert_close(y.detach(), torch.from_numpy(expected), rtol=1e-4, atol=2e-5)
    # Along a random direction, by onnxruntime's outputs on both sides. Few pixels lie within the step of a kink.
    direction, step = np.sign(numbers(*sample.shape, seed=4)), np.float32(1e-3)
    weights = np.arange(y.numel(), dtype="float64").reshape(expected.shape) % 7 - 3
    ahead, behind = (np.asarray(sample.run(values + sign * step * direction)).astype("float64") for sign in (1, -1))
    numeric = ((ahead - behind) * weights).sum() / (2 * float(step))
    (gradient,) = torch.autograd.grad((y.double() * torch.tensor(weights)).sum(), x)
    found = float((gradient.numpy() * direction).sum())
    scale = float(np.abs(gradient.numpy()).sum())
    assert scale > 0
    assert abs(found - numeric) <= 0.01 * scale + 1e-3


def test_every_operator_has_a_sample() -> None:
    assert OPERATORS.keys() - {node[0] for sample in SAMPLES for node in sample.nodes} == set()


def test_the_documentation_lists_every_operator() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "onnx.md").read_text(encoding="utf-8")
    table = page.split("## Operators")[1].split("|---|---|")[1].split("\n\n")[0]
    assert set(re.findall(r"`([\w.:]+)`", table)) == set(OPERATORS)
