"""The network after its hardening: a module, a folder, a SPEC, or weights for the network before."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from inoculate.core.errors import InputError
from inoculate.core.pixels import to_float
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.models.loading.checkpoints import ModelSpec, save_factory_weights, save_model, save_module_weights
from inoculate.playground.play import load_hardened, open_session

FACTORY = "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))\n"


@pytest.fixture(scope="module")
def data() -> Dataset:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=draw)
    return Dataset.from_tensors(images, torch.arange(8) % 4, classes="abcd")


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)).eval()


@pytest.fixture
def factory(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(FACTORY)
    return f"{tmp_path}/nets.py:net"


def folder(place: Path) -> tuple[Path, nn.Module]:
    spec = ModelSpec("small_cnn", tuple("abcd"), 3, 32)
    model = spec.build(seed=3)
    save_model(place, model, spec)
    return place, model.eval()


def agree(one, other, data: Dataset) -> bool:
    x = to_float(data.images)
    with torch.no_grad():
        return torch.allclose(one(x), other(x), atol=1e-5)


def test_a_folder_that_a_hardening_wrote(data, tmp_path, factory):
    place, model = folder(tmp_path / "hard")
    assert agree(load_hardened(place, factory, data), model, data)
    assert agree(load_hardened(str(place), factory, data), model, data)


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_weights_are_those_of_the_model_that_is_named(data, tmp_path, factory, ending):
    file, model = tmp_path / f"hard.{ending}", network()
    save_file(model.state_dict(), file) if ending == "safetensors" else torch.save(model.state_dict(), file)
    assert agree(load_hardened(file, factory, data), model, data)


def test_a_folder_of_a_network_that_a_function_builds(data, tmp_path, factory):
    save_factory_weights(tmp_path / "hard", network(), "elsewhere:net")
    assert agree(load_hardened(tmp_path / "hard", factory, data), network(), data)


def test_what_is_declared_holds_for_both_networks(data, tmp_path, factory):
    save_file(network().state_dict(), tmp_path / "hard.safetensors")
    found = load_hardened(tmp_path / "hard.safetensors", factory, data, normalize="0.5/0.25")
    shifted = lambda x: network()((x - 0.5) / 0.25)  # noqa: E731
    assert agree(found, shifted, data)


def test_a_module_and_a_spec_of_its_own(data, factory):
    model = network()
    assert load_hardened(model, factory, data) is model
    assert isinstance(load_hardened(factory, "resnet18", data), nn.Module)


def test_mistakes_are_refused_in_one_line(data, tmp_path, factory):
    save_file(network().state_dict(), tmp_path / "hard.safetensors")
    with pytest.raises(InputError, match="weights without a network"):
        load_hardened(tmp_path / "hard.safetensors", network(), data)
    with pytest.raises(InputError, match="is not there"):
        load_hardened(str(tmp_path / "nothing.safetensors"), factory, data)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no trained model"):
        load_hardened(tmp_path / "empty", factory, data)
    save_module_weights(tmp_path / "own", network(), "Net")
    with pytest.raises(InputError, match="your own module"):
        load_hardened(tmp_path / "own", factory, data)
    save_file({"other": torch.zeros(3)}, tmp_path / "wrong.safetensors")
    with pytest.raises(InputError):
        load_hardened(tmp_path / "wrong.safetensors", factory, data)


def test_a_hardened_network_with_other_classes_is_named(data, factory):
    three = nn.Sequential(nn.Flatten(), nn.Linear(3072, 3))
    with pytest.raises(InputError, match=r"^After hardening: the model knows 3 classes"):
        open_session(network(), data, ["fgsm"], Threat(), hardened=three)
