"""Attacks called directly with labels as people hold them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import inoculate as ino
from inoculate.attacks.base import shortened
from inoculate.attacks.registry import ATTACKS, get_attack
from inoculate.core.errors import InputError

CLASSES, T = 4, ino.Threat("linf", 0.1)
OTHER_NORMS = {"carlini_wagner": ino.Threat("l2", 0.1)} | dict.fromkeys(
    ("patch", "sigma_zero", "sparse_rs"), ino.Threat("l0", 4)
)


def threat_of(name: str) -> ino.Threat:
    """A threat in a norm that the attack takes."""
    return OTHER_NORMS.get(name, T)


X = torch.rand(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % CLASSES
FORMS: dict[str, Any] = {
    **{str(dtype): Y.to(dtype) for dtype in (torch.int8, torch.int16, torch.int32, torch.uint8, torch.uint16)},
    **{str(dtype): Y.to(dtype) for dtype in (torch.float16, torch.float32, torch.float64)},
    "one-hot floats": torch.eye(CLASSES)[Y],
    "one-hot integers": torch.eye(CLASSES, dtype=torch.int64)[Y],
    "column": Y[:, None],
    "array": Y.numpy(),
    "list": Y.tolist(),
    "int32 array": Y.numpy().astype(np.int32),
}
WRONG: dict[str, tuple[Any, str]] = {
    "shifted": (Y + 100, r"label 100 of image 0 must be in 0\.\.3, the 4 outputs of the model"),
    "from 1": (Y + 1, r"label 4 of image 3 must be in 0\.\.3, .*numbered from 1 to 4: subtract 1"),
    "negative": (Y - 1, r"label -1 of image 0 must be"),
    "short": (Y[:7], "8 images need 8 labels"),
    "soft": (torch.full((8, CLASSES), 0.25), "not one-hot"),
    "fractions": (Y / 2, r"label 0\.5 of image 1 must be a whole number"),
    "NaN": (torch.where(Y == 2, torch.nan, Y.float()), "label nan of image 2"),
    "text": (["cat"] * 8, "labels must be integers"),
    "booleans": (Y > 1, r"use labels\.long"),
    "nothing": (None, "labels must be integers"),
}

WRAPS: dict[str, Callable[[nn.Module], Any]] = {
    "module": lambda net: net,
    "function": lambda net: lambda z: net(z),
    "TorchScript": torch.jit.script,
    "fast copy": ino.fast,
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, CLASSES)).eval()


def attack(y: Any, model: Any, name: str = "pgd") -> Tensor:
    threat = threat_of(name)
    return get_attack(name)(model, X, y, threat, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("form", FORMS)
def test_labels_of_any_form_give_the_same_images(form: str) -> None:
    model = network()
    assert torch.equal(attack(FORMS[form], model), attack(Y, model))
    swept = [dict(ino.sweep(ino.FGSM(), model, X, y, T, [0.05]))[0.05] for y in (FORMS[form], Y)]
    assert torch.equal(*swept)


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"autoattack_rand", "autoattack_binary"}))
def test_every_attack_takes_labels_of_any_form(name: str) -> None:
    attack_ = shortened(get_attack(name))
    threat, model = threat_of(name), network()
    found = [
        attack_(model, X, y, threat, generator=torch.Generator().manual_seed(0))
        for y in (Y, Y.tolist(), torch.eye(4)[Y])
    ]  # type: ignore[arg-type]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", sorted(set(ATTACKS) - {"autoattack_rand"}))
def test_every_attack_refuses_labels_that_the_model_has_no_output_for(name: str) -> None:
    for y in (Y + 100, Y - 1):
        with pytest.raises(InputError, match=f"label {y[0]} of image 0 must be"):
            attack(y, network(), name)


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
def test_wrong_labels_are_refused_in_one_line(case: str, wrap: Callable[[nn.Module], Any]) -> None:
    y, says = WRONG[case]
    with pytest.raises(InputError, match=says) as caught:
        attack(y, wrap(network()))
    assert "\n" not in str(caught.value)


def test_the_model_keeps_no_hook() -> None:
    model = network()
    attack(Y, model)
    with pytest.raises(InputError):
        attack(Y + 100, model)
    assert not model._forward_hooks


def test_crafting_on_a_dataset_of_more_classes_is_refused() -> None:
    data = ino.Dataset.from_tensors((X * 255).byte(), Y + 2, classes="abcdef")
    with pytest.raises(InputError, match=r"label 4 of image 2 must be in 0\.\.3"):
        ino.craft(ino.FGSM(), network(), data, T)
