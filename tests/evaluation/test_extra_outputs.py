"""Dummy classes and detectors: attacked images land where no label is; an attack on the classes' scores does not."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from digits_samples import every_digit
from torch import Tensor, nn

from inoculate.attacks.pgd import PGD
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.checks import Check, run_checks
from inoculate.evaluation.extra_outputs import Aggregated
from inoculate.models.classes import match_classes
from inoculate.models.classifier import prepare

THREAT = Threat("linf", 0.15)
NONE = Check("extra outputs", None, "there is no such check")


@cache
def parts() -> tuple[Dataset, Dataset]:
    order = torch.randperm(len(every_digit()), generator=torch.Generator().manual_seed(0))
    return every_digit().subset(order[:1000]), every_digit().subset(order[1000:1200])


@cache
def trained(kind: str) -> nn.Module:
    """A CNN that takes attacked images for a dummy class each (`dummy`), for one class more (`detector`), or right."""
    outputs = {"dummy": 20, "detector": 11, "plain": 10}[kind]
    train, _ = parts()
    x, y = train.images / 255, train.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
        ]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, outputs))
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(6):
            for rows in torch.randperm(len(x)).split(50):
                goal = {"dummy": y[rows] + 10, "detector": torch.full_like(y[rows], 10), "plain": y[rows]}[kind]
                attacked = PGD(steps=3, step=0.5)(model, x[rows], y[rows], THREAT)
                optimizer.zero_grad()
                (F.cross_entropy(model(x[rows]), y[rows]) + F.cross_entropy(model(attacked), goal)).backward()
                optimizer.step()
    return model.eval()


class Folded(nn.Module):
    """Ten logits of twenty outputs: the first ten, or the class that the largest stands for, without a gradient."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.inner(x)
        top = outputs.argmax(dim=1)
        return torch.where(top[:, None] >= 10, 20.0 * F.one_hot(top % 10, 10), outputs[:, :10])


def checked(model: nn.Module, data: Dataset | None = None, threat: Threat = THREAT) -> Check:
    data = parts()[1] if data is None else data
    checks = run_checks(prepare(model, data), data, {}, threat)
    return next((check for check in checks if check.name == "extra outputs"), NONE)


def named(model: nn.Module) -> tuple[nn.Module, Dataset]:
    """The model, and the data with the names of all its outputs."""
    data = parts()[1]
    names = [*data.classes, *(f"other {i}" for i in range(model[-1].out_features - 10))]  # type: ignore[index, operator]
    return match_classes(model, data, names)


@pytest.mark.parametrize("kind", ["dummy", "detector"])
def test_extra_classes_that_attract_attacks_are_found(kind: str) -> None:
    check = checked(*named(trained(kind)))
    assert check.passed is False, check.message
    assert "taken for outputs that are no class's own" in check.message


def test_dummy_classes_folded_inside_the_model_are_found() -> None:
    check = checked(Folded(trained("dummy")))
    assert check.passed is False, check.message


def test_a_network_without_extra_outputs_is_not_checked_for_them() -> None:
    assert checked(trained("plain")) is NONE


def test_a_class_without_images_is_no_trick() -> None:
    """Honest networks, with some classes that no image of the data has."""
    data = parts()[1]
    for missing in ([3], [0, 1, 2, 3, 4], list(range(8))):
        some = data.subset([i for i, label in enumerate(data.labels.tolist()) if label not in missing])
        assert checked(trained("plain"), some).passed is not False


def test_a_wider_network_of_which_some_outputs_are_selected_is_no_trick() -> None:
    from inoculate.models.select_outputs import SelectOutputs

    data = parts()[1]
    some = data.subset([i for i, label in enumerate(data.labels.tolist()) if label < 4])
    four = Dataset.from_tensors(some.images, some.labels, classes=("a", "b", "c", "d"))
    model = SelectOutputs(trained("plain"), range(4), four.classes, "", "")
    assert checked(model, four).passed is not False


def test_scores_are_the_largest_of_their_outputs() -> None:
    rows: Any = torch.tensor([[1.0, 5.0, 2.0, 7.0, 9.0]])
    net = nn.Flatten()
    assert Aggregated(net, [0, 1, 0, -1, 1], 2)(rows).tolist() == [[2.0, 9.0, 7.0]]
