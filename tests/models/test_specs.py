"""Models from files (TorchScript, ONNX), declared outputs and declared normalisation."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from inoculate.attacks.bim import BIM
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.pgd import PGD
from inoculate.attacks.registry import get_attack
from inoculate.attacks.square import Square
from inoculate.core.errors import InputError
from inoculate.core.modes import frozen
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.models.acceleration.fast import fast, original
from inoculate.models.acceleration.hardware import memory_format_for
from inoculate.models.loading.checkpoints import ModelSpec, save_model, save_weights
from inoculate.models.loading.load import load_model
from inoculate.models.loading.outputs import FromProbabilities
from inoculate.models.loading.specs import brings_weights, expected_size
from inoculate.models.normalize import NORMALIZATIONS, Normalize

NAMES = ("a", "b", "c", "d")
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")


class Net(nn.Module):
    """As in a tutorial: BatchNorm, dropout, and maps flattened with `.view`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.head = nn.Linear(4 * 8 * 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(torch.relu(self.norm(self.conv(x))))
        return self.head(x.view(x.size(0), -1))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net().train()
        model(torch.rand(32, 3, 8, 8))
    return model.eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


Y = torch.arange(6) % 4


def resolve(spec: object, **options: object) -> nn.Module:
    channels, size = options.pop("channels", 3), options.pop("image_size", 8)
    images = torch.zeros(len(NAMES), channels, size, size, dtype=torch.uint8)  # type: ignore[call-overload]
    data = Dataset.from_tensors(images, torch.arange(len(NAMES)), classes=NAMES)
    return load_model(str(spec), data, **options)  # type: ignore[arg-type]


def refused(spec: object, **options: object) -> str:
    """Resolve what must be refused; returns the one line."""
    with pytest.raises(InputError) as caught:
        resolve(spec, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


SCRIPTS: dict[str, Callable[[nn.Module, Tensor], nn.Module]] = {
    "scripted": lambda net, x: torch.jit.script(net),
    "traced": lambda net, x: torch.jit.trace(net, x),
    "frozen": lambda net, x: torch.jit.freeze(torch.jit.script(net)),
    "in train mode": lambda net, x: torch.jit.script(net).train(),
}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_torchscript_file_is_the_model_it_came_from(kind: str, net: nn.Module, x: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    SCRIPTS[kind](net, x).save(str(path))  # type: ignore[operator]
    net.eval()
    model = resolve(path)
    torch.testing.assert_close(model(x), net(x))
    for attack in (FGSM(), BIM(steps=3), PGD(steps=3)):
        for seen in (model, fast(model)):
            draws = [torch.Generator().manual_seed(0) for _ in range(2)]
            got, expected = (attack(m, x, Y, Threat(), generator=g) for m, g in zip((seen, net), draws, strict=True))
            torch.testing.assert_close(got, expected)


def test_torchscript_can_be_borrowed_and_is_put_back(net: nn.Module, x: Tensor, tmp_path: Path) -> None:
    torch.jit.script(net).save(str(tmp_path / "model.ts"))
    model = resolve(tmp_path / "model.ts", normalize=((0.5,), (0.5,))).train()
    assert original(fast(model)) is model
    with frozen(model):
        assert not any(m.training for m in model.modules())
        assert not any(p.requires_grad for p in model.parameters())
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())
    frozen_file = torch.jit.freeze(torch.jit.script(net))  # it has no `training` flag
    with frozen(frozen_file):
        frozen_file(x)


class Trap:
    """An object whose unpickling leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.write_text, (self.mark, "!"))


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.ts", "model.torchscript"])
@pytest.mark.parametrize("old", [False, True], ids=["zip", "plain"])
def test_a_pickle_is_refused_and_never_opened(name: str, old: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    if old:
        path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    else:
        torch.save({"net": Trap(tmp_path / "sprung"), "w": torch.zeros(3)}, path)
    line = refused(path)
    assert "pickles are never opened" in line
    assert "torch.jit.script" in line
    assert str(path) in line
    assert not (tmp_path / "sprung").exists()


def test_files_that_cannot_be_models(net: nn.Module, tmp_path: Path) -> None:
    script = tmp_path / "model.ts"
    torch.jit.script(net).save(str(script))
    assert "brings its own weights" in refused(script, weights=tmp_path / "w.safetensors")
    script.write_bytes(script.read_bytes()[:-3000])
    assert str(script) in refused(script)
    script.write_bytes(b"")
    assert "pickle or damaged" in refused(script)
    save_weights(tmp_path / "w.safetensors", net)
    assert "file.py:factory" in refused(tmp_path / "w.safetensors")
    for name in ("none.pt", "none.onnx", "none.safetensors", "no/such/place"):
        assert "is not there" in refused(name)


def test_an_archive_whose_code_is_broken_is_one_line(net: nn.Module, x: Tensor, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "model.ts", "w") as archive:
        archive.writestr("model/code/__torch__.py", "nonsense")
    assert "cannot be loaded" in refused(tmp_path / "model.ts")


def onnx_file(
    path: Path,
    batch: int | str | None = "N",
    shape: tuple[object, ...] = (3, 8, 8),
    dtype: str = "FLOAT",
    outputs: int = 1,
) -> tuple[Path, nn.Linear]:
    """Flatten and multiply; returns the same as a torch layer."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'inoculate[onnx]'")
    onnx = pytest.importorskip("onnx", reason="onnx is not installed, it makes the test's files")
    h, kind = onnx.helper, getattr(onnx.TensorProto, dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        layer = nn.Linear(3 * 8 * 8, 4, bias=False)
    weight = h.make_tensor("W", kind, [192, 4], layer.weight.detach().T.double().numpy().astype("f8").ravel())
    nodes = [h.make_node("Flatten", ["x"], ["flat"], axis=1)]
    nodes += [h.make_node("MatMul", ["flat", "W"], [f"y{i}"]) for i in range(outputs)]
    ends = [h.make_tensor_value_info(f"y{i}", kind, [batch, 4]) for i in range(outputs)]
    graph = h.make_graph(nodes, "g", [h.make_tensor_value_info("x", kind, [batch, *shape])], ends, [weight])
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 13)], ir_version=8), path)
    return path, layer


@pytest.mark.parametrize("dtype", ["FLOAT", "DOUBLE", "FLOAT16"])
@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_an_onnx_file_gives_its_logits_at_any_number_of_images(
    batch: int | str, dtype: str, x: Tensor, tmp_path: Path
) -> None:
    path, layer = onnx_file(tmp_path / "model.onnx", batch, dtype=dtype)
    model = resolve(path)
    for n in (0, 1, 4, 6):
        given = x[:n].contiguous(memory_format=torch.channels_last)
        got = model(given)
        assert got.dtype is torch.float32
        close = {"rtol": 0, "atol": 5e-3} if dtype == "FLOAT16" else {}
        torch.testing.assert_close(got, layer(x[:n].flatten(1)).detach(), **close)
    assert model(x.double()).dtype is torch.float64


@pytest.mark.parametrize("name", ["fgsm", "pgd", "mifgsm", "apgd_ce", "fab_t", "autoattack"])
@pytest.mark.parametrize("declared", ["logits", "probabilities"])
def test_gradient_attacks_on_onnx_point_to_square(name: str, declared: str, x: Tensor, tmp_path: Path) -> None:
    path, layer = onnx_file(tmp_path / "model.onnx")
    model = resolve(path, normalize=((0.5,), (0.5,)))
    if declared == "probabilities":
        model = FromProbabilities(nn.Sequential(model, nn.Softmax(1)))
    right = layer((x.flatten(1) - 0.5) / 0.5).argmax(dim=1)
    for seen in (model, fast(model)):
        with pytest.raises(InputError, match=r"no gradient reaches the images.*square"):
            get_attack(name)(seen, x, right, Threat(), generator=torch.Generator().manual_seed(0))


def test_square_attacks_onnx_as_it_attacks_the_same_layer(x: Tensor, tmp_path: Path) -> None:
    path, layer = onnx_file(tmp_path / "model.onnx", batch=4)
    model, twin = resolve(path), nn.Sequential(nn.Flatten(), layer)
    y = twin(x).argmax(dim=1)
    assert original(fast(model)) is model
    found = [
        Square(queries=30)(m, x, y, Threat(eps=0.1), generator=torch.Generator().manual_seed(0))
        for m in (fast(model), twin)
    ]
    torch.testing.assert_close(*found)
    assert (model(found[0]).argmax(dim=1) != y).any()


def test_the_size_an_onnx_file_expects(tmp_path: Path) -> None:
    assert expected_size(str(onnx_file(tmp_path / "fixed.onnx")[0])) == (8, 3)
    assert expected_size(str(onnx_file(tmp_path / "free.onnx", shape=(3, "H", "W"))[0])) is None
    assert [brings_weights(s) for s in ("resnet18", "a.py:f", "m.onnx", "m.pt", str(tmp_path))] == [False, *[True] * 4]


def test_onnx_files_that_are_refused(x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    model = resolve(onnx_file(path)[0])
    with pytest.raises(InputError, match="takes 3×8×8 images and these are 3×16×16"):
        model(torch.rand(2, 3, 16, 16))
    model = resolve(onnx_file(path, shape=(3, "H", "W"))[0])
    with pytest.raises(InputError, match="cannot be run on 2×3×16×16 images") as caught:
        model(torch.rand(2, 3, 16, 16))
    assert "\n" not in str(caught.value)
    assert "one output" in refused(onnx_file(path, outputs=2)[0])
    assert "channels × height × width" in refused(onnx_file(path, shape=(8, 8, 3))[0])
    assert "channels × height × width" in refused(onnx_file(path, shape=(192,))[0])
    path.write_bytes(b"nonsense")
    assert "cannot be loaded" in refused(path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'inoculate[onnx]'" in refused(path)


def test_a_model_that_cannot_be_copied_is_its_own_fast_stand_in(net: nn.Module) -> None:
    net.session = (i for i in range(3))  # type: ignore[assignment]  # generators cannot be copied
    assert fast(net) is net
    del net.session


def test_a_network_that_flattens_with_view_gets_a_fast_copy_too(net: nn.Module, x: Tensor) -> None:
    quick = fast(net)
    assert quick is not net
    with torch.inference_mode():
        torch.testing.assert_close(quick(x.contiguous(memory_format=torch.channels_last)), net(x), rtol=0.05, atol=0.05)
    assert FGSM()(quick, x, Y, Threat()).shape == x.shape
    for model in (net, torch.jit.script(net)):
        assert memory_format_for(model, x[:1]) is torch.contiguous_format
    assert memory_format_for(nn.Conv2d(3, 4, 3), x[:1]) is torch.channels_last


def test_resolve_wraps_and_normalises(net: nn.Module, x: Tensor, tmp_path: Path) -> None:
    torch.jit.script(nn.Sequential(net, nn.Softmax(1))).save(str(tmp_path / "model.ts"))
    model = resolve(tmp_path / "model.ts", outputs="probabilities", normalize=((0.5, 0.4, 0.3), (0.2, 0.2, 0.1)))
    expected = net(Normalize((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))(x)).log_softmax(1)
    torch.testing.assert_close(model(x), expected)
    assert isinstance(model[0], Normalize)
    named = resolve("resnet10t", normalize=((0.5,), (0.25,)), image_size=32)
    assert [type(m) for m in named.modules()].count(Normalize) == 1
    assert named[0].mean.flatten().tolist() == [0.5]
    assert "use one of logits, probabilities, single-logit" in refused("resnet10t", outputs="softmax")
    assert "for 3 channels and the images have 1" in refused(
        "resnet10t", channels=1, normalize=NORMALIZATIONS["imagenet"]
    )
    spec = ModelSpec("test_resnet", NAMES, 3, 32)
    save_model(tmp_path, spec.build(), spec)
    for option in ({"outputs": "probabilities"}, {"normalize": NORMALIZATIONS["imagenet"]}):
        assert "normalisation inside" in refused(tmp_path, image_size=32, **option)
    assert resolve(tmp_path, image_size=32)(torch.rand(1, 3, 32, 32)).shape == (1, 4)
