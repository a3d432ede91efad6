from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from digits_samples import every_digit, trained_digits
from torch import Tensor, nn

import inoculate.models.acceleration.fast as fast_module
from inoculate.attacks.bim import BIM
from inoculate.attacks.craft import craft
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.one_step_target import OneStepTarget
from inoculate.attacks.pgd import PGD
from inoculate.attacks.square import Square
from inoculate.core.errors import InputError
from inoculate.core.pixels import to_float
from inoculate.core.stats import wilson
from inoculate.core.threat import Threat, project
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import judge_clean, judge_replay
from inoculate.evaluation.evaluate import evaluate, minimal_eps
from inoculate.evaluation.per_sample import Verdict

CONTRACT = ["dataset", "model", "arm", "attack", "norm", "eps", "protocol"]
CONTRACT += ["accuracy", "correct", "n", "ci_low", "ci_high", "seed", "seconds"]
THREATS = [Threat("linf", eps) for eps in (0.02, 0.1, 0.05)]


@pytest.fixture(scope="session")
def digits() -> tuple[nn.Module, Dataset]:
    """A small CNN trained on most of the digits, and the rest of them."""
    return trained_digits()


def accuracies(model: nn.Module, split: Dataset, **options: object) -> dict[tuple[str, float], float]:
    return {(r.attack, r.eps): r.accuracy for r in evaluate(model, split, threats=THREATS, **options)}  # type: ignore[arg-type]


def test_rows_hold_the_contracts_fields(digits: tuple[nn.Module, Dataset]) -> None:
    model, split = digits
    attacks = {"fgsm": FGSM(), "bim": BIM(steps=2)}
    rows = evaluate(model, split, attacks, [*THREATS, Threat("l2", 0.5)], seed=4, name="cnn", arm="augmented")
    assert [list(row.as_dict()) for row in rows] == [CONTRACT] * 9
    assert [(r.attack, r.norm, r.eps) for r in rows] == [
        ("none", "linf", 0.0),
        *[(a, n, e) for a in attacks for n, e in [("linf", 0.02), ("linf", 0.1), ("linf", 0.05), ("l2", 0.5)]],
    ]
    for row in rows:
        assert (row.dataset, row.model, row.arm, row.protocol, row.seed) == (
            "digits", "cnn", "augmented", "white-box", 4,
        )  # fmt: skip
        assert row.n == len(split) == 597
        assert isinstance(row.correct, int)
        assert row.accuracy == row.correct / row.n
        assert (row.ci_low, row.ci_high) == wilson(row.correct, row.n)
        assert row.seconds >= 0


def test_accuracies_equal_a_count_by_hand(digits: tuple[nn.Module, Dataset]) -> None:
    model, split = digits
    x, y = to_float(split.images).requires_grad_(), split.labels
    logits = model(x)
    right = logits.argmax(1) == y
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), x)
    got = accuracies(model, split, precision="exact")
    assert got[("none", 0.0)] == right.sum().item() / 597
    for threat in THREATS:
        x_adv = (x + threat.eps * gradient.sign()).clamp(0, 1)
        still = (model(x_adv).argmax(1) == y) & right
        assert got[("fgsm", threat.eps)] == pytest.approx(still.sum().item() / 597, abs=1 / 597)
    assert got[("none", 0.0)] > 0.95  # the net is trained, and the attack bites
    assert got[("fgsm", 0.1)] < got[("fgsm", 0.05)] < got[("fgsm", 0.02)] < got[("none", 0.0)]
    assert got[("fgsm", 0.1)] < 0.8


@dataclass(frozen=True)
class _Helpful:
    """No attack at all: paints each image towards its true class (0 black, 1 white), as far as is allowed."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return project(y.view(-1, 1, 1, 1).expand_as(x).to(x.dtype), x, threat)


class _Brightness(nn.Module):
    """Class 1 if the image is brighter than ½."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1) - 0.5
        return torch.stack([-mean, mean], dim=1)


def test_every_image_counts_and_a_clean_error_is_an_error_under_attack() -> None:
    """Brightness 0.2, 0.4, 0.6, 0.8 with labels 0, 1, 1, 0: the second and the last are wrong from the start."""
    shots = torch.tensor([51, 102, 153, 204], dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 2, 2).contiguous()
    split = Dataset.from_tensors(shots, torch.tensor([0, 1, 1, 0]))
    records: dict[str, Verdict] = {}
    attacks = {"helpful": _Helpful(), "fgsm": FGSM(loss="margin")}
    rows = evaluate(_Brightness(), split, attacks, [Threat("linf", 0.15)], precision="exact", records=records)
    assert [(r.attack, r.correct, r.n) for r in rows] == [("none", 2, 4), ("helpful", 2, 4), ("fgsm", 1, 4)]
    assert [records[r.key].right.tolist() for r in rows] == [
        [True, False, True, False],
        [True, False, True, False],
        [True, False, False, False],  # 0.6 − 0.15 is dark, 0.2 + 0.15 still is
    ]


@dataclass(frozen=True)
class _Cheating:
    """Goes further than it may."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, generator: torch.Generator | None = None
    ) -> Tensor:
        return (x + 2 * threat.eps).clamp(0, 1)


def test_an_attack_that_leaves_the_ball_is_not_counted(digits: tuple[nn.Module, Dataset]) -> None:
    model, split = digits
    with pytest.raises(InputError, match="left the ball"):
        evaluate(model, split, {"cheating": _Cheating()}, THREATS)


def test_records_are_keyed_by_row_and_count_to_its_number(digits: tuple[nn.Module, Dataset]) -> None:
    model, split = digits
    records: dict[str, Verdict] = {}
    rows = evaluate(model, split, {"pgd": PGD(steps=2)}, THREATS, records=records)
    assert list(records) == [row.key for row in rows]
    assert len(records) == 4
    for row in rows:
        assert records[row.key].right.dtype is torch.bool
        assert records[row.key].right.shape == (597,)
        assert int(records[row.key].right.sum()) == row.correct
        assert not (records[row.key].right & ~records[rows[0].key].right).any()


@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_the_batch_size_does_not_change_fgsm(digits: tuple[nn.Module, Dataset], precision: str) -> None:
    model, split = digits
    attacks = {"fgsm": FGSM(), "one_step_target": OneStepTarget()}
    results = [accuracies(model, split, attacks=attacks, precision=precision, batch_size=b) for b in (7, 64, 1000)]
    for other in results[1:]:
        assert other == pytest.approx(results[0], abs=1 / 597 + 1e-9)


@pytest.mark.parametrize("bf16", [False, True])
def test_fast_and_exact_agree(digits: tuple[nn.Module, Dataset], bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On all the digits: on a third of them half a point is less than three images, and ties decide."""
    monkeypatch.setattr(fast_module, "has_native_bf16", lambda _device: bf16)
    model, _ = digits
    attacks = {"fgsm": FGSM(), "bim": BIM(steps=5)}
    quick, exact = (accuracies(model, every_digit(), attacks=attacks, precision=p) for p in ("fast", "exact"))
    assert quick[("none", 0.0)] == exact[("none", 0.0)]  # the verdict is the model's own
    assert quick == pytest.approx(exact, abs=0.005)


def test_the_same_seed_gives_the_same_rows_and_nothing_global_moves(digits: tuple[nn.Module, Dataset]) -> None:
    model, split = digits
    before, modes = torch.get_rng_state(), [m.training for m in model.modules()]
    state = {n: t.clone() for n, t in model.state_dict().items()}
    records: list[dict[str, Verdict]] = [{}, {}, {}]
    for seed, record in zip((1, 1, 2), records, strict=True):
        evaluate(model, split, {"pgd": PGD(steps=1)}, THREATS, seed=seed, records=record)
    first, again, other = ([r.right.tolist() for r in record.values()] for record in records)
    assert first == again
    assert first != other
    assert torch.equal(torch.get_rng_state(), before)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_callers_without_gradients_get_the_same(digits: tuple[nn.Module, Dataset], mode: type) -> None:
    model, split = digits
    expected = accuracies(model, split)
    with mode():
        assert accuracies(model, split) == expected


def test_replayed_examples_are_judged_like_fresh_ones(digits: tuple[nn.Module, Dataset]) -> None:
    """On the model that they were crafted on, the stored FGSM examples are the white-box ones."""
    model, split = digits
    clean = judge_clean(model, split)
    stored = craft(FGSM(), model, split, Threat())
    verdicts = judge_replay(model, split, stored, [t.eps for t in THREATS], clean.right, batch_size=100)
    fresh = accuracies(model, split, precision="exact")
    for verdict in verdicts:
        share = verdict.right.float().mean().item()
        assert share == pytest.approx(fresh[("fgsm", verdict.eps)], abs=1 / 597 + 1e-6)
        assert not (verdict.right & ~clean.right).any()


def test_a_model_that_gives_nan_is_wrong(digits: tuple[nn.Module, Dataset]) -> None:
    _, split = digits

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 10), torch.nan)

    assert judge_clean(Broken(), split).right.sum() == 0


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 9)), {}),
        (nn.Sequential(nn.Conv2d(3, 4, 3)), {}),
        (nn.Conv2d(1, 10, 3), {}),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), {"precision": "half"}),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), {"threats": [Threat("linf", 0.1, low=0.4, high=0.6)]}),
    ],
    ids=["classes", "channels", "maps", "precision", "range"],
)
def test_what_does_not_fit_is_refused_in_one_line(
    digits: tuple[nn.Module, Dataset], model: nn.Module, options: dict[str, object]
) -> None:
    with pytest.raises(InputError) as caught:
        evaluate(model, digits[1], **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_progress_is_told(digits: tuple[nn.Module, Dataset]) -> None:
    seen: list[tuple[str, int, int]] = []
    model, split = digits
    rows = evaluate(model, split, threats=THREATS, batch_size=300, progress=lambda *told: seen.append(told))
    standing = rows[0].correct
    assert seen == [("clean", 300, 597), ("clean", 597, 597), ("fgsm", 300, standing), ("fgsm", standing, standing)]


def test_threats_that_differ_in_range_alone_are_all_measured(digits: tuple[nn.Module, Dataset]) -> None:
    model, split = digits
    threats = [Threat("linf", 0.1), Threat("linf", 0.1, low=-0.5, high=1.5)]
    both = [row.correct for row in evaluate(model, split, threats=threats)[1:]]
    alone = [evaluate(model, split, threats=[threat])[1].correct for threat in threats]
    assert both == alone
    assert both[1] < both[0]  # beyond black and white there is more to attack with


def test_the_seed_decides_the_numbers_of_a_random_model(digits: tuple[nn.Module, Dataset]) -> None:
    model, split = digits

    class Dropping(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = model(F.dropout(x, 0.5))
            return logits

    part, found = split.subset(range(100)), []
    for start in (1, 2):
        torch.manual_seed(start)
        before = torch.get_rng_state()
        found.append([row.correct for row in evaluate(Dropping(), part, {"pgd": PGD(steps=3)}, THREATS)])
        assert torch.equal(before, torch.get_rng_state())
    assert found[0] == found[1]
    assert len(set(found[0])) > 1


def test_an_attack_that_does_not_fit_says_so_before_another_has_worked(digits: tuple[nn.Module, Dataset]) -> None:
    model, split = digits
    told: list[str] = []
    with pytest.raises(InputError, match="made for linf and l2"):
        evaluate(
            model, split, {"pgd": PGD(), "square": Square()}, [Threat("l1", 2.0)],
            progress=lambda what, done, total: told.append(what),
        )  # fmt: skip
    assert set(told) == {"clean"}


def test_minimal_eps_wants_an_attack_that_looks_for_the_nearest_image(digits: tuple[nn.Module, Dataset]) -> None:
    with pytest.raises(InputError, match="does not look for the nearest"):
        minimal_eps(*digits, attack=PGD())  # type: ignore[arg-type]


def test_a_copy_does_not_judge(digits: tuple[nn.Module, Dataset]) -> None:
    """Neither does a model in double precision need other images."""
    model, split = digits
    part = split.subset(range(100))
    rows = [evaluate(m, part, {"pgd": PGD()}, THREATS) for m in (model, fast_module.fast(model))]
    assert [r.correct for r in rows[0]] == [r.correct for r in rows[1]]
    double = copy.deepcopy(model).double()
    assert evaluate(double, part, {"pgd": PGD()}, THREATS)[0].correct == rows[0][0].correct


@pytest.mark.parametrize("error", [IndexError("no such channel"), AttributeError("no such name"), KeyError("logits")])
def test_whatever_a_models_code_raises_is_one_line(digits: tuple[nn.Module, Dataset], error: Exception) -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise error

    with pytest.raises(InputError, match="does not take 1×8×8 images"):
        evaluate(Failing(), digits[1])
