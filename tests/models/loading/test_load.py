"""Every kind of model SPEC, function and module becomes a classifier in eval mode."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from model_samples import small_data, tutorial_images, tutorial_net
from torch import Tensor, nn

from inoculate.attacks.registry import get_attack
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.models.build import build_model
from inoculate.models.loading.checkpoints import ModelSpec, save_model, save_weights
from inoculate.models.loading.load import FunctionModel, as_module, load_model
from inoculate.models.loading.specs import brings_weights, expected_size, identity, kind_of
from inoculate.models.normalize import NORMALIZATIONS, Normalize

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
FACTORY = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 4)).train()

def fails():
    raise ValueError("no such weights")

def returns_nothing():
    return None

number = 3
"""


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Path]:
    """A file with factories, which is forgotten afterwards."""
    before, path = set(sys.modules), list(sys.path)
    file = tmp_path / "factories_of_a_test.py"
    file.write_text(FACTORY)
    yield file
    for name in set(sys.modules) - before:
        if name.startswith("factories_of_"):
            del sys.modules[name]
    sys.path[:] = path


def error(spec: object, *data: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        load_model(str(spec), *data, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_timm_name_takes_classes_and_size_from_the_data() -> None:
    data = small_data(channels=1, size=32)
    model = load_model("resnet10t", data, seed=3)
    assert not any(m.training for m in model.modules())
    expected = build_model("resnet10t", classes=4, channels=1, image_size=32, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    assert load_model("small_cnn", small_data())(torch.rand(2, 3, 8, 8)).shape == (2, 4)
    assert "give the data as well" in error("resnet10t")
    assert "did you mean" in error("resnet81", data)


def test_factory(module: Path) -> None:
    for spec in (f"{module}:net", "factories_of_a_test:net"):
        model = load_model(spec, seed=1)
        assert not any(m.training for m in model.modules())
        again, other = load_model(spec, seed=1), load_model(spec, seed=2)
        assert torch.equal(model[2].weight, again[2].weight)
        assert not torch.equal(model[2].weight, other[2].weight)


def test_factories_that_are_refused_in_one_line(module: Path) -> None:
    assert "has no function 'none'" in error(f"{module}:none")
    assert "has no function 'number'" in error(f"{module}:number")
    assert "fails() failed (ValueError: no such weights)" in error(f"{module}:fails")
    assert "returned NoneType" in error(f"{module}:returns_nothing")
    assert "is not there" in error(f"{module.parent / 'nowhere.py'}:net")
    assert "cannot be imported" in error("no_such_package_of_anyone:net")
    module.write_text("raise SystemExit('bye')")
    assert "cannot be imported (SystemExit: bye)" in error(f"{module}:net")


def test_modules_and_functions_are_put_behind_what_is_declared(tmp_path: Path) -> None:
    network, x = tutorial_net().train(), torch.rand(2, 3, 8, 8)
    plain = load_model(network)
    assert plain is network
    assert not network.training
    mean_std = ((0.5,) * 3, (0.2,) * 3)
    expected = network((x - 0.5) / 0.2)
    torch.testing.assert_close(load_model(network, normalize=mean_std)(x), expected)
    torch.testing.assert_close(load_model(lambda x: network(x), normalize="0.5/0.2")(x), expected)
    behind = load_model(lambda x: network(x).softmax(1), outputs="probabilities")
    torch.testing.assert_close(behind(x), network(x).log_softmax(1))
    save_weights(tmp_path / "w.safetensors", network)
    assert load_model(tutorial_net(), weights=tmp_path / "w.safetensors")(x).equal(network(x))


def test_weights_for_a_factory(module: Path, tmp_path: Path) -> None:
    expected = load_model(f"{module}:net", seed=5)
    save_weights(tmp_path / "w.safetensors", expected)
    model = load_model(f"{module}:net", weights=str(tmp_path / "w.safetensors"))
    assert torch.equal(model[2].weight, expected[2].weight)


def test_folder_needs_no_data_and_is_checked_against_them(tmp_path: Path) -> None:
    spec = ModelSpec("small_cnn", ("a", "b", "c", "d"), 3, 8)
    save_model(tmp_path, spec.build(), spec)
    assert load_model(tmp_path)(torch.rand(1, 3, 8, 8)).shape == (1, 4)
    assert load_model(tmp_path, small_data())(torch.rand(1, 3, 8, 8)).shape == (1, 4)
    for options in ({"outputs": "probabilities"}, {"normalize": "imagenet"}):
        assert "normalisation inside" in error(tmp_path, **options)
    for data in (small_data(channels=1), small_data(size=16), small_data(classes="abx"), small_data(classes="abcde")):
        assert "choose the data it was trained for" in error(tmp_path, data)
    for classes in ("bacd", "BACD", ("b ", "a", "-c", "d")):
        assert "in another order" in error(tmp_path, small_data(classes=classes))
    for classes in ("abc", "db", "ABCD"):  # whose outputs are found by name where the model is measured
        assert load_model(tmp_path, small_data(classes=classes)).class_names == tuple("abcd")


def test_declared_outputs_and_normalisation(module: Path, tmp_path: Path) -> None:
    x, net = tutorial_images(), nn.Sequential(tutorial_net(), nn.Softmax(1))
    traced = torch.jit.trace(net, x)
    traced.save(str(tmp_path / "model.ts"))
    model = load_model(tmp_path / "model.ts", outputs="probabilities", normalize="0.5,0.4,0.3/0.2,0.2,0.1")
    expected = tutorial_net()(Normalize((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))(x)).log_softmax(1)
    torch.testing.assert_close(model(x), expected)
    assert isinstance(model[0], Normalize)
    named = load_model("resnet10t", small_data(size=32), normalize=((0.5,), (0.25,)))
    assert [type(m) for m in named.modules()].count(Normalize) == 1
    assert named[0].mean.flatten().tolist() == [0.5]
    assert "use one of logits, probabilities, log-probabilities" in error("resnet10t", small_data(), outputs="softmax")
    grey = small_data(channels=1)
    assert "for 3 channels and the images have 1" in error("resnet10t", grey, normalize=NORMALIZATIONS["imagenet"])
    assert "is not understood" in error("resnet10t", grey, normalize="imagnet")


def test_paths_that_are_no_models(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", nn.Linear(1, 1))
    assert "file.py:factory" in error(tmp_path / "w.safetensors")
    for name in ("none.pt", "none.onnx", "none.safetensors", "no/such/place", "none.py"):
        assert "is not there" in error(name), name


def test_kinds_of_specs(tmp_path: Path) -> None:
    kinds = {
        "resnet18": "name", "a.b:f": "factory", "a.py:f": "factory", "m.onnx": "onnx", "m.pt": "torchscript",
        str(tmp_path): "folder",
    }  # fmt: skip
    assert {spec: kind_of(spec) for spec in kinds} == kinds
    assert [spec for spec in kinds if not brings_weights(spec)] == ["resnet18"]
    assert expected_size("resnet18") is None
    assert expected_size("m.onnx") is None
    spec = ModelSpec("small_cnn", ("a", "b"), 1, 8)
    save_model(tmp_path, spec.build(), spec)
    assert expected_size(str(tmp_path)) == (8, 1)


def test_identity_changes_with_the_content(module: Path, tmp_path: Path) -> None:
    spec = ModelSpec("small_cnn", ("a", "b"), 1, 8)
    save_model(tmp_path, spec.build(seed=1), spec)
    load_model("factories_of_a_test:net") if str(tmp_path) in sys.path else load_model(f"{module}:net")
    specs = (str(tmp_path), f"{module}:net", "factories_of_a_test:net")
    before = [identity(each) for each in specs]
    assert before == [identity(each) for each in specs]
    save_model(tmp_path, spec.build(seed=2), spec)
    module.write_text(FACTORY + "# changed\n")
    assert all(identity(each) != first for each, first in zip(specs, before, strict=True))
    assert identity("resnet18") == "resnet18"


@pytest.mark.smoke
def test_function_as_module() -> None:
    net, x, y = tutorial_net(), tutorial_images(), torch.arange(6) % 4
    wrapped = as_module(lambda images: net(images))
    assert isinstance(wrapped, FunctionModel)
    for name in ("fgsm", "pgd", "square"):
        found = [
            get_attack(name)(model, x, y, Threat(eps=0.1), generator=torch.Generator().manual_seed(0))
            for model in (wrapped, lambda images: net(images), net)
        ]
        assert all(torch.equal(each, found[-1]) for each in found), name


def test_as_module() -> None:
    net, x = tutorial_net(), tutorial_images()
    assert as_module(net) is net
    assert as_module("small_cnn", small_data())(x).shape == (6, 4)
    compiled: Tensor = as_module(torch.compile(net, backend="eager"))(x)
    torch.testing.assert_close(compiled, net(x))
    with pytest.raises(InputError, match=r"give an nn\.Module, a function from images to logits, or a model SPEC"):
        as_module(3)  # type: ignore[arg-type]
