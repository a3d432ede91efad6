"""The per-image engine: clean, attacked, replayed; what it refuses and what it leaves behind."""

import copy

import pytest
import torch
from attack_samples import seeded, small_net
from digits_samples import every_digit
from evaluation_samples import NotANumber, TooFar
from torch import nn

import inoculate.models.acceleration.fast as fast_module
from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.bim import BIM
from inoculate.attacks.craft import craft
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.one_step_target import OneStepTarget
from inoculate.attacks.pgd import PGD
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat, distance
from inoculate.data.dataset import Dataset
from inoculate.evaluation.engine import Settings, measure_attack, measure_clean, measure_examples, measure_transfer
from inoculate.models.classifier import prepare

THREATS = [Threat("linf", eps) for eps in (0.02, 0.1, 0.05)]


def attacked(model, data, attack, threats=THREATS, precision="fast", **settings):
    classifier = prepare(model, data, precision=precision)
    clean = measure_clean(classifier, data)
    return clean, measure_attack(classifier, data, attack, threats, clean.right, Settings(**settings))


@pytest.mark.smoke
def test_per_image_results_are_those_of_the_model_on_the_images_kept(digits):
    model, data = digits
    for attack in (PGD(steps=3), AutoAttack(steps=4, targets=2, queries=10)):
        clean, results = attacked(model, data, attack, keep_images=True)
        for threat, result in zip(THREATS, results, strict=True):
            assert result.eps == threat.eps
            logits = model(result.images)
            wrong = clean.right & ~result.right
            assert torch.equal((logits.argmax(1) == data.labels)[clean.right], result.right[clean.right]), attack
            assert torch.equal(logits.argmax(1)[clean.right], result.predicted[clean.right])
            true = logits.gather(1, data.labels[:, None]).squeeze(1)
            best = logits.scatter(1, data.labels[:, None], -torch.inf).amax(1)
            torch.testing.assert_close(result.margin[clean.right], (best - true)[clean.right], rtol=1e-4, atol=1e-4)
            moved = distance(result.images, data.images / 255, "linf")
            torch.testing.assert_close(result.distance, moved, rtol=1e-4, atol=1e-6)
            assert result.distance[~clean.right].max() == 0  # clean errors are not attacked
            assert not (result.right & ~clean.right).any()
            assert bool(result.finished.all())
            assert int(wrong.sum()) > 3 or threat.eps == 0.02


def test_an_ensemble_names_the_member_that_broke_an_image_and_never_mends_it(digits):
    ensemble = AutoAttack(steps=4, targets=2, queries=10)
    clean, results = attacked(*digits, ensemble)
    assert results[0].names == tuple(ensemble.members(10))
    for result in results:
        assert torch.equal(result.broken_by >= 0, clean.right & ~result.right)
    small, large, middle = results
    assert not (large.right & ~middle.right).any()
    assert not (middle.right & ~small.right).any()
    broken = small.broken_by >= 0
    assert torch.equal(large.predicted[broken], small.predicted[broken])


def test_an_attack_that_leaves_the_threat_model_is_refused(digits):
    model, data = digits
    flags = [(p.requires_grad, p.grad) for p in model.parameters()], [m.training for m in model.modules()]
    for attack in (TooFar(), NotANumber()):
        with pytest.raises(InputError, match="outside the threat model") as caught:
            attacked(model, data, attack)
        assert "\n" not in str(caught.value)
    assert ([(p.requires_grad, p.grad) for p in model.parameters()], [m.training for m in model.modules()]) == flags


def test_the_batch_size_does_not_change_one_step_attacks(digits):
    for attack in (FGSM(), OneStepTarget()):
        for precision in ("fast", "exact"):
            counts = [
                [int(result.right.sum()) for result in attacked(*digits, attack, precision=precision, batch_size=b)[1]]
                for b in (7, 64, 1000)
            ]
            for other in counts[1:]:
                assert other == pytest.approx(counts[0], abs=1), (attack, precision)


def test_fast_and_exact_crafting_agree(digits, monkeypatch):
    """On all the digits: on a third of them half a point is less than three images, and ties decide."""
    model, data = digits[0], every_digit()
    exact = [attacked(model, data, attack, precision="exact")[1] for attack in (FGSM(), BIM(steps=5))]
    for bf16 in (False, True):
        monkeypatch.setattr(fast_module, "prefers_bf16", lambda _device, bf16=bf16: bf16)
        for attack, expected in zip((FGSM(), BIM(steps=5)), exact, strict=True):
            for result, other in zip(attacked(model, data, attack)[1], expected, strict=True):
                difference = abs(float(result.right.float().mean()) - float(other.right.float().mean()))
                assert difference <= 0.005, (bf16, attack, result.eps)


def test_a_fast_copy_and_a_model_in_double_precision_are_measured_as_the_model(digits):
    model, data = digits
    counts = [
        [int(result.right.sum()) for result in attacked(each, data, PGD())[1]]
        for each in (model, fast_module.fast(model))
    ]
    assert counts[0] == counts[1]
    assert torch.equal(
        attacked(copy.deepcopy(model).double(), data, PGD())[0].right, attacked(model, data, PGD())[0].right
    )


def test_stored_examples_are_measured_like_fresh_ones(digits):
    """On the model that they were crafted on, the stored FGSM examples are the white-box ones."""
    model, data = digits
    clean, fresh = attacked(model, data, FGSM(), precision="exact")
    stored = craft(FGSM(), model, data, Threat())
    classifier = prepare(model, data)
    results = measure_examples(classifier, data, stored, [t.eps for t in THREATS], clean.right, Settings(batch_size=70))
    for result, expected in zip(results, fresh, strict=True):
        assert result.eps == expected.eps
        assert int((result.right != expected.right).sum()) <= 1
        assert not (result.right & ~clean.right).any()


def test_transfer_measures_models_of_another_layout_and_precision():
    pixels = torch.randint(256, (60, 3, 8, 8), generator=seeded(5), dtype=torch.uint8)
    model, flattening = small_net(), nn.Sequential(_View(), nn.Linear(192, 4)).double()
    data = Dataset.from_tensors(pixels, model(pixels / 255).argmax(1), classes=("a", "b", "c", "d"))
    source, targets = prepare(model, data), [prepare(model, data), prepare(flattening, data)]
    assert targets[0].layout is torch.channels_last
    assert targets[1].layout is torch.contiguous_format
    own, other = measure_transfer(source, targets, data, FGSM(), THREATS)
    assert [result.eps for result in own] == [result.eps for result in other] == [0.02, 0.1, 0.05]
    assert own[1].right.sum() < own[0].right.sum()


class _View(nn.Module):
    """Flattens images in a way that their channels-last layout does not allow."""

    def forward(self, x):
        return x.view(len(x), -1)


def test_a_model_that_gives_nan_is_wrong(digits):
    class Broken(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 10), torch.nan)

    assert measure_clean(prepare(Broken(), digits[1]), digits[1]).right.sum() == 0


def test_callers_without_gradients_get_the_same(digits):
    expected = [result.right for result in attacked(*digits, FGSM())[1]]
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            for result, right in zip(attacked(*digits, FGSM())[1], expected, strict=True):
                assert torch.equal(result.right, right)
                assert not result.margin.is_inference()
