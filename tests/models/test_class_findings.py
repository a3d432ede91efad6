"""Another order of the classes, and models that know none, are found in predictions on clean images."""

from __future__ import annotations

import pytest
import torch
from class_samples import lookup, one_hot_data
from torch import Tensor

from inoculate.data.class_order import natural_key
from inoculate.models.checks import inspect_model
from inoculate.models.class_findings import chance_level, class_order, prediction_findings

NUMBERED = tuple(sorted(map(str, range(11))))  # 0, 1, 10, 2, …: as torchvision's ImageFolder sorts folders


def labels(classes: int, per_class: int) -> Tensor:
    return torch.arange(classes * per_class) % classes


def order_found(predicted: Tensor, y: Tensor, names: tuple[str, ...] | int) -> str:
    names = tuple(map(str, range(names))) if isinstance(names, int) else names
    found = class_order(predicted, y, names)
    assert all("\n" not in str(each) and len(str(each)) < 300 and "--class-names" in each.cure for each in found)
    return found[0].what if found else ""


@pytest.mark.smoke
def test_numbered_folders_in_natural_order() -> None:
    y = labels(11, 6)
    natural = torch.tensor([int(name) for name in NUMBERED])  # the output of each class
    assert "right on 18% of 66 images, and on 100% once its outputs are taken as sorted as numbers" in order_found(
        natural[y], y, NUMBERED
    )
    assert order_found(y, y, NUMBERED) == ""
    names = ("class1", "class10", "class2")
    assert "sorted as numbers" in order_found(torch.tensor([0, 2, 1])[labels(3, 20)], labels(3, 20), names)
    assert "sorted as text" in order_found(natural.argsort()[y], y, tuple(map(str, range(11))))


def test_a_model_that_is_often_wrong_still_shows_its_order() -> None:
    y = labels(11, 20)
    natural = torch.tensor([int(name) for name in NUMBERED])[y]
    noise = torch.randint(0, 11, (len(y),), generator=torch.Generator().manual_seed(0))
    predicted = torch.where(torch.arange(len(y)) % 3 == 0, natural, noise)
    assert "sorted as numbers" in order_found(predicted, y, NUMBERED)


@pytest.mark.parametrize("classes", [2, 3, 10, 100, 300])
@pytest.mark.parametrize("per_class", [2, 3, 10])
def test_any_renumbering_is_found_with_few_images_per_class(classes: int, per_class: int) -> None:
    y = labels(classes, max(per_class, 20 // classes))
    shift = (y + 1) % classes
    assert "on 100% once" in order_found(shift, y, classes)
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(1))
    found = order_found(order[y], y, classes)
    assert ("on 100% once" in found) or bool((order == torch.arange(classes)).float().mean() > 0.3)
    assert order_found(y, y, classes) == ""


def test_shifts_by_one_are_called_so() -> None:
    y = labels(10, 7)
    assert "taken as one number higher (1→0, 2→1" in order_found((y + 1) % 10, y, 10)
    assert "taken as one number lower (9→0, 0→1" in order_found((y - 1) % 10, y, 10)
    assert "taken as in reverse" in order_found(9 - y, y, 10)
    assert "10→9" in order_found(y + 1, y, 10), "a model with an output too many at its beginning"


@pytest.mark.parametrize("classes", [10, 100])
def test_two_exchanged_classes_are_found(classes: int) -> None:
    y = labels(classes, 10)
    swapped = torch.where(y == 3, 5, torch.where(y == 5, 3, y))
    assert f"right on {1 - 2 / classes:.0%} of" in order_found(swapped, y, classes)
    assert "renumbered (3→5, 5→3)" in order_found(swapped, y, classes)


def test_one_image_a_class_shows_an_order_where_chance_would_not() -> None:
    y = labels(20, 1)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert "on 100% once its outputs are renumbered" in order_found(order[y], y, 20)
    guesses = torch.randint(0, 20, (20,), generator=torch.Generator().manual_seed(0))
    assert order_found(guesses, y, 20) == ""


def test_bad_models_have_no_other_order() -> None:
    g = torch.Generator().manual_seed(0)
    for classes in (2, 4, 10, 100):
        y = labels(classes, 20)
        for _ in range(20):
            assert order_found(torch.randint(0, classes, (len(y),), generator=g), y, classes) == ""
            few = torch.randint(0, classes, (2,), generator=g)  # a model that knows two answers only
            assert classes == 2 or order_found(few[(y * 7 // 3) % 2], y, classes) == ""
        confused = torch.where((y < 2) & (torch.rand(len(y), generator=g) < 0.55), 1 - y, y)
        assert classes == 2 or order_found(confused, y, classes) == "", "two classes that look alike"


def test_chance_level_and_constant_answers_are_told() -> None:
    y, names, g = labels(10, 10), tuple("abcdefghij"), torch.Generator().manual_seed(0)
    (found,) = chance_level(torch.randint(0, 10, (100,), generator=g), y, names)
    assert "at chance level: right on" in found.what
    assert "its head may be random" in found.cure
    (found,) = chance_level(torch.full((100,), 3), y, names)
    assert "one answer for all 100 clean images, class 3 (d)" in found.what
    (found,) = prediction_findings(torch.randint(0, 1000, (100,), generator=g), y, names)
    assert "right on 0 of 100 clean images" in found.what, "a random head of more outputs"
    weak = torch.where(torch.arange(100) % 4 == 0, y, torch.randint(0, 10, (100,), generator=g))
    assert chance_level(weak, y, names) == [], "a third right is more than a tenth"
    assert chance_level(y[:8], y[:8], names) == []
    assert chance_level(torch.zeros(50, dtype=torch.long), torch.zeros(50, dtype=torch.long), names) == []


def test_one_answer_a_class_that_is_right_by_luck_is_chance() -> None:
    y, g = labels(10, 50), torch.Generator().manual_seed(0)
    told = [
        bool(prediction_findings(torch.randint(0, 10, (10,), generator=g)[y], y, tuple("abcdefghij")))
        for _ in range(40)
    ]
    assert sum(told) >= 36, "random networks"
    for classes in (5, 10, 100):
        y = labels(classes, 30)
        random = torch.randint(0, classes, (len(y),), generator=g)
        assert (
            chance_level(
                torch.where(torch.rand(len(y), generator=g) < 0.15, y, random), y, tuple(map(str, range(classes)))
            )
            == []
        )


def test_guessing_is_judged_by_how_often_each_class_occurs() -> None:
    y = torch.tensor([0] * 90 + [1] * 10)
    mostly_first = torch.tensor(([0] * 9 + [1]) * 10)
    (found,) = chance_level(mostly_first, y, ("a", "b"))
    assert "right on 82 of 100 clean images, and guessing is on 82.0%" in found.what


def test_a_sample_shows_the_order_of_a_model() -> None:
    natural = lookup([int(name) for name in NUMBERED])
    (found,) = inspect_model(natural, one_hot_data(NUMBERED, 8))
    assert "sorted as numbers (2 before 10)" in found.what
    assert inspect_model(lookup(range(11)), one_hot_data(NUMBERED, 8)) == []


def test_numbers_in_names_are_compared_as_numbers() -> None:
    assert sorted(["b10", "b9", "a", "10", "9"], key=natural_key) == ["9", "10", "a", "b9", "b10"]
