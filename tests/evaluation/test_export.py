"""Networks written for deployment: read back, compared with the original, and refused where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from digits_samples import every_digit
from torch import Tensor, nn

import inoculate as ino
from inoculate.core.errors import InputError
from inoculate.core.extras import is_installed
from inoculate.data.dataset import Dataset
from inoculate.models.loading.onnx import OnnxModel

pytestmark = pytest.mark.skipif(not is_installed("onnxruntime"), reason="pip install 'inoculate[onnx]'")
FILES = {"onnx": "net.onnx", "int8": "net.int8.onnx", "torchscript": "net.ts"}


class Around(nn.Module):
    """What `before` makes of the images, and `after` of the logits, around a linear network."""

    def __init__(self, before: Any = lambda x: x, after: Any = lambda z, x: z) -> None:
        super().__init__()
        self.head, self.before, self.after = nn.Linear(64, 10), before, after

    def forward(self, x: Tensor) -> Any:
        return self.after(self.head(self.before(x).flatten(1)), x)


@pytest.mark.parametrize("to", FILES)
def test_the_file_is_the_network(to: Any, digits: tuple[nn.Module, Dataset], tmp_path: Path) -> None:
    net, data = digits
    before = [each.clone() for each in net.state_dict().values()]
    found = ino.export(net, data, tmp_path / FILES[to], to, calibration=every_digit().limit(100))
    assert found.path.read_bytes()
    assert (found.images, found.to, found.size) == (200, to, found.path.stat().st_size)
    assert found.agreement > 0.98
    assert found.difference < (0.1 if to == "int8" else 1e-5)
    assert found.warnings == ()
    assert [path.name for path in tmp_path.iterdir()] == [FILES[to]]
    x = data.images[:5] / 255
    with torch.no_grad():
        difference = (ino.load_model(found.path)(x) - net(x)).abs().max()
    assert difference < (3 if to == "int8" else 1e-3)
    assert all(torch.equal(*pair) for pair in zip(before, net.state_dict().values(), strict=True))
    assert str(found).startswith(f"{found.path} ({to}, 0.0")


def test_onnx_files_hold_the_class_names(tmp_path: Path) -> None:
    """A file that is read with data in another order of classes is matched by name."""
    images = every_digit().limit(50)
    named = Dataset.from_tensors(images.images, images.labels, classes=[f"digit {number}" for number in range(10)])
    for to in ("onnx", "int8"):
        found = ino.export(Around().eval(), named, tmp_path / f"{to}.onnx", to)  # type: ignore[arg-type]
        assert OnnxModel(found.path).class_names == named.classes


ODD = {
    "returns a dictionary": lambda: Around(after=lambda z, x: {"logits": z}),
    "returns a pair": lambda: Around(after=lambda z, x: (z, x)),
    "edits its input": lambda: Around(before=lambda x: x.sub_(0.5)),
    "compiled": lambda: torch.compile(Around(), backend="eager"),
    "scripted": lambda: torch.jit.trace(Around().eval(), torch.rand(2, 1, 8, 8)),
    "is in train mode": lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)).train(),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("to", ["onnx", "torchscript"])
def test_models_of_every_form(kind: str, to: Any, tmp_path: Path) -> None:
    model, data = ODD[kind](), every_digit().limit(20)
    training, pixels = model.training, data.images.clone()
    assert ino.export(model, data, tmp_path / FILES[to], to).difference < 1e-5
    assert model.training == training
    assert torch.equal(data.images, pixels)


REFUSED: dict[str, tuple[Any, str, str, str]] = {
    "random": (
        lambda: Around(after=lambda z, x: z + torch.rand_like(z)), "onnx", "a.onnx", "differ from the network's"
    ),
    "batch statistics": (
        lambda: Around(before=lambda x: x - float(x.mean())), "torchscript", "a.ts", "differ from the network's"
    ),
    "fixed batch": (
        lambda: Around(before=lambda x: x.reshape(len(x), 64)), "torchscript", "a.ts", "batches of other sizes"
    ),
    "function": (lambda: lambda x: x.flatten(1)[:, :10], "onnx", "a.onnx", "cannot be copied"),
    "no operator": (
        lambda: Around(after=lambda z, x: torch.linalg.eigvals(x).real.flatten(1)), "onnx", "a.onnx", "exported to ONNX"
    ),
    "no place": (Around, "onnx", ".", "does not end like a onnx file"),
    "half precision": (lambda: Around().bfloat16(), "onnx", "a.onnx", "weights of torch.bfloat16: export model.float"),
    "format": (Around, "int4", "a.onnx", "to 'int4' is unknown"),
    "ending": (Around, "onnx", "a.ts", "give a name that ends in .onnx"),
    "other ending": (Around, "torchscript", "a.onnx", "give a name that ends in .ts or"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_in_one_line_and_nothing_is_written(kind: str, tmp_path: Path) -> None:
    make, to, name, said = REFUSED[kind]
    with pytest.raises(InputError, match=said) as caught:
        ino.export(make(), every_digit().limit(20), tmp_path / name, to)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_wrong_calibration_is_said(digits: tuple[nn.Module, Dataset], tmp_path: Path) -> None:
    net, data = digits
    dark = Dataset.from_tensors(data.images // 50, data.labels)
    found = ino.export(net, data, tmp_path / "net.onnx", "int8", calibration=dark)
    assert found.agreement < 0.9
    assert "calibrate it on other images" in found.warnings[0]
    measured = ino.export(net, data, tmp_path / "net.onnx", "int8")
    assert "int8 is calibrated on the measured images themselves" in measured.notes[-1]
    assert measured.agreement > 0.97


def test_an_onnx_file_is_quantised_as_it_is(digits: tuple[nn.Module, Dataset], tmp_path: Path) -> None:
    net, data = digits
    first = ino.export(net, data, tmp_path / "net.onnx").path
    assert ino.export(str(first), data, tmp_path / "int8.onnx", "int8").agreement > 0.97
    with pytest.raises(InputError, match="does not run on batches of other sizes"):  # its shapes become constants
        ino.export(str(first), data, tmp_path / "net.ts", "torchscript")
    with pytest.raises(InputError, match="is an ONNX file: there is nothing to export"):
        ino.export(str(first), data, tmp_path / "again.onnx")
    quantised = ino.load_model(tmp_path / "int8.onnx")
    with pytest.raises(InputError, match="has no conversion to torch: use its ONNX file"):
        ino.export(quantised, data, tmp_path / "again.ts", "torchscript")
