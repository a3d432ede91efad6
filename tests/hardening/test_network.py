"""The network to harden: what is accepted, what is refused, what counts as trained."""

import copy
import importlib
import sys

import pytest
import torch
from torch import nn

from inoculate.core.errors import InputError
from inoculate.data.dataset import Dataset
from inoculate.hardening.network import is_trained, load_network
from inoculate.hardening.options import HardeningOptions
from inoculate.models.loading.network import model_identity
from inoculate.models.loading.specs import identity


def linear(size=144, classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(size, classes))


def test_balanced_accuracy_decides_whether_a_network_is_trained():
    labels = torch.tensor([0] * 90 + [1] * 10)
    images = labels[:, None, None, None].expand(-1, 1, 4, 4).to(torch.uint8) * 255
    data = Dataset.from_tensors(images.contiguous(), labels, name="uneven")
    good, constant = linear(16, 2), linear(16, 2)
    for model, slope in ((good, 1.0), (constant, 0.0)):
        nn.init.zeros_(model[1].weight)
        model[1].weight.data[1] = slope
        model[1].bias.data = torch.tensor([0.5, 0.0])
    assert is_trained(good, data)
    assert not is_trained(constant, data)


@pytest.mark.smoke
def test_a_module_is_copied(digits):
    module = linear().train()
    network, trained = load_network(module, digits, HardeningOptions())
    assert (network.kind, network.name, trained) == ("module", "Sequential", None)
    network.model[1].weight.data += 1
    assert not torch.equal(network.model[1].weight, module[1].weight)
    assert module.training
    assert not network.model.training


def test_declared_wrappers_are_put_around_a_module_and_taken_off(digits):
    options = HardeningOptions(outputs="probabilities", normalize="0.5/0.25")
    module = nn.Sequential(linear(), nn.Softmax(dim=1))
    network, _ = load_network(module, digits, options)
    x = torch.rand(3, 1, 12, 12)
    assert torch.allclose(network.model(x).softmax(dim=1), module((x - 0.5) / 0.25), atol=1e-6)
    assert network.inner.state_dict().keys() == module.state_dict().keys()


def test_a_named_network_takes_the_normalisation_that_is_asked_for(digits):
    network, trained = load_network("small_cnn", digits, HardeningOptions(normalize="0.5/0.25"))
    assert network.model.normalize.std.flatten().tolist() == [0.25]
    assert (network.kind, trained) == ("built", False)


def test_the_identity_of_a_module_is_its_layers_and_weights():
    module = linear()
    same, other = copy.deepcopy(module), copy.deepcopy(module)
    other[1].bias.data[0] += 1
    assert model_identity(module) == model_identity(same)
    assert len({model_identity(each) for each in (module, other, nn.Sequential(*module, nn.Identity()))}) == 3


def test_a_changed_source_file_is_another_model(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "changing_factory.py"
    file.write_text("from torch import nn\ndef net(): return nn.Flatten()\n")
    importlib.import_module("changing_factory")
    first = identity("changing_factory:net")
    assert model_identity("changing_factory:net") == first
    file.write_text(file.read_text() + "# changed\n")
    assert model_identity("changing_factory:net") != first
    del sys.modules["changing_factory"]


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        ("model.onnx", {}, "cannot be trained"),
        ("own.py", {}, "own.py:factory"),
        ("own.py:net", {"stem": "small"}, "leave out pretrained and stem"),
        ("small_cnn", {"pretrained": True, "weights": "w.safetensors"}, "two sets of weights"),
        ("small_cnn", {"pretrained": True}, "small_cnn has no pretrained weights"),
        ("small_cnn", {"outputs": "probabilities"}, "returns logits: leave outputs out"),
        ("small_cnn", {"normalize": "0.5"}, "is not understood"),
        ("small_cnn", {"normalize": "imagenet"}, "is for 3 channels and the images have 1"),
        (linear(), {"normalize": "imagenet"}, "is for 3 channels and the images have 1"),
        (linear(), {"pretrained": True}, "leave out weights, pretrained and stem"),
        (lambda x: x, {}, "cannot be trained: give an nn.Module"),
    ],
)
def test_models_that_cannot_be_trained_are_refused(digits, model, options, says):
    with pytest.raises(InputError, match=says):
        load_network(model, digits, HardeningOptions(**options))


def test_a_trained_folder_has_its_normalisation_inside(hardened, digits):
    with pytest.raises(InputError, match="has its normalisation inside"):
        load_network(hardened.folder, digits, HardeningOptions(normalize="mnist"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epochs": 0}, "epochs 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"lr": -1.0}, "lr -1.0"),
        ({"test_images": 9}, "at least 10"),
        ({"limit": 1.5}, "limit 1.5"),
        ({"seed": -1}, "seed -1"),
        ({"onnx": "yes"}, "onnx 'yes'"),
    ],
)
def test_options_out_of_range_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        HardeningOptions(**options)
