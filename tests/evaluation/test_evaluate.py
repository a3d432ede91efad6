"""The jobs `evaluate` and `minimal_eps`: rows, arguments of every form, warnings, seeds and errors."""

import pytest
import torch
import torch.nn.functional as F
from evaluation_samples import Brightness, Helpful, correct, measured
from torch import nn

from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.bim import BIM
from inoculate.attacks.carlini_wagner import CarliniWagner
from inoculate.attacks.fab import FAB
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.pgd import PGD
from inoculate.core.errors import InputError
from inoculate.core.pixels import to_float
from inoculate.core.stats import wilson
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.minimal_eps import minimal_eps
from inoculate.models.loading.checkpoints import ModelSpec, save_model

FIELDS = ["dataset", "model", "arm", "attack", "norm", "eps", "protocol"]
FIELDS += ["accuracy", "correct", "n", "ci_low", "ci_high", "seed", "seconds"]
THREATS = [Threat("linf", eps) for eps in (0.02, 0.1, 0.05)]


@pytest.mark.smoke
def test_rows_hold_every_field(digits):
    attacks = {"fgsm": FGSM(), "bim": BIM(steps=2)}
    found = measured(*digits, attacks, [*THREATS, Threat("l2", 0.5)], seed=4, name="cnn", arm="augmented")
    assert [list(row.as_dict()) for row in found] == [FIELDS] * 9 + [[*FIELDS, "threats"]] * 2
    assert [(row.attack, row.norm, row.eps) for row in found] == [
        ("none", "linf", 0.0),
        *[(a, n, e) for a in attacks for n, e in [("linf", 0.02), ("linf", 0.1), ("linf", 0.05), ("l2", 0.5)]],
        *[(a, "union", 1.0) for a in attacks],
    ]
    for row in found:
        labels = (row.dataset, row.model, row.arm, row.protocol, row.seed)
        assert labels == ("digits", "cnn", "augmented", "white-box", 4)
        assert row.n == 200
        assert isinstance(row.correct, int)
        assert row.accuracy == row.correct / row.n
        assert (row.ci_low, row.ci_high) == wilson(row.correct, row.n)
        assert row.seconds >= 0
        result = found.per_image[row]
        assert result.right.dtype is torch.bool
        assert int(result.right.sum()) == row.correct
        assert not (result.right & ~found.per_image[found[0]].right).any()
    assert len(found.per_image) == len(found) == 11


def test_accuracies_equal_a_count_by_hand(digits):
    model, data = digits
    x, y = to_float(data.images).requires_grad_(), data.labels
    logits = model(x)
    right = logits.argmax(1) == y
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)
    got = correct(measured(model, data, ["fgsm"], THREATS, precision="exact"))
    assert got["none", 0.0] == right.sum().item() > 190  # the net is trained
    for threat in THREATS:
        x_adv = (x + threat.eps * gradient.sign()).clamp(0, 1)
        assert abs(got["fgsm", threat.eps] - ((model(x_adv).argmax(1) == y) & right).sum().item()) <= 1
    assert got["fgsm", 0.1] < got["fgsm", 0.05] < got["fgsm", 0.02] <= got["none", 0.0]
    assert got["fgsm", 0.1] < 160


def test_every_image_counts_and_a_clean_error_is_an_error_under_attack():
    """Brightness 0.2, 0.4, 0.6, 0.8 with labels 0, 1, 1, 0: the second and the last are wrong from the start."""
    shots = torch.tensor([51, 102, 153, 204], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 2, 2).contiguous()
    data = Dataset.from_tensors(shots, torch.tensor([0, 1, 1, 0]))
    attacks = {"helpful": Helpful(), "fgsm": FGSM(loss="margin")}
    found = measured(Brightness(), data, attacks, [Threat("linf", 0.15)], precision="exact")
    assert [(row.attack, row.correct, row.n) for row in found] == [("none", 2, 4), ("helpful", 2, 4), ("fgsm", 1, 4)]
    assert [found.per_image[row].right.tolist() for row in found] == [
        [True, False, True, False],
        [True, False, True, False],
        [True, False, False, False],  # 0.6 − 0.15 is dark, 0.2 + 0.15 still is
    ]
    assert found.per_image[found[2]].broken_by.tolist() == [-1, -1, 0, -1]
    assert found.per_image[found[2]].names == ("fgsm",)


def test_model_data_and_attacks_may_be_given_in_any_form(digits, tmp_path):
    model, data = digits
    expected = correct(measured(model, data, ["fgsm", "pgd"], THREATS[:1]))
    tensors = to_float(data.images), data.labels
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*tensors), batch_size=50)
    for given in (tensors, loader):
        assert correct(measured(model, given, [FGSM(), "pgd"], THREATS[:1])) == expected
    assert correct(measured(lambda x: model(x), data, {"fgsm": "fgsm", "pgd": PGD()}, THREATS[:1])) == expected
    spec = ModelSpec("small_cnn", data.classes, 1, 16)
    save_model(tmp_path, spec.build(), spec)
    found = measured(str(tmp_path), "digits", ["fgsm"], [Threat()])
    assert {row.model for row in found} == {str(tmp_path)}
    assert ["one answer for all 359 clean images" in warning for warning in found.warnings] == [True], "it is untrained"
    for attacks, message in (
        ("fgsm", r"\['fgsm'\]"),
        ([PGD(steps=2), PGD(steps=3)], "two attacks are called pgd"),
        (["pgdd"], "did you mean 'pgd'"),
        ([PGD], "not an attack"),
        ([3], "not an attack"),
    ):
        with pytest.raises(InputError, match=message):
            measured(model, data, attacks, THREATS)
    with pytest.raises(InputError, match="Module"):
        measured(3, data, ["fgsm"], THREATS)


def test_what_looks_wrong_is_among_the_warnings(digits):
    model, data = digits
    assert measured(model, data, ["fgsm"], THREATS[:1]).warnings == []
    found = measured(nn.Sequential(model, nn.Softmax(dim=1)), data, ["fgsm"], [Threat("l2", 8.0)])
    assert any("probabilities" in message for message in found.warnings)
    assert any("8/255 meant" in message for message in found.warnings)
    random = measured(
        "small_cnn", data, ["fgsm"], THREATS[:1], surrogates={"soft": nn.Sequential(model, nn.Softmax(1))}
    )
    assert any("random weights" in message for message in random.warnings)
    assert any(message.startswith("surrogate soft: the outputs are probabilities") for message in random.warnings)


def test_checks_are_made_at_the_largest_eps(digits):
    model, data = digits
    told = []
    options = EvaluationOptions(surrogates={"itself": model})
    found = evaluate(model, data, ["fgsm"], THREATS, options=options, progress=lambda *each: told.append(each))
    assert found.checked == Threat("linf", 0.1)
    assert all(check.passed for check in found.checks)
    assert {check.name for check in found.checks} >= {"eps = 0", "gradient-free", "transfer from itself"}
    done = [each[1] for each in told if each[0] == "checks"]
    total = told[-1][2]
    assert done == sorted(done)
    assert (done[0], told[-1]) == (0, ("checks", total, total))
    assert len(set(done)) > 10  # of passes
    assert measured(model, data, ["fgsm"], THREATS).checks == []


def test_the_same_seed_gives_the_same_rows_and_nothing_global_changes(digits):
    model, data = digits
    before, modes = torch.get_rng_state(), [m.training for m in model.modules()]
    state, grads = {n: t.clone() for n, t in model.state_dict().items()}, [p.grad for p in model.parameters()]
    runs = [measured(model, data, [PGD(steps=1)], THREATS, seed=seed) for seed in (1, 1, 2)]
    first, again, other = ([result.right.tolist() for result in found.per_image.values()] for found in runs)
    assert first == again
    assert first != other
    assert torch.equal(torch.get_rng_state(), before)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    assert [p.grad for p in model.parameters()] == grads


def test_what_does_not_fit_is_refused_in_one_line(digits):
    data, linear = digits[1], nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    for model, threats in (
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 9)), THREATS),
        (nn.Sequential(nn.Conv2d(3, 4, 3)), THREATS),
        (nn.Conv2d(1, 10, 3), THREATS),
        (linear, [Threat("linf", 0.1, low=0.4, high=0.6)]),
        (linear, ["linf"]),
        (linear, Threat()),
    ):
        with pytest.raises(InputError) as caught:
            measured(model, data, ["fgsm"], threats)
        assert "\n" not in str(caught.value)
    for options in ({"precision": "half"}, {"time_budget": "soon"}, {"checks": 1}):
        with pytest.raises(InputError):
            EvaluationOptions(**options)
    with pytest.raises(InputError, match="batch_size 0"):
        measured(linear, data, ["fgsm"], THREATS, batch_size=0)


def test_whatever_a_models_code_raises_is_one_line(digits):
    for error in (IndexError("no such channel"), AttributeError("no such name"), KeyError("logits")):

        class Failing(nn.Module):
            def forward(self, x, error=error):
                raise error

        with pytest.raises(InputError, match="does not take 1×8×8 images"):
            measured(Failing(), digits[1], ["fgsm"], THREATS)


def as_they_are(model, x, y, threat, *, generator=None):
    return x


@pytest.mark.parametrize(
    ("attack", "says"),
    [
        (lambda model, x, y, threat, *, generator=None: x[:1], r"returned a tensor of shape \(1, 1, 8, 8\) for images"),
        (lambda model, x, y, threat, *, generator=None: None, "returned NoneType"),
        (lambda model, x, y, threat, *, generator=None: x.numpy(), "returned ndarray"),
        (lambda model, x, y, threat: x, "unexpected keyword argument 'generator'"),
    ],
)
def test_an_attack_of_another_form_is_refused_in_one_line(digits, attack, says):
    with pytest.raises(InputError, match=says) as caught:
        measured(digits[0], digits[1], {"mine": attack}, THREATS)
    assert "\n" not in str(caught.value)


def test_a_function_is_an_attack_under_its_own_name(digits):
    assert [row.attack for row in measured(digits[0], digits[1], [as_they_are], THREATS[:1])] == ["none", "as_they_are"]


def test_progress_counts_the_images_attacked(digits):
    seen = []
    found = measured(*digits, ["fgsm"], THREATS, batch_size=150, progress=lambda *each: seen.append(each))
    right = found[0].correct
    assert seen == [("clean", 150, 200), ("clean", 200, 200), ("fgsm", 150, right), ("fgsm", right, right)]


def test_threats_that_differ_in_range_alone_are_all_measured(digits):
    threats = [Threat("linf", 0.1), Threat("linf", 0.1, low=-0.5, high=1.5)]
    both = [row.correct for row in measured(*digits, ["fgsm"], threats).rows[1:]]
    assert both == [measured(*digits, ["fgsm"], [threat])[1].correct for threat in threats]
    assert both[1] < both[0]  # beyond black and white there is more to attack with


def test_the_seed_decides_the_numbers_of_a_random_model(digits):
    model, data = digits

    class Dropping(nn.Module):
        def forward(self, x):
            return model(F.dropout(x, 0.5))

    part, found = data.subset(range(100)), []
    with torch.random.fork_rng(devices=[]):
        for start in (1, 2):
            torch.manual_seed(start)
            before = torch.get_rng_state()
            found.append(correct(measured(Dropping(), part, [PGD(steps=3)], THREATS)))
            assert torch.equal(before, torch.get_rng_state())
    assert found[0] == found[1]
    assert len(set(found[0].values())) > 1


def test_an_attack_that_does_not_fit_is_refused_before_another_has_worked(digits):
    told = []
    with pytest.raises(InputError, match="made for l2"):
        measured(*digits, ["pgd", CarliniWagner()], [Threat("l1", 2.0)], progress=lambda what, *_: told.append(what))
    assert set(told) == {"clean"}


def test_an_ensembles_accuracy_falls_with_eps_and_below_each_attack(digits):
    attacks = {"pgd": PGD(), "autoattack": AutoAttack(steps=8, targets=2, queries=20)}
    found = correct(measured(*digits, attacks, THREATS))
    assert found["autoattack", 0.1] <= found["autoattack", 0.05] <= found["autoattack", 0.02] <= found["none", 0.0]
    assert all(found["autoattack", eps] <= found["pgd", eps] for eps in (0.02, 0.05, 0.1))


def test_minimal_eps_is_the_whole_curve(digits):
    model, data = digits
    attack = FAB(steps=20, targets=3)
    least = minimal_eps(model, data, attack)
    found = measured(model, data, {"fab": attack}, [Threat("linf", eps) for eps in (0.03, 0.08)])
    right = found.per_image[found[0]].right
    assert bool((least[~right] == 0).all())
    assert bool((least[right] > 0).all())
    for row in found.rows[1:]:
        assert row.correct == pytest.approx((least > row.eps).sum().item(), abs=3)
    assert bool((minimal_eps(model, data, attack, Threat(eps=0.02))[least > 0.021] == torch.inf).all())
    with pytest.raises(InputError, match="does not look for the nearest"):
        minimal_eps(model, data, PGD())
