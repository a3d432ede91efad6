"""Attacks with a target: only an image that is taken for the target class is done, whatever else it is mistaken for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from attack_samples import for_every, images, linear_net, seeded, small_net
from torch import Tensor

from inoculate.attacks.apgd import APGD
from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.bim import BIM
from inoculate.attacks.carlini_wagner import CarliniWagner
from inoculate.attacks.deepfool import DeepFool
from inoculate.attacks.fab import FAB
from inoculate.attacks.fmn import FMN
from inoculate.attacks.mifgsm import MIFGSM
from inoculate.attacks.pgd import PGD
from inoculate.attacks.square import Square
from inoculate.attacks.targets import choose_targets, wrong_classes
from inoculate.core.errors import InputError
from inoculate.core.threat import Norm, Threat, distance
from inoculate.data.dataset import Dataset
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.records import write_records
from inoculate.evaluation.result import Evaluation
from inoculate.evaluation.transfer import transfer
from inoculate.models.acceleration.fast import fast

# The sum of the pixels s decides: class 0 up to 1.2, class 1 up to 1.5, class 2 beyond; class 3 never.
NET = linear_net([[0] * 4, [1] * 4, [3] * 4, [0] * 4], bias=[0, -1.2, -4.2, -9])
X, Y = torch.full((2, 1, 2, 2), 0.25), torch.zeros(2, dtype=torch.long)  # s = 1
WAYS: dict[Norm, float] = {"linf": 0.125, "l2": 0.25, "l1": 0.5}  # to class 2; class 1 is at two fifths of that
BALL: dict[str, Any] = {
    "bim": BIM(target=2, early_stop=True),
    "pgd": PGD(target=2, restarts=2),
    "pgd_early": PGD(target=2, early_stop=True),
    "mifgsm": MIFGSM(target=2),
    "apgd_ce": APGD(20, target=2),
    "apgd_margin": APGD(20, "margin", target=2, restarts=2),
    "apgd_dlr": APGD(20, "dlr", target=2),
    "square": Square(300, target=2),
}
WHOLE: dict[str, Any] = {
    "autoattack": AutoAttack(steps=10, queries=50, target=2),
    "autoattack_rand": AutoAttack("rand", steps=10, target=2),
}
NEAREST: dict[str, Any] = {
    "fab": FAB(target=2),
    "deepfool": DeepFool(target=2),
    "fmn": FMN(alpha=0.2, target=2),
    "carlini_wagner": CarliniWagner(steps=150, search=6, constant=0.1, target=2),
}
NO_WAY = ("square", "l2")  # its bumps have two halves of opposite sign: they cannot raise a sum
EACH = [
    *((name, attack, norm) for name, attack in BALL.items() for norm in ("linf", "l2") if (name, norm) != NO_WAY),
    *((name, attack, norm) for name, attack in NEAREST.items() for norm in WAYS if name != "carlini_wagner"),
    ("carlini_wagner", NEAREST["carlini_wagner"], "l2"),
    *((name, attack, "linf") for name, attack in WHOLE.items()),
]
EACH_NEAREST = [case for case in EACH if case[0] in NEAREST]


def predictions(model: torch.nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(dim=1)


@for_every(EACH, [False, True])
def test_another_class_on_the_way_is_not_the_end(name: str, attack: Any, norm: Norm, copied: bool) -> None:
    model = fast(NET) if copied else NET
    found = attack(model, X, Y, Threat(norm, 1.12 * WAYS[norm]), generator=seeded(1))
    assert predictions(NET, found).tolist() == [2, 2]


@for_every(EACH_NEAREST)
def test_the_nearest_image_of_the_target_class(name: str, attack: Any, norm: Norm) -> None:
    found = attack.closest(NET, X, Y, Threat(norm, 0.1))
    assert predictions(NET, found).tolist() == [2, 2]
    assert (1 - 1e-5) * WAYS[norm] <= distance(found, X, norm).max() <= 1.05 * WAYS[norm]


@for_every(EACH)
def test_an_image_of_the_target_class_is_driven_away(name: str, attack: Any, norm: Norm) -> None:
    x, y = torch.full((1, 1, 2, 2), 0.45), torch.full((1,), 2)  # s = 1.8; class 2 ends at 1.5, 0.075 away in linf
    found = attack(NET, x, y, Threat(norm, 0.9 * WAYS[norm]), generator=seeded(1))
    assert predictions(NET, found).tolist() != [2]


@for_every(EACH)
def test_an_image_that_is_taken_for_a_third_class_goes_on_to_the_target(name: str, attack: Any, norm: Norm) -> None:
    x = torch.full((1, 1, 2, 2), 0.32)  # s = 1.28: class 1, where 0 would be right
    found = attack(NET, x, Y[:1], Threat(norm, WAYS[norm]), generator=seeded(1))
    assert predictions(NET, found).tolist() == [2]


@for_every(EACH_NEAREST)
def test_an_image_that_is_taken_for_its_target_already_stays(name: str, attack: Any, norm: Norm) -> None:
    x = torch.full((1, 1, 2, 2), 0.45)
    assert torch.equal(attack.closest(NET, x, Y[:1], Threat(norm, 0.1)), x)
    assert torch.equal(attack(NET, x, Y[:1], Threat(norm, 0.1)), x)


@for_every([*BALL, *NEAREST])
def test_what_a_network_is_made_to_say(name: str) -> None:
    """On a network with convolutions, at an eps that suffices for most: the target, and no matter in what batch."""
    model, (x, _) = small_net(), images(24)
    x, model = x.double(), model.double()
    y = predictions(model, x)
    attack, threat = {**BALL, **NEAREST}[name], Threat("l2", 1.5)
    found = attack(model, x, y, threat, generator=seeded(1))
    others = y != 2
    assert 5 < int(others.sum()) < 24
    assert (predictions(model, found) == 2)[others].float().mean() >= 0.8
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1], threat, generator=seeded(1)) for i in range(4)])
    torch.testing.assert_close(alone, found[:4], rtol=0, atol=1e-6)


def test_a_target_is_as_often_reached_as_by_foolbox() -> None:
    foolbox = pytest.importorskip("foolbox")
    model, (x, _) = small_net(), images(64)
    y = predictions(model, x)
    x, y = x[y != 2], y[y != 2]
    peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    wanted = foolbox.criteria.TargetedMisclassification(torch.full_like(y, 2))
    for eps in (0.01, 0.02, 0.04):
        theirs = foolbox.attacks.LinfPGD(steps=40)(peer, x, wanted, epsilons=eps)[2].float().mean()
        for attack in (APGD(40, "margin", target=2), FAB(target=2), PGD(40, target=2, early_stop=True)):
            ours = predictions(model, attack(model, x, y, Threat("linf", eps), generator=seeded(2))) == 2
            assert ours.float().mean() >= theirs - 0.02


def test_evaluate_tells_what_the_model_was_made_to_say() -> None:
    """Through the fast copy too: most images end as the target, and the records say so."""
    model = small_net()
    pixels = torch.randint(256, (60, 3, 8, 8), generator=seeded(5), dtype=torch.uint8)
    y = predictions(model, pixels / 255)
    split = Dataset.from_tensors(pixels, y, classes=("a", "b", "c", "d"))
    for attack in (PGD(20, target=2), APGD(20, "margin", target=2), Square(200, target=2), FAB(target=2)):
        found = evaluate(model, split, {"it": attack}, [Threat("linf", 0.06)], options=EvaluationOptions(checks=False))
        outcome = found.per_image[found[1]]
        fell = (outcome.predicted == 2) & (y != 2)
        assert int(fell.sum()) > 0.5 * int((y != 2).sum())


@for_every([APGD, FAB, Square, DeepFool], ["likeliest", -1, 4])
def test_a_target_that_does_not_exist_is_refused_in_one_line(make: Any, target: Any) -> None:
    with pytest.raises(InputError, match="target") as caught:
        make(target=target)(NET, X, Y, Threat("linf", 0.1))
    assert "\n" not in str(caught.value)


def test_the_rules_and_a_class_per_image() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0, 2.0], [3.0, 1.0, 0.0, 2.0]])
    y, x = torch.tensor([0, 1]), torch.rand(2, 1, 2, 2)
    assert choose_targets(logits, x, y, "least_likely", None).tolist() == [2, 2]
    assert choose_targets(logits, x, y, "second", None).tolist() == [3, 0]
    assert choose_targets(logits, x, y, 3, None).tolist() == [3, 3]
    assert choose_targets(logits, x, y, torch.tensor([2, 0]), None).tolist() == [2, 0]
    for wrong in (torch.tensor([2]), torch.tensor([2, 4]), torch.tensor([-1, 0])):
        with pytest.raises(InputError, match=r"target holds [12] classes for 2 images"):
            choose_targets(logits, x, y, wrong, None)
    with pytest.raises(InputError, match="unknown"):
        PGD(target=torch.tensor([0.5]))


@for_every(["bim", "pgd", "mifgsm", "apgd_margin", "fab", "square", "autoattack"])
def test_each_image_can_have_a_target_of_its_own(name: str) -> None:
    x, attack = torch.full((2, 1, 2, 2), 0.25), {**BALL, **NEAREST, **WHOLE}[name]
    attack = replace(attack, loss="margin") if name in ("bim", "pgd", "mifgsm") else attack
    own = replace(attack, target=torch.tensor([1, 2]))
    found = own(NET, x, Y, Threat("linf", 1.12 * WAYS["linf"]), generator=seeded(1))
    assert predictions(NET, found)[1] == 2
    nearer = replace(attack, target=torch.tensor([1, 1]))(NET, x, Y, Threat("linf", 0.06), generator=seeded(1))
    assert predictions(NET, nearer).tolist() == [1, 1]


def torchattacks_fgsm(model: torch.nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Targeted FGSM and BIM of torchattacks: the step descends the cross-entropy of the target."""
    peer = pytest.importorskip("torchattacks").BIM(model, eps=0.03, alpha=0.01, steps=5)
    peer.set_mode_targeted_by_label(quiet=True)
    return peer(x, target)


def test_a_class_per_image_is_attacked_as_by_torchattacks() -> None:
    model, (x, y) = small_net(), images(16)
    target = (y + 1) % 4
    ours = BIM(steps=5, step=1 / 3, target=target)(model, x, y, Threat("linf", 0.03))
    theirs = torchattacks_fgsm(model, x, target)
    assert (ours - theirs).abs().le(1e-5).float().mean() > 0.999


def digits_like(count: int = 40) -> tuple[torch.nn.Module, Dataset]:
    model = small_net()
    pixels = torch.randint(256, (count, 3, 8, 8), generator=seeded(5), dtype=torch.uint8)
    return model, Dataset.from_tensors(pixels, predictions(model, pixels / 255), classes=("a", "b", "c", "d"))


@for_every([2, "least_likely", "second", "random"], ["fast", "exact"])
def test_targeted_autoattack_succeeds_where_the_target_is_predicted(target: Any, precision: Any) -> None:
    """Never less often than its members alone; rows and records say the target of each image, and whether it is met."""
    model, data = digits_like()
    attack = AutoAttack(steps=5, queries=20, target=target)
    options = EvaluationOptions(checks=False, precision=precision, keep_images=True)
    found = evaluate(model, data, {"it": attack}, [Threat("linf", 0.06), Threat("linf", 0.12)], options=options)
    for row in found[1:]:
        result = found.per_image[row]
        assert result.target is not None
        tried, reached = result.target >= 0, result.reached
        assert result.images is not None
        assert torch.equal(predictions(model, result.images), result.predicted)
        assert torch.equal(reached, tried & (result.predicted == result.target))
        assert (row.target, row.tried, row.reached) == (str(target), int(tried.sum()), int(reached.sum()))
        if isinstance(target, int):
            assert torch.equal(tried, data.labels != target)
            assert bool((result.target[tried] == target).all())
        else:
            assert bool(tried.all())
            assert not bool((result.target == data.labels).any())
        if target == "least_likely":
            assert torch.equal(result.target, model(data.images / 255).argmin(1))
    assert found[1].reached <= found[2].reached
    assert found[2].reached > 0 or target == "least_likely"  # which is too far on this network
    single = evaluate(model, data, {"it": PGD(10, target=target)}, [Threat("linf", 0.12)], options=options)
    assert found[2].reached >= single[1].reached
    assert f"taken for target {target}" in str(found)


def test_random_targets_are_the_same_for_all_members() -> None:
    """Else an ensemble could pick the easiest of several classes."""
    model, data = digits_like()
    options = EvaluationOptions(checks=False)
    attacks = {"ensemble": AutoAttack(steps=4, queries=10, target="random"), "pgd": PGD(target="random")}
    found = evaluate(model, data, attacks, [Threat("linf", 0.03)], options=options)
    one, other = (found.per_image[row].target for row in found[1:])
    assert torch.equal(one, other)
    assert len(one.unique()) == 4


def test_targets_are_saved_loaded_and_recorded(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    model, data = digits_like()
    options = EvaluationOptions(checks=False)
    found = evaluate(model, data, {"a": PGD(target=2), "b": PGD()}, [Threat("linf", 0.04)], options=options)
    loaded = Evaluation.load(found.save(tmp_path / "run"))
    assert loaded.rows == found.rows
    for row in found:
        one, other = found.per_image[row].target, loaded.per_image[row].target
        assert (one is None) == (other is None) == (row.attack != "a")
        assert one is None or torch.equal(one, other)
    table = pq.read_table(write_records(found, tmp_path / "records.parquet")).to_pydict()
    rows = [i for i, attack in enumerate(table["attack"]) if attack == "a"]
    aims = found.per_image[found[1]].target.tolist()
    assert [table["target"][i] for i in rows] == [each if each >= 0 else None for each in aims]
    assert sum(bool(table["reached"][i]) for i in rows) == found[1].reached
    assert {table["target"][i] for i in range(len(table["attack"])) if i not in rows} == {None}
    text = (tmp_path / "run" / "results.json").read_text()
    assert text.count('"target"') == 1


def test_transfer_tells_how_often_the_target_is_taken_over() -> None:
    model, data = digits_like()
    for attack in (MIFGSM(target=2), AutoAttack(steps=5, queries=20, target=2), FAB(target=2)):
        matrix = transfer({"one": model, "two": small_net(seed=1)}, data, attack, [Threat("linf", 0.08)])
        own, other = [row for row in matrix if row.attack != "none"][:2]
        assert (own.target, own.tried) == ("2", int((data.labels != 2).sum()))
        assert own.reached > 0.5 * own.tried
        clean = matrix.per_image[matrix[1]].right
        assert other.tried == int((clean & (data.labels != 2)).sum())


def test_a_target_per_image_is_for_direct_calls() -> None:
    model, data = digits_like(4)
    with pytest.raises(InputError, match="for calls of the attack itself"):
        evaluate(model, data, {"it": PGD(target=torch.tensor([0, 1, 2, 3]))})


def test_one_target_or_several() -> None:
    with pytest.raises(InputError, match="leave out targets=9, or the target"):
        APGD(targets=9, target=2)


def test_wrong_classes_are_ordered_and_leave_out_the_true_one() -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0, 2.0], [3.0, 1.0, 0.0, 2.0]])
    assert wrong_classes(logits, torch.tensor([0, 3])).tolist() == [[3, 1, 2], [0, 1, 2]]
