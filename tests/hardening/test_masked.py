"""What `harden` does with a network whose gradients are masked: an honest number, or a plain statement."""

import copy
from dataclasses import replace

import pytest
import torch
from masked_models import MASKED, THREAT, adaptive_accuracy, masked, parts
from training_samples import digit_network, fit_digits

from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.registry import ATTACKS
from inoculate.core.row import Row
from inoculate.evaluation.checks import Check
from inoculate.evaluation.per_sample import PerSampleResult
from inoculate.evaluation.result import Evaluation
from inoculate.hardening.data import HardeningData
from inoculate.hardening.harden import harden
from inoculate.hardening.masking import checks_of, masking_warnings
from inoculate.hardening.options import HardeningOptions
from inoculate.hardening.result import Hardened
from inoculate.hardening.selection import keep_better_weights
from inoculate.models.loading.checkpoints import save_weights
from inoculate.training.methods.registry import get_method
from inoculate.training.validation import validate_round

STATEMENT = "no trustworthy robust network was made"
CLOSE = 0.08  # of the accuracy under the adapted attack, on 60 images


def hardened(name, test_images, **options):
    train, test = parts()
    data = {"train": train.subset(range(1000)), "val": train.subset(range(1000, 1200)), "test": test}
    chosen = {"batch_size": 50, "method_options": {"steps": 3, "step": 0.5}, "test_images": test_images, **options}
    return harden(masked(name), data, THREAT, method="pgd_at", options=HardeningOptions(**chosen))


def row(attack, correct, n=100):
    return Row.measured(
        dataset="d", model="m", arm="a", attack=attack, norm="linf", eps=0.1, protocol="white-box", correct=correct,
        n=n, seconds=0.0, seed=0,
    )  # fmt: skip


def test_a_saturated_network_is_named_everywhere(tmp_path):
    found = hardened("huge temperature", 24, epochs=1, limit=100)
    assert {"gradients", "a very large eps"} <= {check.name for check in found.checks if check.passed is False}
    (statement,) = [warning for warning in found.warnings if STATEMENT in warning]
    assert "it failed checks before hardening too" in statement
    assert f"than the {min(each.accuracy for each in found.after):.1%} measured" in statement
    assert "**Do not trust this number**: the network fails checks below (gradients, " in found.card
    assert "| gradients | **failed** | 100% of the images have no gradient" in found.card
    assert statement in found.card
    assert statement in repr(found)
    again = Hardened.load(found.save(tmp_path / "out"), masked("huge temperature"))
    assert again.checks == found.checks


def test_an_honest_network_raises_no_alarm():
    train, test = parts()
    data = {"train": train.subset(range(300)), "val": train.subset(range(300, 400)), "test": test}
    body = masked("huge temperature").body
    found = harden(body, data, THREAT, method="fgsm_rs", options=HardeningOptions(epochs=1, test_images=40))
    assert [check.name for check in found.checks if check.passed is False] == []
    assert not found.warnings
    assert "transfer from before" in {check.name for check in found.checks}
    assert "Do not trust" not in found.card
    assert "| strongest attack | passed | PGD leaves" in found.card


def test_weights_that_mask_do_not_displace_hardened_ones(tmp_path):
    """The last layer times 10,000: PGD on cross-entropy finds nothing, and would keep it."""
    train, test = parts()
    method = get_method("pgd_at", steps=3, step=0.5).begin(THREAT)
    network, _ = fit_digits(tmp_path / "fit", method, THREAT, digit_network(), updates=100, rounds=1)
    save_weights(tmp_path / "best.safetensors", network)
    best = {**validate_round(network, test, THREAT, 100), "update": 100.0}
    given, _ = fit_digits(tmp_path / "given", get_method("standard").begin(THREAT), None, digit_network(1))
    with torch.no_grad():
        given[-1].weight *= 1e4
        given[-1].bias *= 1e4
    data = HardeningData(train, test, test, THREAT, 0)
    original = copy.deepcopy(given.state_dict())
    assert keep_better_weights(given, original, tmp_path / "best.safetensors", data, [best]) == ""
    assert torch.equal(given[-1].weight, network[-1].weight)


def test_what_is_said_depends_on_where_the_masking_comes_from():
    good, bad = Check("gradients", True, ""), Check("gradients", False, "")
    worst = row("autoattack", 39)
    assert masking_warnings([good], [good], worst) == []
    assert "passes them now" in masking_warnings([bad], [good], worst)[0]
    (trained,) = masking_warnings([good], [bad], worst)
    assert trained.startswith(f"{STATEMENT}: the delivered one fails checks (gradients)")
    assert "lower than the 39.0% measured (autoattack)" in trained
    assert "the training has masked" in trained
    assert "in its layers" in masking_warnings([bad], [bad], worst)[0]


@pytest.mark.parametrize(("pgd", "strongest", "passed"), [(94, 20, False), (60, 52, True), (45, 45, True)])
def test_pgd_far_above_autoattack_is_an_alarm(pgd, strongest, passed):
    rows = [row("none", 98), row("pgd", pgd), row("autoattack", strongest)]
    results = {each: PerSampleResult.empty(100, 0.1) for each in rows}
    for each, result in results.items():
        result.right.copy_(torch.arange(100) < each.correct)
    (check,) = checks_of(Evaluation(rows, results))
    assert (check.name, check.passed) == ("strongest attack", passed)
    assert f"PGD leaves {pgd}.0%, autoattack {strongest}.0% of 100 images" in check.message
    without = replace(Evaluation(rows, results), rows=rows[:2])
    assert checks_of(without) == [], "L1 has no AutoAttack"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", MASKED)
def test_each_masked_network_gives_an_honest_number_or_a_statement(name, monkeypatch):
    for attack, version in (("autoattack", "standard"), ("autoattack_rand", "rand")):
        monkeypatch.setitem(ATTACKS, attack, AutoAttack(version))
    found = hardened(name, 60, epochs=4)
    reported = min(each.accuracy for each in found.after)
    adaptive = adaptive_accuracy(found.model, parts()[1].limit(60, seed=0))
    stated = any(STATEMENT in warning for warning in found.warnings)
    assert stated or reported <= adaptive + CLOSE, (reported, adaptive)
