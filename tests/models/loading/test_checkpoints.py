"""Trained folders: written, read, and refused where they are damaged."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from inoculate.core.errors import InputError
from inoculate.models.build import build_model
from inoculate.models.loading.checkpoints import (
    DESCRIPTION,
    WEIGHTS,
    ModelSpec,
    load_weights,
    read_description,
    save_model,
)
from inoculate.models.loading.load import load_model

SPEC = ModelSpec("resnet10t", ("cat", "dog", "owl"), channels=1, image_size=32, mean=(0.3,), std=(0.2,))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, nn.Module]:
    model = SPEC.build(seed=3)
    with torch.no_grad():
        model.train()(torch.rand(4, 1, 32, 32))
    save_model(tmp_path, model, SPEC, val_accuracy=0.5)
    return tmp_path, model


def test_the_round_trip_is_bit_exact(saved: tuple[Path, nn.Module]) -> None:
    folder, model = saved
    loaded = load_model(str(folder))
    assert read_description(folder).spec == SPEC
    expected, got = model.state_dict(), loaded.state_dict()
    assert list(got) == list(expected)
    assert all(torch.equal(got[n], expected[n]) and got[n].dtype is expected[n].dtype for n in expected)
    assert not loaded.training
    x = torch.rand(4, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), model.eval()(x))
    assert json.loads((folder / DESCRIPTION).read_text())["val_accuracy"] == 0.5


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


def _pickle(path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, path)


def _old_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": [0.0]}))


def _nothing(path: Path) -> None:
    path.write_bytes(b"")


def _web_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><title>404</title>")


DAMAGE = [_truncate, _flip, _pickle, _old_pickle, _nothing, _web_page, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_weights_are_refused_in_one_line(
    saved: tuple[Path, nn.Module], damage: Callable[[Path], object]
) -> None:
    folder, _ = saved
    damage(folder / WEIGHTS)
    with pytest.raises(InputError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    assert WEIGHTS in str(caught.value)


@pytest.mark.parametrize("damage", [d for d in DAMAGE if d is not _flip])
def test_damaged_weights_are_refused_without_a_checksum_too(
    saved: tuple[Path, nn.Module], damage: Callable[[Path], object]
) -> None:
    folder, model = saved
    damage(folder / WEIGHTS)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_weights(folder / WEIGHTS, model)
    assert "\n" not in str(caught.value)
    assert ("a pickle" in str(caught.value)) == (damage in (_pickle, _old_pickle))
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.write_text, (tmp_path / "sprung", "!"))

    (tmp_path / WEIGHTS).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match="a pickle"):
        load_weights(tmp_path / WEIGHTS, nn.Linear(1, 1))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "other",
    [
        lambda: nn.Linear(3, 2),
        lambda: build_model("resnet10t", classes=2, channels=1),
        lambda: build_model("resnet10t", classes=3, channels=3),
    ],
    ids=["another network", "other classes", "other channels"],
)
def test_weights_of_another_network_are_refused_in_one_line(
    saved: tuple[Path, nn.Module], other: Callable[[], nn.Module]
) -> None:
    with pytest.raises(InputError, match="do not fit") as caught:
        load_weights(saved[0] / WEIGHTS, other())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"model": {}, "sha256": ""}', '{"model": {"name": 1, "colour": 2}, "sha256": ""}',
     '{"model": ["x"], "sha256": "", "format": 1}', '{"model": "x", "sha256": "", "format": 1}'],
)  # fmt: skip
def test_a_damaged_description_is_refused_in_one_line(saved: tuple[Path, nn.Module], text: str) -> None:
    (saved[0] / DESCRIPTION).write_text(text)
    with pytest.raises(InputError) as caught:
        load_model(saved[0])
    assert "\n" not in str(caught.value)
    assert DESCRIPTION in str(caught.value)


@pytest.mark.parametrize("key", ["format", "sha256"])
@pytest.mark.parametrize("value", [None, 2, "x", []])
def test_a_description_of_another_format_or_checksum_is_refused(
    saved: tuple[Path, nn.Module], key: str, value: Any
) -> None:
    file = saved[0] / DESCRIPTION
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(InputError) as caught:
        load_model(saved[0])
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_refused_in_one_line(tmp_path: Path) -> None:
    for folder, message in ((tmp_path, "holds no trained model"), (tmp_path / "nowhere", "is not there")):
        with pytest.raises(InputError, match=message) as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)
