"""Methods by name and by object, their options, and the networks they need."""

import json
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_samples import block_network, blocks, fit_blocks

from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.training.methods.fgsm_rs import FGSMRS
from inoculate.training.methods.helpers import check_helpers, fallback_for, load_helpers
from inoculate.training.methods.names import CERTIFIED, METHOD_ARMS, STANDARD
from inoculate.training.methods.pgd_at import PGDAT
from inoculate.training.methods.registry import METHODS, as_method, get_method, option_names
from inoculate.training.recipe import Recipe, make_optimizer

THREAT = Threat("linf", 0.1)


@dataclass(frozen=True)
class NoiseTraining:
    """Cross-entropy on images with uniform noise: a defence of a user's."""

    scale: float = 1.0
    passes: float = 1.0
    loss_passes: float = 1.0

    def examples(self, batch):
        noise = torch.rand(batch.x.shape, generator=batch.generator) * 2 - 1
        return (batch.x + self.scale * batch.threat.eps * noise).clamp(0, 1)

    def loss(self, batch, x_adv):
        logits = batch.model(x_adv)
        return F.cross_entropy(logits, batch.y), logits


@pytest.mark.smoke
def test_every_name_is_a_method():
    assert set(METHODS) == {STANDARD, *METHOD_ARMS}
    for name in METHODS:
        assert json.dumps(get_method(name).spec)
        assert get_method(name).is_adversarial == (name != STANDARD)


def test_a_method_may_be_a_name_a_spec_or_an_object():
    assert as_method("pgd_at", steps=3) == get_method("pgd_at", steps=3) == as_method(PGDAT(steps=3))
    assert as_method(get_method("trades", awp=0.01)).common.awp == 0.01
    assert as_method(FGSMRS()).name == "fgsm_rs"


def test_a_defence_of_a_users_trains(tmp_path):
    method = as_method(NoiseTraining(scale=0.5))
    assert method.name == "NoiseTraining"
    assert method.spec["scale"] == 0.5
    assert method.is_monitored
    _, history = fit_blocks(tmp_path, method.begin(THREAT), threat=THREAT)
    assert max(entry["val_accuracy"] for entry in history) > 0.6


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (PGDAT, r"give an instance, PGDAT\(\)"),
        (nn.Linear(2, 2), "give a method name, or an object with examples"),
        (3, "give a method name"),
    ],
)
def test_other_objects_are_refused(method, says):
    with pytest.raises(InputError, match=says):
        as_method(method)


def test_options_belong_to_a_name():
    with pytest.raises(InputError, match="put them into the method object"):
        as_method(PGDAT(), steps=3)


MISTAKES = [
    ("trade", {}, "did you mean 'trades'"),
    ("trades", {"bta": 3}, "did you mean 'beta'"),
    ("trades", {"beta": -1}, "above 0"),
    ("pgd_at", {"steps": 0}, "at least 1"),
    ("pgd_at", {"awp": 1.5}, "from 0 to 1"),
    ("pgd_at", {"awp": 1}, "below 1"),
    ("fgsm_rs_then_pgd", {"head_start": 2}, "from 0 to 1"),
    ("fgsm_rs", {"random_start": 3}, "give true or false"),
    ("mart", {"smoothing": 0.1}, "no plain cross-entropy"),
    ("free", {"replays": 2.5}, "whole number"),
    ("fgsm_rs", {"weight_decay": -0.1}, "at least 0"),
    (STANDARD, {"steps": 2}, "has no options"),
]


def test_mistakes_are_one_clear_line():
    for name, options, says in MISTAKES:
        with pytest.raises(InputError, match=says):
            get_method(name, **options)


def test_option_names_are_the_methods_own_and_the_common_ones():
    assert set(option_names("pgd_at")) == {"steps", "step", "awp", "warmup", "smoothing", "average", "weight_decay"}


def test_weight_decay_is_the_recipes_unless_the_method_says():
    named = get_method("fgsm_rs", weight_decay=0.3)
    for optimizer in ("adamw", "sgd"):
        recipe = Recipe(1, weight_decay=0.02, optimizer=optimizer)
        for method, expected in (
            (named, 0.3),
            (get_method("fgsm_rs", weight_decay=0), 0),
            (get_method("fgsm_rs"), 0.02),
        ):
            made = make_optimizer(block_network(), method.adapt(recipe))
            assert {group["weight_decay"] for group in made.param_groups} == {expected}
    assert named.spec["weight_decay"] == 0.3
    assert "weight_decay" not in get_method("fgsm_rs").spec


def test_what_is_crafted_on_other_networks_is_not_monitored():
    monitored = {name: get_method(name).is_monitored for name in METHODS}
    assert [name for name, yes in monitored.items() if not yes] == [STANDARD, "ensemble", "rrm", "gaussian", *CERTIFIED]
    assert not get_method("live_surrogate", own_steps=0).is_monitored


def test_missing_helpers_are_named():
    for name, says in [("rslad", "as teacher"), ("ensemble", "as surrogate"), ("live_surrogate", "as surrogate")]:
        with pytest.raises(InputError, match=says):
            get_method(name).begin(THREAT)


def test_helpers_that_a_method_does_not_use_are_refused():
    check_helpers("rslad", "folder", ())
    check_helpers("ensemble", None, ("a", "b"))
    for method, teacher, surrogates, says in [
        ("pgd_at", "folder", (), "takes no teacher"),
        ("pgd_at", None, ("a",), "takes no surrogate"),
        ("live_surrogate", None, ("a", "b"), "one network alongside, not 2"),
    ]:
        with pytest.raises(InputError, match=says):
            check_helpers(method, teacher, surrogates)


def test_helpers_are_loaded_and_inspected(tmp_path):
    data = blocks()
    helper = block_network()
    (same,), warnings = load_helpers("ensemble", (helper,), data, device="cpu", seed=0)
    assert same is helper
    assert "surrogate Sequential: the model is in train mode" in warnings[0]
    (copied,), _ = load_helpers("live_surrogate", (helper,), data, device="cpu", seed=0)
    assert copied is not helper, "it is trained"
    built = [load_helpers("live_surrogate", ("small_cnn",), data, device="cpu", seed=seed)[0][0] for seed in (0, 0, 1)]
    weights = [next(network.parameters()) for network in built]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    for method, name, says in [
        ("ensemble", "small_cnn", "has random weights"),
        ("ard", str(tmp_path / "nowhere"), "does not exist"),
        ("ard", "small_cnn", "does not exist"),
        ("ensemble", "model.onnx", "not there"),
        ("ensemble", str(tmp_path / "nowhere"), "not there"),
    ]:
        with pytest.raises(InputError, match=says):
            load_helpers(method, (name,), data, device="cpu", seed=0)


def test_a_helper_that_does_not_fit_is_named():
    five = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    with pytest.raises(InputError, match=r"surrogate Sequential: .*5"):
        load_helpers("ensemble", (five,), blocks(), device="cpu", seed=0)


def test_a_fallback_needs_a_monitored_method_and_no_helpers():
    assert fallback_for(get_method("pgd_at"), None, THREAT) is None
    assert fallback_for(None, "pgd_at", THREAT) is not None
    for method, fallback, says in [
        ("ensemble", "pgd_at", "is not monitored"),
        (STANDARD, "pgd_at", "is not monitored"),
        ("pgd_at", "ard", "needs another network"),
        ("pgd_at", "pgdat", "did you mean 'pgd_at'"),
    ]:
        with pytest.raises(InputError, match=says):
            fallback_for(get_method(method), fallback, THREAT)
