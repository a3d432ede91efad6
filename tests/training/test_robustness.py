"""What the methods are for: short trainings on digits, measured under PGD-20 on images that training never saw."""

import copy

import pytest
import torch
from torch import nn
from training_samples import digit_network, digit_parts, fit_digits

from inoculate.attacks.pgd import PGD
from inoculate.core.pixels import to_float
from inoculate.core.threat import Threat
from inoculate.data.load import load_data
from inoculate.training.methods.base import standard
from inoculate.training.methods.names import CERTIFIED, METHOD_ARMS
from inoculate.training.methods.registry import get_method
from inoculate.training.monitors import best_round, detect_failures
from inoculate.training.validation import clean_accuracy, robust_accuracy

THREAT = Threat("linf", 0.2)
SHORT = {"steps": 2, "step": 0.7}
OPTIONS = {
    "pgd_at": SHORT, "trades": SHORT, "mart": SHORT, "ard": {**SHORT, "alpha": 0.8, "temperature": 2.0},
    "rslad": SHORT, "live_surrogate": {**SHORT, "own_step": 1.0},
    "rrm": {"finish": 0.5, "logits": 1.0, "xent": 0.1},  # on clean images alone hardly any robustness passes
}  # fmt: skip


def pgd_accuracy(model, data, threat=THREAT):
    x, y = to_float(data.images[:]), data.labels
    with torch.no_grad():
        clean = model(x).argmax(1) == y
    x_adv = PGD(20, 0.125)(model, x, y, threat, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return ((model(x_adv).argmax(1) == y) & clean).float().mean().item()


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    return fit_digits(tmp_path_factory.mktemp("standard"), standard, None)[0]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    method = get_method("pgd_at", **SHORT).begin(THREAT)
    return fit_digits(tmp_path_factory.mktemp("teacher"), method, THREAT, digit_network(seed=8, width=24))[0]


@pytest.mark.parametrize("name", [name for name in METHOD_ARMS if name not in (*CERTIFIED, "gaussian")])
def test_every_method_beats_standard_training_by_25_points(name, ordinary, teacher, tmp_path):
    helpers = {
        "ensemble": (ordinary,), "ard": (teacher,), "rslad": (teacher,), "rrm": (teacher,),
        "live_surrogate": (digit_network(3, 8),),
    }  # fmt: skip
    method = get_method(name, **OPTIONS.get(name, {})).begin(THREAT, helpers.get(name, ()))
    model, _ = fit_digits(tmp_path, method, THREAT)
    test = digit_parts()[2]
    assert pgd_accuracy(model, test) >= pgd_accuracy(ordinary, test) + 0.25


def test_one_step_training_that_collapses_is_ended_within_an_epoch(tmp_path):
    """At 28 pixels one-step training without a random start overfits catastrophically."""
    pictures = tuple(load_data("digits", part, image_size=28) for part in ("train", "val"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
    fp32 = {"parts": pictures, "precision": "fp32"}  # where bf16 is used the outcome may differ
    start, threat = Threat("linf", 0.15), Threat("linf", 0.2)
    begin = get_method("pgd_at", steps=3, step=0.5).begin(start)
    fit_digits(tmp_path / "a", begin, start, model, updates=160, lr=0.005, val_images=64, **fp32)
    method = get_method("fgsm_rs", step=2.0, random_start=False).begin(threat)
    model, history = fit_digits(
        tmp_path / "b", method, threat, copy.deepcopy(model), updates=200, rounds=20, lr=0.02, val_images=200, **fp32
    )
    (number, message), *_ = detect_failures(history)
    assert "overfitting" in message
    assert len(history) == number
    robust, epoch = [each["val_robust"] for each in history], -(-len(pictures[0]) // 48)
    healthy = max(i for i in range(number) if robust[i] >= 2 / 3 * max(robust))
    assert history[-1]["update"] - history[healthy]["update"] <= epoch
    assert robust[-1] < max(robust) / 2
    assert robust_accuracy(model, pictures[1], threat, 200) == pytest.approx(max(robust)), "the best weights are back"


def test_averaged_weights_that_lag_behind_are_no_leak(teacher, tmp_path):
    """The network becomes robust in the last update; its running mean hardly knows."""

    def jumps(model, optimizer, x, y, *, generator, progress=1.0, samples=None):
        optimizer.step()
        if progress > 58.5 / 60:
            model.load_state_dict(teacher.state_dict())
        return {"loss": 1.0, "accuracy": 0.95}

    model = digit_network(width=24)
    _, history = fit_digits(tmp_path, jumps, THREAT, model, updates=60, rounds=1, average=0.9)
    assert history[-1]["val_robust"] < 0.25 * history[-1]["accuracy"]
    assert "train_robust" in history[-1], "a leak was suspected"
    assert detect_failures(history) == []


def test_few_memorised_images_are_no_leak(tmp_path):
    few = (digit_parts()[0].subset(range(30)), digit_parts()[1])
    method = get_method("pgd_at", steps=3, step=0.5).begin(THREAT)
    _, history = fit_digits(tmp_path, method, THREAT, parts=few, updates=160, rounds=8, batch_size=30)
    assert any("train_robust" in each for each in history), "a leak was suspected"
    assert detect_failures(history) == []
    assert len(history) == 8


def test_averaged_weights_are_kept_with_their_own_statistics(tmp_path):
    method, val = get_method("pgd_at", **SHORT).begin(THREAT), digit_parts()[1]
    model, history = fit_digits(tmp_path / "a", method, THREAT, average=0.9, updates=60)
    best = history[best_round(history)]
    assert clean_accuracy(model, val)[1] == pytest.approx(best["val_accuracy"])
    assert robust_accuracy(model, val, THREAT, 100) == pytest.approx(best["val_robust"])
    plain, _ = fit_digits(tmp_path / "b", method, THREAT, updates=60)
    assert not torch.equal(model[1].running_mean, plain[1].running_mean)
