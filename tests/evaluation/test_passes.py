"""What checks and explanations may cost: passes are counted and bounded, batches fit into memory, progress is told."""

from __future__ import annotations

from math import inf

import pytest
import torch
from evaluation_samples import Misleading
from torch import Tensor, nn

import inoculate.evaluation.passes as passes_of
import inoculate.models.pass_cost as costs
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.pgd import PGD
from inoculate.attribution.explain import ExplainOptions, explain
from inoculate.attribution.explanation import Amounts
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.evaluation.checks import run_checks
from inoculate.evaluation.engine import Settings, measure_attack, measure_clean
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.panel import SHORT
from inoculate.evaluation.passes import GRADIENT, allowed_passes, cost_of, counted
from inoculate.evaluation.sample import Known, affordable, per_image
from inoculate.models.classifier import prepare
from inoculate.models.pass_cost import PassCost, pass_cost

THREAT = Threat("linf", 0.1)
TWO = {"fgsm": FGSM(), "pgd20": PGD(steps=20)}


class Counting(nn.Module):
    """Another model, whose passes are added up in the units of `counted`, those of its copies too."""

    made = 0
    largest = 0

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        Counting.made += len(x) * (GRADIENT if torch.is_grad_enabled() and x.requires_grad else 1)
        Counting.largest = max(Counting.largest, len(x))
        logits: Tensor = self.inner(x)
        return logits

    @staticmethod
    def reset() -> None:
        Counting.made = Counting.largest = 0


@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_passes_are_counted_as_the_model_sees_them(digits, precision):
    model, data = Counting(digits[0]), digits[1].subset(range(30))
    classifier = prepare(model, data, precision=precision)
    Counting.reset()
    with counted(classifier) as passes:
        clean = measure_clean(classifier, data).right
        assert passes.made == 30
        measure_attack(classifier, data, PGD(steps=3), [THREAT], clean)
    assert passes.made == Counting.made > 30 + 3 * GRADIENT * int(clean.sum()) / 2
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("precision", ["fast", "exact"])
def test_checks_and_explanations_cost_no_more_than_the_attacks(digits, monkeypatch, precision):
    monkeypatch.setattr(passes_of, "FLOOR_FLOPS", 0)
    model, data = Counting(digits[0]), digits[1].subset(range(60))
    options = EvaluationOptions(checks=False, precision=precision)
    Counting.reset()
    evaluate(model, data, TWO, [THREAT], options=options)
    alone = Counting.made
    Counting.reset()
    found = evaluate(model, data, TWO, [THREAT], options=EvaluationOptions(precision=precision))
    explained = explain(model, data, "pgd", THREAT, options=ExplainOptions(evaluation=found))
    assert found.checks
    assert explained.facts["images"]
    assert 1.2 * alone < Counting.made <= 2 * alone


def test_with_little_to_spend_nothing_passes_unchecked_and_nothing_is_overspent(digits):
    model, data = Counting(digits[0]), digits[1]
    classifier = prepare(model, data, precision="exact")
    clean = measure_clean(classifier, data)
    made = []
    for most in (0, 30, 300, 3000, inf):
        Counting.reset()
        checks = run_checks(classifier, data, TWO, THREAT, known=Known(clean, passes=most))
        made.append(Counting.made)
        assert Counting.made <= most + GRADIENT  # one image's gradient is always looked at
        if most < 300:
            assert not any(check.passed for check in checks)
            assert all("too few" in check.message for check in checks if check.name != "transfer")
    assert made == sorted(made)
    assert [check.passed for check in checks] == [True] * 6 + [None]


def test_masked_gradients_are_found_with_few_passes(digits):
    model, data = Misleading(digits[0]), digits[1]
    classifier = prepare(model, data)
    known = Known(measure_clean(classifier, data), passes=6000)
    failed = {check.name for check in run_checks(classifier, data, TWO, THREAT, known=known) if check.passed is False}
    assert "a very large eps" in failed


def test_more_steps_of_the_evaluation_stand_for_those_of_the_check(digits):
    model, data = digits
    classifier = prepare(model, data)
    clean = measure_clean(classifier, data)
    none = measure_attack(classifier, data, FGSM(), [Threat("linf", 0.0)], clean.right)[0]  # as if PGD broke nothing
    known = Known(clean, [(PGD(steps=20, step=0.1), THREAT, none)])
    checks = {check.name: check for check in run_checks(classifier, data, {}, THREAT, known=known)}
    assert checks["more steps"].passed is False
    assert checks["more steps"].message.startswith("20 steps of PGD leaves")


def test_what_the_evaluation_knows_is_not_measured_again(digits):
    model, data = Counting(digits[0]), digits[1]
    classifier = prepare(model, data, precision="exact")
    clean = measure_clean(classifier, data)
    (fgsm,), (pgd,) = (measure_attack(classifier, data, each, [THREAT], clean.right) for each in (FGSM(), SHORT))
    results = []
    for known in ([], [(FGSM(), THREAT, fgsm), (PGD(steps=10), THREAT, pgd), (PGD(steps=10), Threat(), pgd)]):
        Counting.reset()
        results.append((run_checks(classifier, data, {}, THREAT, known=Known(clean, known)), Counting.made))
    (anew, costly), (taken_over, cheap) = results
    assert anew == taken_over
    assert costly - cheap >= 50 * (GRADIENT + 1 + 10 * GRADIENT + 1)


def test_small_batches_keep_the_memory_bounded_and_the_results(digits, monkeypatch):
    """Seven images at once, whatever is asked for: in the attacks, the checks, the path integrals and the searches."""
    model, data = Counting(digits[0]), digits[1].subset(range(24))
    amounts = Amounts(images=3, stability=9, fragility=9, steps=10, search=3)
    whole = explain(model, data, "pgd", THREAT, amounts=amounts)
    monkeypatch.setattr(costs, "BATCH_BYTES", 7 * costs.WITH_GRADIENTS * cost_of(prepare(digits[0], data), data).bytes)
    Counting.reset()
    parts = explain(model, data, "pgd", THREAT, amounts=amounts, options=ExplainOptions(batch_size=1000))
    assert Counting.largest <= 7
    assert [each["row"] for each in whole.facts["images"]] == [each["row"] for each in parts.facts["images"]]
    for name in ("attack", "noise"):
        assert whole.facts["stability"][name] == pytest.approx(parts.facts["stability"][name], abs=2e-3)
    assert whole.facts["fragility"]["estimate"] == pytest.approx(parts.facts["fragility"]["estimate"], rel=1e-3)
    batches = []
    monkeypatch.setattr(
        "inoculate.evaluation.evaluate.Settings", lambda size, *a, **k: batches.append(size) or Settings(size, *a, **k)
    )
    found = evaluate(model, data, TWO, [THREAT], options=EvaluationOptions(checks=False))
    assert batches == [7]
    assert [row.correct for row in found] == [
        row.correct for row in evaluate(model, data, TWO, [THREAT], batch_size=24)
    ]


def test_the_progress_of_an_explanation_counts_passes_to_the_end(digits):
    told = []
    amounts = Amounts(images=2, stability=8, fragility=8, steps=4, search=5)
    explain(*digits, "pgd", THREAT, amounts=amounts, progress=lambda *each: told.append(each))
    total = told[-1][2]
    done = [each[1] for each in told]
    assert {(what, each) for what, _, each in told} == {("explain", total)}
    assert done == sorted(done)
    assert len(set(done)) > 20
    assert done[-1] == total
    assert done[-2] > 0.8 * total  # what was planned is what was done


def test_amounts_shrink_to_the_passes_there_are():
    full = Amounts()
    assert full.within(10**6) == full
    sizes = [full.within(passes) for passes in (0, 200, 500, 1000, 3000, 9000)]
    assert sizes[0] == Amounts(images=1, stability=0, fragility=0, steps=8)
    for passes, each in zip((200, 500, 1000, 3000, 9000), sizes[1:], strict=True):
        assert each.passes() <= passes
        assert each.stability == 0 or each.stability >= 8
    assert [each.images for each in sizes] == sorted(each.images for each in sizes)


def test_the_cost_of_a_pass_is_exact_and_leaves_the_model_alone():
    conv = nn.Conv2d(3, 4, 3)
    state = torch.get_rng_state()
    found = pass_cost(nn.Sequential(nn.Dropout(), conv).train(), torch.rand(1, 3, 32, 32))
    assert found.flops == 2 * 30 * 30 * 4 * 27
    assert found.bytes >= 30 * 30 * 4 * 4
    assert not torch.equal(state, torch.zeros_like(state))

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("not like this")

    assert pass_cost(Odd(), torch.rand(1, 3, 32, 32)).flops > 0


def test_the_floor_is_some_seconds_worth():
    cpu, large = torch.device("cpu"), PassCost(8 * 10**9, 10**8)
    assert allowed_passes(5000, large, cpu) == 3750
    assert 20 < allowed_passes(0, large, cpu) < 100
    assert allowed_passes(0, PassCost(100, 100), cpu) < 10**6
    assert large.largest_batch(cpu) == 5
    assert PassCost(1, 2**40).largest_batch(cpu) == 1


def test_how_many_images_passes_are_enough_for():
    assert [affordable(per_image(3), 10, passes) for passes in (0, 2, 3, 8, 100)] == [0, 0, 1, 2, 10]


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True, "8"])
def test_a_batch_size_that_is_none_is_refused(digits, batch_size):
    with pytest.raises(InputError, match="batch_size"):
        evaluate(*digits, ["fgsm"], [THREAT], batch_size=batch_size)
    with pytest.raises(InputError, match="batch_size"):
        ExplainOptions(batch_size=batch_size)


def test_a_model_that_takes_no_hooks_is_checked_within_bounds(digits):
    scripted = torch.jit.trace(digits[0], torch.zeros(2, 1, 8, 8))
    classifier = prepare(scripted, digits[1])
    clean = measure_clean(classifier, digits[1])
    few = run_checks(classifier, digits[1], {"fgsm": FGSM()}, THREAT, known=Known(clean, passes=40))
    assert not any(check.passed for check in few)
