"""What the methods are for: short trainings on digits, measured under PGD-20 on images that training never saw."""

import copy

import pytest
import torch
from digits_samples import every_digit
from torch import nn

from inoculate.attacks.pgd import PGD
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.data.load import load_data
from inoculate.evaluation.engine import measure_attack, measure_clean
from inoculate.models.classifier import prepare
from inoculate.training.ema import Average
from inoculate.training.methods.base import standard
from inoculate.training.methods.registry import METHODS, get_method
from inoculate.training.monitors import detect_failure, detect_failures
from inoculate.training.samples import training_set
from inoculate.training.trainer import Recipe, best_round, fit, updates_in
from inoculate.training.validation import validate, validate_robust

THREAT = Threat("linf", 0.2)
SHORT = {"steps": 2, "step": 0.7}
OPTIONS = {
    "pgd_at": SHORT, "trades": SHORT, "mart": SHORT, "ard": {**SHORT, "alpha": 0.8, "temperature": 2.0},
    "rslad": SHORT, "live_surrogate": {**SHORT, "own_step": 1.0},
}  # fmt: skip


def network(seed=0, width=16):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.Flatten(), nn.Linear(8 * width, 10),
        )  # fmt: skip


@pytest.fixture(scope="module")
def parts():
    digits = every_digit()
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    return digits.subset(order[:1200]), digits.subset(order[1200:1400]), digits.subset(order[1400:])


def train(parts, folder, method, threat=THREAT, model=None, updates=120, fallback=None, progress=None, **recipe):
    folder.mkdir(exist_ok=True)
    model = model or network()
    how = Recipe(updates, **{"rounds": 3, "batch_size": 48, "lr": 0.01, "val_images": 100, **recipe})
    samples = training_set("standard", parts[0], (), seed=0)
    history = fit(model, samples, parts[1], method, how, seed=0, folder=folder, threat=threat,
                  fallback=fallback, progress=progress)  # fmt: skip
    return model, history


def robust(model, part, threat=THREAT):
    classifier = prepare(model, part)
    (result,) = measure_attack(classifier, part, PGD(20, 0.125), [threat], measure_clean(classifier, part).right)
    return result.right.float().mean().item()


@pytest.fixture(scope="module")
def ordinary(parts, tmp_path_factory):
    return train(parts, tmp_path_factory.mktemp("standard"), standard, threat=None)[0]


@pytest.fixture(scope="module")
def teacher(parts, tmp_path_factory):
    method = get_method("pgd_at", **SHORT).begin(THREAT)
    return train(parts, tmp_path_factory.mktemp("teacher"), method, model=network(seed=8, width=24))[0]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_beats_standard_training_by_25_points(name, parts, ordinary, teacher, tmp_path):
    helpers = {"ensemble": (ordinary,), "ard": (teacher,), "rslad": (teacher,), "live_surrogate": (network(3, 8),)}
    method = get_method(name, **OPTIONS.get(name, {})).begin(THREAT, helpers.get(name, ()))
    model, _ = train(parts, tmp_path / name, method)
    assert robust(model, parts[2]) >= robust(ordinary, parts[2]) + 0.25


@pytest.fixture(scope="module")
def pictures():
    """The digits at 28 pixels, where one-step training has room to cheat."""
    return tuple(load_data("digits", part, image_size=28) for part in ("train", "val", "test"))


@pytest.fixture(scope="module")
def half_robust(pictures, tmp_path_factory):
    """A small CNN that has learnt some robustness, and may lose it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 4, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(32 * 49, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
    method = get_method("pgd_at", steps=3, step=0.5).begin(Threat("linf", 0.15))
    train(
        pictures,
        tmp_path_factory.mktemp("start"),
        method,
        Threat("linf", 0.15),
        model,
        updates=160,
        lr=0.005,
        val_images=64,
        precision="fp32",  # as where it collapses: this network's luck differs in bf16
    )
    return model


COLLAPSING = {"step": 2.0, "random_start": False}


@pytest.mark.parametrize("fallback", [False, True])
def test_a_fast_training_that_collapses_is_caught_within_an_epoch(pictures, half_robust, tmp_path, fallback):
    threat, epoch, rounds = Threat("linf", 0.2), -(-len(pictures[0]) // 48), 20
    method, model = get_method("fgsm_rs", **COLLAPSING).begin(threat), copy.deepcopy(half_robust)
    fallback_method = get_method("pgd_at", steps=2, step=0.7).begin(threat) if fallback else None
    model, history = train(
        pictures, tmp_path, method, threat, model,
        updates=200, rounds=rounds, lr=0.02, fallback=fallback_method, val_images=200, precision="fp32",
    )  # fmt: skip
    (number, message), *_ = detect_failures(history)
    assert "overfitting" in message
    robust = [each["val_robust"] for each in history[:number]]
    healthy = max(i for i in range(number) if robust[i] >= 2 / 3 * max(robust))
    assert history[number - 1]["update"] - history[healthy]["update"] <= epoch
    assert robust[-1] < max(robust) / 2
    kept = history[best_round(history)]["val_robust"]
    assert validate_robust(model, pictures[1], threat, 200) == pytest.approx(kept), "the best weights are back"
    assert kept >= max(robust)
    assert len(history) == (rounds if fallback else number)


@pytest.mark.parametrize(
    ("epochs", "images", "updates"), [(2, 128, 2), (2, 64, 1), (1, 24, 1), (3, 280, 7), (10, 43_750, 3418)]
)
def test_epochs_are_passes_over_the_images(epochs, images, updates):
    assert updates_in(epochs, images, 128) == updates


def entry(accuracy, robust, clean=0.9, **more):
    return {"update": 100.0, "accuracy": accuracy, "val_accuracy": clean, "val_robust": robust, "val_n": 100, **more}


@pytest.mark.parametrize(
    ("history", "says"),
    [
        ([entry(0.5, 0.45), entry(0.9, 0.01)], "catastrophic overfitting"),
        ([entry(0.5, 0.45), entry(0.3, 0.2)], None),  # it got worse at everything
        ([entry(0.5, 0.45), entry(0.6, 0.4)], None),
        ([entry(0.5, 0.3), entry(0.6, 0.1, val_n=20)], None),  # chance: six images, then two
        ([entry(0.3, 0.02), entry(0.95, 0.01, update=200)], "label leaking"),
        ([entry(0.95, 0.01, strength=0.3)], None),  # eps is still small
        ([entry(0.95, 0.01, train_robust=0.02)], "label leaking"),
        ([entry(0.95, 0.2, train_robust=0.9)], None),  # its few images known by heart
        ([entry(0.95, 0.01, update=20)], None),  # mean weights and BatchNorm lag behind
        ([entry(0.95, 0.01, update=20 * i) for i in (1, 2, 3)], "label leaking"),
        ([entry(0.95, 0.01, strength=0.9), entry(0.95, 0.01, update=140)], None),
        ([entry(0.3, 0.25, clean=0.25, val_majority=0.25), entry(0.35, 0.0)], None),  # one answer for all
        ([entry(0.5, 0.25, clean=0.5, val_majority=0.25), entry(0.6, 0.0)], "catastrophic overfitting"),
        ([entry(0.5, 0.28), entry(0.95, 0.2)], None),  # it once was
        ([entry(0.9, 0.45)], None),  # ordinary overfitting
        ([{"update": 1.0, "accuracy": 0.9, "val_accuracy": 0.1}], None),  # not an adversarial training
        ([], None),
    ],
)
def test_alarms(history, says):
    message = detect_failure(history)
    assert message is None if says is None else says in message


def test_a_mean_that_lags_is_no_leak(parts, tmp_path, monkeypatch):
    """The mean network knows nothing yet, the one that the examples are made on withstands them."""
    monkeypatch.setattr(Average, "network", property(lambda self: network(seed=1).eval()))
    method = get_method("pgd_at", steps=3, step=0.5).begin(THREAT)
    _, history = train(parts, tmp_path, method, updates=120, rounds=2, average=0.9)
    assert history[-1]["val_robust"] < 0.25 * history[-1]["accuracy"]
    assert "train_robust" in history[-1], "it was suspected"
    assert detect_failures(history) == []


class Waves(nn.Module):
    """Answers that change so quickly with the image that an attack may well move a wrong one to the right class."""

    def __init__(self):
        super().__init__()
        self.directions = nn.Linear(64, 10)

    def forward(self, x):
        return torch.sin(300 * self.directions(x.flatten(1)))


def test_images_that_are_wrong_clean_do_not_count_as_withstanding(parts):
    torch.manual_seed(0)
    model, part = Waves(), parts[1]
    classifier = prepare(model, part, precision="exact")
    clean = measure_clean(classifier, part).right
    attack, everything = PGD(steps=10), torch.ones_like(clean)
    (result,) = measure_attack(classifier, part, attack, [THREAT], everything)
    assert (result.right & ~clean).any(), "some are right only under attack"
    found = validate_robust(model, part, THREAT, len(part))
    assert found == pytest.approx((result.right & clean).float().mean().item())


def test_few_images_known_by_heart_are_no_leak(parts, tmp_path):
    few = (parts[0].subset(range(30)), *parts[1:])
    method = get_method("pgd_at", steps=3, step=0.5).begin(THREAT)
    _, history = train(few, tmp_path, method, updates=160, rounds=8, batch_size=30)
    assert any("train_robust" in each for each in history), "it was suspected"
    assert detect_failures(history) == []
    assert len(history) == 8


def test_a_divergence_in_the_last_update_of_a_round_is_found(parts, tmp_path):
    def breaks(model, optimizer, x, y, *, generator, share=1.0):
        measured = standard(model, optimizer, x, y, generator=generator)
        if share > 0.99:
            next(model.parameters()).data.fill_(float("nan"))
        return measured

    with pytest.raises(InputError, match=r"diverged by update 120.*nan; lower lr; .*update [48]0.*best.safetensors"):
        train(parts, tmp_path, breaks, stop_on_failure=False)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["history"][-1]["update"] == 80


def test_a_divergence_names_batch_lr_and_last_good_weights(parts, tmp_path):
    def breaks(model, optimizer, x, y, *, generator, share=1.0):
        measured = standard(model, optimizer, x, y, generator=generator)
        return {**measured, "loss": float("nan")} if share > 0.6 else measured

    with pytest.raises(InputError, match=r"update 74 of 120 \(batch 24 of epoch 3.*lr .*update 40.*best.safetensors"):
        train(parts, tmp_path, breaks)
    assert (tmp_path / "best.safetensors").is_file()


def test_mean_weights_are_kept_with_their_own_statistics(parts, tmp_path):
    method = get_method("pgd_at", **SHORT).begin(THREAT)
    model, history = train(parts, tmp_path / "a", method, average=0.9)
    best = history[best_round(history)]
    assert validate(model, parts[1])[1] == pytest.approx(best["val_accuracy"])
    assert validate_robust(model, parts[1], THREAT, 100) == pytest.approx(best["val_robust"])
    plain, _ = train(parts, tmp_path / "b", method)
    assert not torch.equal(model[1].running_mean, plain[1].running_mean)


@pytest.mark.parametrize("name", ["free", "live_surrogate", "pgd_at"])
def test_an_interrupted_hardening_ends_with_the_same_weights(name, parts, tmp_path):
    def again(folder, **options):
        helpers = (network(3, 8),) if name == "live_surrogate" else ()
        method = get_method(name, **OPTIONS.get(name, {})).begin(THREAT, helpers)
        return train(parts, folder, method, updates=45, average=0.9, **options)[0]

    def interrupt(done, total, facts):
        if done == 35:
            raise KeyboardInterrupt

    expected = again(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        again(tmp_path / "cut", progress=interrupt)
    resumed = again(tmp_path / "cut", model=network(seed=99))
    for a, b in zip(expected.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
