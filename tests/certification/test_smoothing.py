"""Randomized smoothing: classifiers whose smoothed version is known, the declared rate of error, and ART."""

import math
import time

import pytest
import torch
from scipy.stats import binom, binomtest, norm
from torch import nn

from inoculate.certification.smoothing import ABSTAINED, Smoothing, certify_smoothed, predict_smoothed
from inoculate.core.errors import InputError
from inoculate.core.stats import proportion_lower


def halfspace(weights, bias):
    """Class 1 where w·x + b > 0: smoothed, it has a margin of (w·x + b) / ‖w‖ whatever sigma is."""
    last = nn.Linear(len(weights), 2)
    with torch.no_grad():
        last.weight[:] = torch.stack([-weights, weights]) / 2
        last.bias[:] = torch.tensor([-bias, bias]) / 2
    return nn.Sequential(nn.Flatten(), last)


def images(count, seed=0, shape=(1, 4, 4)):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.smoke
@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_a_linear_classifier_has_its_distance_as_radius(sigma):
    weights, x = torch.linspace(-1, 1, 16), images(6)
    distance = (x.flatten(1) @ weights + 0.3) / weights.norm()
    found = certify_smoothed(halfspace(weights, 0.3), x, Smoothing(sigma, n=20_000), generator=gen())
    smoothing = Smoothing(sigma, n=20_000)
    assert (found.radius <= distance.abs() + 1e-6).all()
    p = torch.from_numpy(norm.cdf(distance.abs() / sigma))
    expected = [smoothing.radius(int(binom.ppf(0.001, 20_000, each))) for each in p.tolist()]
    chosen = p > 0.75  # of a closer image the first copies may choose the wrong class, and it is abstained from
    assert chosen.any()
    assert (found.radius >= torch.tensor(expected) - 1e-9)[chosen].all(), "as tight as so many copies allow"
    sure = found.predicted != ABSTAINED
    assert torch.equal(found.predicted[sure], (distance > 0).long()[sure])
    assert sure[chosen].all()


def test_the_bound_is_the_exact_one():
    assert proportion_lower(100, 100, 0.999) == pytest.approx(0.001 ** (1 / 100), abs=1e-12)
    assert proportion_lower(0, 100, 0.999) == 0
    for count, n in ((5, 10), (99, 100), (9_321, 10_000)):
        exact = binomtest(count, n, alternative="greater").proportion_ci(0.999, "exact").low
        assert proportion_lower(count, n, 0.999) == pytest.approx(exact, abs=1e-9)
    assert Smoothing(0.5, n=10_000).largest_radius == pytest.approx(0.5 * norm.ppf(0.001 ** (1e-4)), abs=1e-9)


def test_a_certificate_is_false_at_most_at_the_declared_rate():
    """1,000 images of one true radius; a bound that is too wide fails as well as one that is too narrow."""
    alpha, p, sigma = 0.05, 0.8, 0.25
    x = images(1000)
    x[:, 0, 0, 0] = 0.5
    weights = torch.zeros(16)
    weights[0] = 1.0
    model = halfspace(weights, sigma * norm.ppf(p) - 0.5)  # class 1 for a fraction p of the copies
    smoothing = Smoothing(sigma, n=200, n0=20, alpha=alpha, batch_size=256)
    found = certify_smoothed(model, x, smoothing, generator=gen())
    false = int((found.radius > sigma * norm.ppf(p)).sum())
    rate = 1 - binom.cdf(next(k for k in range(201) if smoothing.radius(k) > sigma * norm.ppf(p)) - 1, 200, p)
    assert 0.02 < rate <= alpha, "what the binomial distribution says of 200 copies"
    low, high = binom.ppf([1e-4, 1 - 1e-4], 1000, rate)
    assert low <= false <= high


def test_predict_is_false_at_most_at_the_declared_rate():
    """At a tie either class is false: the smoothed classifier must abstain from all but alpha of the images."""
    x = images(500)
    x[:, 0, 0, 0] = 0.5
    weights = torch.zeros(16)
    weights[0] = 1.0
    found = predict_smoothed(halfspace(weights, -0.5), x, Smoothing(0.25, n=100, alpha=0.05), generator=gen())
    assert (found != ABSTAINED).sum() <= binom.ppf(1 - 1e-4, 500, 0.05)
    sure = predict_smoothed(halfspace(weights, 0.5), x[:20], Smoothing(0.25, n=100), generator=gen())
    assert (sure == 1).all()


def test_noise_depends_on_the_image_and_the_seed_alone():
    x, model = images(5), halfspace(torch.linspace(-1, 1, 16), 0.0)
    counts = certify_smoothed(model, x, Smoothing(n=500), generator=gen()).counts
    reordered = certify_smoothed(model, x.flip(0), Smoothing(n=500), generator=gen()).counts.flip(0)
    alone = certify_smoothed(model, x[3:4], Smoothing(n=500), generator=gen()).counts
    for size in (1, 100, 128, 1000):
        assert torch.equal(
            certify_smoothed(model, x, Smoothing(n=500, batch_size=size), generator=gen()).counts, counts
        )
    assert torch.equal(reordered, counts)
    assert torch.equal(alone, counts[3:4])
    assert not torch.equal(certify_smoothed(model, x, Smoothing(n=500), generator=gen(1)).counts, counts)


def test_the_copies_are_normal_and_not_clipped():
    seen = []

    class Recorder(nn.Module):
        def forward(self, x):
            seen.append(x.clone())
            return torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], dim=1)

    x = images(1)
    certify_smoothed(Recorder(), x, Smoothing(0.5, n=6400, n0=64), generator=gen())
    noise = torch.cat(seen[2:]) - x  # behind the trials on one image and the choice of the class
    noise = noise[noise.flatten(1).abs().amax(1) > 0]
    assert noise.std().item() == pytest.approx(0.5, rel=0.02)
    assert abs(noise.mean().item()) < 0.01
    assert (torch.cat(seen) < 0).any()
    flat = noise.flatten(1)[:6400]
    assert (torch.corrcoef(flat.T) - torch.eye(16)).abs().max() < 0.07


def test_abstention_wrong_labels_and_outputs_that_are_not_finite():
    x, weights = images(3), torch.zeros(16)
    weights[0] = 1.0
    tie = halfspace(weights, 0.0)
    x[:, 0, 0, 0] = torch.tensor([0.0, 1.0, 1.0])
    found = certify_smoothed(tie, x, Smoothing(0.25, n=1000), y=torch.tensor([1, 1, 0]), generator=gen())
    assert found.predicted.tolist() == [ABSTAINED, 1, ABSTAINED]
    assert found.counts[2] == 0, "no copies are spent on an image that cannot count"
    assert found.certified(torch.tensor([1, 1, 0]), 0.5).tolist() == [False, True, False]
    assert found.abstained.tolist() == [True, False, True]

    class Broken(nn.Module):
        def forward(self, x):
            logits = tie(x)
            return logits.where(x.flatten(1)[:, 1:2] > x[:1, 0, 0, 1], torch.nan) if len(x) > 1 else logits

    broken = certify_smoothed(Broken(), x[1:2], Smoothing(0.25, n=1000), generator=gen())
    assert broken.counts[0] < 700, "a copy without finite logits votes for no class"


def test_a_deadline_leaves_images_unjudged():
    x, model = images(3), halfspace(torch.ones(16), 0.0)
    none = certify_smoothed(model, x, Smoothing(n=100), deadline=time.monotonic() - 1)
    assert not none.judged.any()
    assert not none.abstained.any()
    assert not none.certified(torch.ones(3), 0).any()
    assert certify_smoothed(model, x, Smoothing(n=100), deadline=time.monotonic() + 60).judged.all()
    assert len(certify_smoothed(model, x[:0], Smoothing(n=100)).radius) == 0


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    certify_smoothed(model, images(2), Smoothing(n=100), generator=gen())
    assert model.training
    assert model[1].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_wrong_options_and_models_are_named():
    for options in ({"sigma": 0}, {"n": 0}, {"alpha": 1}, {"alpha": 0}, {"batch_size": 0}):
        with pytest.raises(InputError, match=next(iter(options))):
            Smoothing(**options)
    with pytest.raises(InputError, match="single number"):
        certify_smoothed(nn.Sequential(nn.Flatten(), nn.Linear(16, 1)), images(2), Smoothing(n=10))
    with pytest.raises(InputError, match="does not take"):
        certify_smoothed(nn.Linear(3, 2), images(2), Smoothing(n=10))


def test_art_certifies_the_same():
    pytest.importorskip("statsmodels", reason="ART computes its bound with statsmodels")
    smoothing = pytest.importorskip("art.estimators.certification.randomized_smoothing")
    weights, x = torch.linspace(-1, 1, 16), images(6)
    model = halfspace(weights, 0.3)
    theirs = smoothing.PyTorchRandomizedSmoothing(
        model, nn.CrossEntropyLoss(), (1, 4, 4), 2, sample_size=100, scale=0.25, alpha=0.001, device_type="cpu",
        clip_values=None,
    )  # fmt: skip
    for count, n in ((80, 100), (999, 1000), (1000, 1000)):
        assert proportion_lower(count, n, 0.999) == pytest.approx(theirs._lower_confidence_bound(count, n), abs=1e-9)
    with torch.random.fork_rng():
        predicted, radius = theirs.certify(x.numpy(), n=20_000, batch_size=1000)
    ours = certify_smoothed(model, x, Smoothing(0.25, n=20_000), generator=gen())
    assert ours.predicted.tolist() == predicted.tolist()
    for one, other in zip(ours.radius.tolist(), radius.tolist(), strict=True):
        assert math.isclose(one, max(other, 0), abs_tol=0.02)
