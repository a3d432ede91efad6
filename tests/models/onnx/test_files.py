"""What ONNX files of practitioners take and give: layouts, types, several outputs, fixed batches, damaged files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx_samples import numbers, whole, write_graph
from torch import Tensor, nn

import inoculate as ino
from inoculate.attacks.registry import get_attack
from inoculate.attacks.square import Square
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.data.load import as_dataset
from inoculate.models.acceleration.cached_convolutions import CachedConv2d
from inoculate.models.acceleration.fast import CraftingCopy, fast
from inoculate.models.checks import inspect_model
from inoculate.models.export.files import write_onnx
from inoculate.models.loading.load import load_model
from inoculate.models.loading.onnx import OnnxModel
from inoculate.models.loading.specs import expected_size, identity
from inoculate.models.onnx.operators.registry import OPERATORS

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install 'inoculate[onnx]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inoculate[onnx]'")

KERNEL, HEAD = numbers(5, 3, 3, 3), numbers(5, 4, seed=1)
SIDE, CLASSES = 8, 4
LABELS = {"y": ("FLOAT", ["N", CLASSES])}
HEADED = [("ReduceMean", ["r"], ["m"], {"axes": [2, 3], "keepdims": 0}), ("MatMul", ["m", "W"], ["y"], {})]
CNN: list[Any] = [
    ("Conv", ["x", "K"], ["c"], {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("Relu", ["c"], ["r"], {}),
    *HEADED,
]
WEIGHTS = {"K": KERNEL, "W": HEAD}


def images(n: int = 6) -> Tensor:
    return torch.randint(256, (n, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)) / 255


def reference(x: Tensor) -> Tensor:
    features = torch.conv2d(x, torch.from_numpy(KERNEL), padding=1, stride=2).relu()
    return features.mean(dim=(2, 3)) @ torch.from_numpy(HEAD)


def cnn(
    path: Path, *, kind: str = "FLOAT", shape: Any = ("N", 3, SIDE, SIDE), before: Any = (), **changes: Any
) -> Path:
    """The convolutional network `reference` behind the nodes `before`, which lead from `images` to `x`."""
    start = before or [("Identity", ["images"], ["x"], {})]
    constants = {**WEIGHTS, **changes.pop("constants", {})}
    given = {"outputs": LABELS, **changes}
    return write_graph(
        path / "model.onnx",
        [*start, *CNN, *given.pop("after", ())],
        {"images": (kind, shape)},
        constants=constants,
        **given,
    )


def found(model: nn.Module, x: Tensor) -> str:
    """What is said about the model on the first screen."""
    return "\n".join(map(str, inspect_model(model, dataset(x))))


def dataset(x: Tensor) -> Dataset:
    return as_dataset((x, torch.arange(len(x)) % CLASSES))


def check(model: nn.Module, expected: Any = reference, x: Tensor | None = None) -> None:
    """Outputs and gradients are those of `expected`, at several numbers of images."""
    everything = images() if x is None else x
    for n in (6, 1, 0, 5):
        given = [everything[:n].clone().requires_grad_() for _ in range(2)]
        outputs = [model(given[0]), expected(given[1])]
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
        gradients = [
            torch.autograd.grad((y * torch.arange(4.0)).sum(), x)[0] for y, x in zip(outputs, given, strict=True)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_model(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("shape", [("N", SIDE, SIDE, 3), (None, None, None, 3), (1, SIDE, SIDE, 3), (4, SIDE, SIDE, 3)])
def test_channels_last(shape: Any, tmp_path: Path) -> None:
    path = cnn(tmp_path, shape=shape, before=[("Transpose", ["images"], ["x"], {"perm": [0, 3, 1, 2]})],
               outputs={"y": ("FLOAT", [shape[0], CLASSES])})  # fmt: skip
    model = load_model(path)
    check(model)
    assert expected_size(str(path)) == ((SIDE, 3) if shape[1] else None)
    assert "images are transposed for it" in found(model, images())


@pytest.mark.parametrize("last", [False, True])
def test_whole_numbers(last: bool, tmp_path: Path) -> None:
    """Pixels are rounded to 0..255; the gradient is that of the float network at the rounded pixels."""
    before: list[Any] = [("Cast", ["t" if last else "images"], ["f"], {"to": 1}), ("Div", ["f", "s"], ["x"], {})]
    before = [("Transpose", ["images"], ["t"], {"perm": [0, 3, 1, 2]}), *before] if last else before
    shape = ("N", SIDE, SIDE, 3) if last else ("N", 3, SIDE, SIDE)
    path = cnn(tmp_path, kind="UINT8", shape=shape, before=before, constants={"s": np.float32(255)})
    model, levels = load_model(path), (images() * 255).round() / 255
    check(model, x=levels)
    torch.testing.assert_close(model(levels + 0.4 / 255), model(levels))
    y = model(levels).argmax(dim=1)
    attacked = get_attack("pgd")(model, levels, y, Threat(eps=0.1), generator=torch.Generator().manual_seed(0))
    assert (model(attacked) - model(levels)).gather(1, y[:, None]).max() < -0.1
    assert "pixels are multiplied by 255 and rounded" in found(model, images())


def test_whole_numbers_that_are_computed_with(tmp_path: Path) -> None:
    """Differences of uint8 wrap around, which floats do not."""
    before = [("Sub", ["images", "s"], ["d"], {}), ("Cast", ["d"], ["x"], {"to": 1})]
    path = cnn(tmp_path, kind="UINT8", before=before, constants={"s": np.uint8(100)})
    model = load_model(path)
    assert "no differentiable conversion of the operator Sub on whole numbers" in found(model, images())
    wrapped = ((images() * 255).round() - 100) % 256
    torch.testing.assert_close(model(images()), reference(wrapped), rtol=1e-4, atol=1e-3)


TWO = {"y": ("FLOAT", ["N", CLASSES]), "z": ("FLOAT", ["N", 5])}


def test_several_outputs(tmp_path: Path) -> None:
    also = [("Identity", ["m"], ["z"], {})]
    path = cnn(tmp_path, after=also, outputs=TWO)
    refused = refusal(path)
    assert "y (tensor(float) N×4), z (tensor(float) N×5)" in refused
    model = load_model(path, dataset(images()))
    check(model)
    assert "'y' is used as the logits, not z" in found(model, images())
    path = cnn(
        tmp_path, after=[("Identity", ["y"], ["my_logits"], {})], outputs={"y": LABELS["y"], "my_logits": LABELS["y"]}
    )
    check(load_model(path))
    path = cnn(tmp_path, after=[("Identity", ["y"], ["b"], {})], outputs={"y": LABELS["y"], "b": LABELS["y"]})
    assert "not clear which holds the logits" in refusal(path, data=dataset(images()))
    path = cnn(
        tmp_path, after=[("Identity", ["r"], ["maps"], {})], outputs={**LABELS, "maps": ("FLOAT", ["N", 5, 4, 4])}
    )
    check(load_model(path))


def test_labels(tmp_path: Path) -> None:
    labels = [("ArgMax", ["y"], ["label"], {"axis": 1, "keepdims": 0})]
    path = cnn(tmp_path, after=labels, outputs={"label": ("INT64", ["N"])})
    assert "label (tensor(int64) N), no floating-point numbers: an attack needs the logits" in refusal(path)
    path = cnn(tmp_path, after=labels, outputs={"label": ("INT64", ["N"]), **LABELS})
    check(load_model(path))


def test_probabilities(tmp_path: Path) -> None:
    path = cnn(tmp_path, after=[("Softmax", ["y"], ["p"], {})], outputs={"p": LABELS["y"]})
    assert "--outputs probabilities" in found(load_model(path), images())
    model = load_model(path, outputs="probabilities")
    check(model, lambda x: reference(x).log_softmax(dim=1))


def test_maps_of_one_pixel_and_single_logits(tmp_path: Path) -> None:
    path = cnn(tmp_path, after=[("Unsqueeze", ["y", "a"], ["m1"], {})], constants={"a": whole(2, 3)},
               outputs={"m1": ("FLOAT", ["N", CLASSES, 1, 1])})  # fmt: skip
    check(load_model(path))
    path = cnn(tmp_path, after=[("Slice", ["y", "a", "b", "b"], ["one"], {})], constants={"a": whole(0), "b": whole(1)},
               outputs={"one": ("FLOAT", ["N", 1])})  # fmt: skip
    z = reference(images())[:, :1] / 2
    torch.testing.assert_close(load_model(path, outputs="single-logit")(images()), torch.cat([-z, z], dim=1))


def test_inputs(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    two = {"x": ("FLOAT", ["N", 3, SIDE, SIDE]), "mask": ("FLOAT", ["N", 3])}
    write_graph(path, CNN, two, LABELS, WEIGHTS)
    assert "has 2 inputs (x, mask)" in refusal(path)
    weights = {"x": two["x"], "K": ("FLOAT", KERNEL.shape), "W": ("FLOAT", HEAD.shape)}
    check(load_model(write_graph(path, CNN, weights, LABELS, WEIGHTS, ir_version=3)))  # as old exporters wrote them
    assert expected_size(str(path)) == (SIDE, 3)
    assert "int64 of shape N×3×8×8" in refusal(
        cnn(tmp_path, kind="INT64", before=[("Cast", ["images"], ["x"], {"to": 1})])
    )


@pytest.mark.parametrize(("batch", "way"), [(1, "mapped"), (4, "in batches")])
def test_reshapes_to_a_fixed_batch(batch: int, way: str, tmp_path: Path) -> None:
    nodes = [
        *CNN[:2],
        ("Reshape", ["r", "s"], ["f"], {}),
        ("ReduceMean", ["f"], ["m"], {"axes": [2], "keepdims": 0}),
        HEADED[1],
    ]
    path = tmp_path / "model.onnx"
    fixed = {"x": ("FLOAT", [batch, 3, SIDE, SIDE])}, {"y": ("FLOAT", [batch, CLASSES])}
    write_graph(path, nodes, *fixed, {**WEIGHTS, "s": whole(batch, 5, -1)})
    model = load_model(path)
    check(model)
    assert model.way == way
    copy = fast(model)
    assert isinstance(copy, CraftingCopy)
    assert copy.verify(images())
    check(copy)


def test_half_precision(tmp_path: Path) -> None:
    halves = {name: value.astype("float16") for name, value in WEIGHTS.items()}
    path = cnn(tmp_path, kind="FLOAT16", constants=halves, outputs={"y": ("FLOAT16", ["N", CLASSES])})
    model = load_model(path)
    model(images())
    x = images().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    assert gradient.dtype is torch.float32
    torch.testing.assert_close(model(images()), reference(images()), rtol=0, atol=5e-3)
    assert "computes in half precision" in found(model, images())


def test_weights_in_another_file(tmp_path: Path) -> None:
    path, data = cnn(tmp_path), tmp_path / "weights.bin"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location=data.name, size_threshold=0)
    check(load_model(path))
    assert expected_size(str(path)) == (SIDE, 3)
    before = identity(str(path))
    data.write_bytes(data.read_bytes()[::-1])
    assert identity(str(path)) != before
    data.unlink()
    assert "weights.bin" in refusal(path)


def test_damaged_and_too_new(tmp_path: Path) -> None:
    path = cnn(tmp_path)
    written = path.read_bytes()
    assert "IR version: 99" in refusal(cnn(tmp_path, ir_version=99))
    for content in (b"", b"nonsense", written[: len(written) // 2], written[100:]):
        path.write_bytes(content)
        assert "cannot be loaded" in refusal(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="cannot be loaded"):
        expected_size(str(path))


def without_gradients(path: Path, says: str, expected: Tensor) -> None:
    """The model works as far as onnxruntime goes: it is measured, Square attacks it, others say why they do not."""
    model = load_model(path)
    assert says in found(model, images())
    torch.testing.assert_close(model(images()), expected, rtol=1e-4, atol=1e-4)
    y = expected.argmax(dim=1)
    for attack in ("fgsm", "autoattack"):
        with pytest.raises(InputError, match=r"no gradient reaches the images.*square") as caught:
            get_attack(attack)(model, images(), y, Threat(), generator=torch.Generator().manual_seed(0))
        assert says in str(caught.value)
    assert (
        Square(queries=5)(fast(model), images(), y, Threat(), generator=torch.Generator().manual_seed(0))
        .isfinite()
        .all()
    )


@pytest.mark.parametrize(
    ("op", "inputs"), [("QuantizeLinear", ["images", "s"]), ("Hardmax", ["images"]), ("Floor", ["images"])]
)
def test_operators_without_a_gradient(op: str, inputs: list[str], tmp_path: Path) -> None:
    back = [("DequantizeLinear", ["q", "s"], ["x"], {})] if op == "QuantizeLinear" else [("Identity", ["q"], ["x"], {})]
    path = cnn(tmp_path, before=[(op, inputs, ["q"], {}), *back], constants={"s": np.float32(0.25)})
    rounded = {
        "QuantizeLinear": (images() / 0.25).round() * 0.25, "Floor": images().floor(),
        "Hardmax": torch.nn.functional.one_hot(images().argmax(dim=-1), SIDE).float(),
    }[op]  # fmt: skip
    without_gradients(path, f"{op}", reference(rounded))


def test_a_branch(tmp_path: Path) -> None:
    h = onnx.helper
    kind = h.make_tensor_value_info("b", onnx.TensorProto.FLOAT, None)
    branches = [h.make_graph([h.make_node(op, ["images"], ["b"])], "g", [], [kind]) for op in ("Identity", "Neg")]
    before = [("If", ["yes"], ["x"], {"then_branch": branches[0], "else_branch": branches[1]})]
    without_gradients(
        cnn(tmp_path, before=before, constants={"yes": np.array(True)}), "the operator If", reference(images())
    )


def test_a_conversion_that_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATORS, "Relu", lambda node, x: x.relu() * 1.001)  # type: ignore[arg-type]
    without_gradients(cnn(tmp_path), "its conversion gives other outputs", reference(images()))


def test_functions_of_the_file(tmp_path: Path) -> None:
    h, proto = onnx.helper, onnx.load(cnn(tmp_path))
    opsets = [h.make_opsetid("", 17), h.make_opsetid("mine", 1)]
    double = h.make_function("mine", "Rectify", ["a"], ["b"], [h.make_node("Relu", ["a"], ["b"])], opsets[:1])
    proto.functions.append(double)
    proto.opset_import.append(opsets[1])
    node = next(node for node in proto.graph.node if node.op_type == "Relu")
    node.op_type, node.domain = "Rectify", "mine"
    onnx.save(proto, tmp_path / "functions.onnx")
    check(load_model(tmp_path / "functions.onnx"))


def test_everything_works_as_on_the_torch_network(tmp_path: Path) -> None:
    """Verdicts, the fast path, explanations."""
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3, padding=1),
        nn.Flatten(),
        nn.Linear(320, 4),
    )
    path, x = tmp_path / "model.onnx", images(24)
    write_onnx(net.eval(), path, (3, SIDE, SIDE))
    data = (x, net(x).argmax(dim=1))
    model = load_model(path)
    assert isinstance(model, OnnxModel)
    model(x)
    copy = fast(model)
    assert isinstance(copy, CraftingCopy)
    assert copy.verify(x)
    assert sum(isinstance(each, CachedConv2d) for each in copy.modules()) == 2
    options = ino.EvaluationOptions(checks=False)
    attacks = ["fgsm", ino.PGD(steps=3), "deepfool"]
    rows = [
        [row.correct for row in ino.evaluate(each, data, attacks, [Threat(eps=0.02)], options=options)]
        for each in (net, model, str(path))
    ]
    assert rows[0] == rows[1] == rows[2]
    assert 0 < rows[0][-1] < rows[0][0]
    maps = [ino.explain(each, data, "fgsm", Threat(eps=0.05)).arrays["grad_cam"] for each in (net, model)]
    np.testing.assert_allclose(*(each.astype(float) for each in maps), atol=1)  # of 255
