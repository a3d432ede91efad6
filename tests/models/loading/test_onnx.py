"""ONNX files: read as classifiers with gradients where they can be converted, and written from networks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from model_samples import tutorial_images, tutorial_net
from torch import Tensor, nn

from inoculate.attacks.registry import get_attack
from inoculate.attacks.square import Square
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.models.acceleration.cached_convolutions import cache_convolutions
from inoculate.models.acceleration.fast import fast, original
from inoculate.models.build import build_model
from inoculate.models.export.files import write_onnx
from inoculate.models.loading.load import load_model
from inoculate.models.loading.onnx import OnnxModel
from inoculate.models.loading.outputs import AsLogits
from inoculate.models.loading.specs import expected_size

onnx = pytest.importorskip("onnx", reason="onnx is not installed, it makes the test's files")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inoculate[onnx]'")


@pytest.fixture(scope="module")
def x() -> Tensor:
    return tutorial_images()


def linear_file(
    path: Path,
    batch: int | str | None = "N",
    shape: tuple[object, ...] = (3, 8, 8),
    dtype: str = "FLOAT",
    first: str = "Identity",
) -> tuple[Path, nn.Linear]:
    """An operator, flatten and multiply, as an ONNX file; returns the product as a torch layer."""
    h, kind = onnx.helper, getattr(onnx.TensorProto, dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        layer = nn.Linear(3 * 8 * 8, 4, bias=False)
    weight = h.make_tensor("W", kind, [192, 4], layer.weight.detach().T.double().numpy().astype("f8").ravel())
    nodes = [h.make_node(first, ["x"], ["i"]), h.make_node("Flatten", ["i"], ["flat"], axis=1)]
    nodes.append(h.make_node("MatMul", ["flat", "W"], ["y"]))
    ends = [h.make_tensor_value_info("y", kind, [batch, 4])]
    graph = h.make_graph(nodes, "g", [h.make_tensor_value_info("x", kind, [batch, *shape])], ends, [weight])
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8), path)
    return path, layer


def error(spec: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load_model(str(spec), **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["FLOAT", "DOUBLE", "FLOAT16"])
@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_logits_at_any_number_of_images(batch: int | str, dtype: str, x: Tensor, tmp_path: Path) -> None:
    path, layer = linear_file(tmp_path / "model.onnx", batch, dtype=dtype)
    model = load_model(path)
    for n in (0, 1, 4, 6):
        given = x[:n].contiguous(memory_format=torch.channels_last)
        got = model(given)
        assert got.dtype is torch.float32
        close = {"rtol": 0, "atol": 5e-3} if dtype == "FLOAT16" else {}
        torch.testing.assert_close(got, layer(x[:n].flatten(1)).detach(), **close)
    assert model(x.double()).dtype is torch.float64


@pytest.mark.parametrize("declared", ["logits", "probabilities"])
def test_gradient_attacks_refer_to_square(declared: str, x: Tensor, tmp_path: Path) -> None:
    path, layer = linear_file(tmp_path / "model.onnx", first="Round")
    model = load_model(path, normalize=((0.5,), (0.5,)))
    if declared == "probabilities":
        model = AsLogits(nn.Sequential(model, nn.Softmax(1)), "probabilities")
    right = layer(((x.flatten(1) - 0.5) / 0.5).round()).argmax(dim=1)
    for name in ("fgsm", "pgd", "mifgsm", "apgd_ce", "fab_t", "autoattack"):
        for tested in (model, fast(model)):
            with pytest.raises(InputError, match=r"no gradient reaches the images.*Round.*square"):
                get_attack(name)(tested, x, right, Threat(), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("first", ["Identity", "Ceil"])
def test_square_attacks_onnx_as_it_attacks_the_same_layer(first: str, x: Tensor, tmp_path: Path) -> None:
    path, layer = linear_file(tmp_path / "model.onnx", batch=4, first=first)
    model, reference = (
        load_model(path),
        nn.Sequential(Ceil() if first == "Ceil" else nn.Identity(), nn.Flatten(), layer),
    )
    y = reference(x).argmax(dim=1)
    assert original(fast(model)) is model
    found = [
        Square(queries=30)(m, x, y, Threat(eps=0.1), generator=torch.Generator().manual_seed(0))
        for m in (fast(model), reference)
    ]
    torch.testing.assert_close(*found)
    assert (model(found[0]).argmax(dim=1) != y).any()


class Ceil(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.ceil()


def test_expected_size(tmp_path: Path) -> None:
    assert expected_size(str(linear_file(tmp_path / "fixed.onnx")[0])) == (8, 3)
    assert expected_size(str(linear_file(tmp_path / "free.onnx", shape=(3, "H", "W"))[0])) is None


def test_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    model = load_model(linear_file(path)[0])
    with pytest.raises(InputError, match="takes 3×8×8 images and these are 3×16×16"):
        model(torch.rand(2, 3, 16, 16))
    model = load_model(linear_file(path, shape=(3, "H", "W"))[0])
    with pytest.raises(InputError, match="cannot be run on 2×3×16×16 images") as caught:
        model(torch.rand(2, 3, 16, 16))
    assert "\n" not in str(caught.value)
    assert "has its own weights" in error(path, weights="w.safetensors")
    assert "channels × height × width" in error(linear_file(path, shape=(8, 24))[0])
    assert "channels × height × width" in error(linear_file(path, shape=(192,))[0])
    path.write_bytes(b"nonsense")
    assert "cannot be loaded" in error(path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'inoculate[onnx]'" in error(path)


def test_export_and_read_again(x: Tensor, tmp_path: Path) -> None:
    built = build_model("resnet10t", classes=4, image_size=32).eval()
    for number, (model, images) in enumerate(
        [(tutorial_net(), x), (built, torch.rand(3, 3, 32, 32)), (cache_convolutions(built), torch.rand(3, 3, 32, 32))]
    ):
        path = tmp_path / f"{number}.onnx"
        write_onnx(model, path, tuple(images.shape[1:]))  # type: ignore[arg-type]
        with torch.no_grad():
            torch.testing.assert_close(OnnxModel(path)(images), model(images), rtol=1e-4, atol=1e-4)


def test_network_that_cannot_be_exported(tmp_path: Path) -> None:
    class Inverts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.inv(x).flatten(1)

    with pytest.raises(InputError, match="cannot be exported to ONNX") as caught:
        write_onnx(Inverts(), tmp_path / "model.onnx", (3, 8, 8))
    assert "\n" not in str(caught.value)
