"""Each loss against its formula, written out sample by sample in double precision."""

import math

import numpy as np
import pytest
import torch

from inoculate.training import losses as objectives

CLEAN = np.array([[2.0, -1.0, 0.5, 0.0], [0.1, 0.2, 0.3, -4.0], [-3.0, 5.0, 1.0, 1.5]])
ADVERSARIAL = np.array([[0.5, 1.5, 0.0, -0.2], [0.4, -0.1, 0.0, -1.0], [-1.0, 2.0, 2.5, 0.3]])
TEACHER = np.array([[3.0, 0.0, 0.0, -1.0], [0.0, 1.0, 0.5, 0.2], [-2.0, 4.0, 0.0, 0.0]])
LABELS = [0, 1, 1]


def softmax(z):
    total = sum(math.exp(v) for v in z)
    return [math.exp(v) / total for v in z]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def t(array):
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


def rows():
    return [
        (softmax(c), softmax(a), softmax(s), y) for c, a, s, y in zip(CLEAN, ADVERSARIAL, TEACHER, LABELS, strict=True)
    ]


def test_divergence_points_from_the_reference_to_the_prediction():
    got = objectives.divergence(t(ADVERSARIAL), t(CLEAN))
    assert got.tolist() == pytest.approx([kl(c, a) for c, a, _, _ in rows()], abs=1e-5)
    assert (objectives.divergence(t(CLEAN), t(ADVERSARIAL)) - got).abs().max() > 0.01, "it is not symmetric"


@pytest.mark.parametrize(("beta", "smoothing"), [(6.0, 0.0), (1.0, 0.1)])
def test_trades(beta, smoothing):
    def natural(p, y):
        target = [smoothing / 4 + (1 - smoothing) * (k == y) for k in range(4)]
        return -sum(share * math.log(q) for share, q in zip(target, p, strict=True))

    expected = mean(natural(c, y) + beta * kl(c, a) for c, a, _, y in rows())
    got = objectives.trades(t(CLEAN), t(ADVERSARIAL), torch.tensor(LABELS), beta, smoothing)
    assert got.item() == pytest.approx(expected, abs=1e-5)


def test_trades_learns_from_both_sides_of_the_divergence():
    clean, adversarial = t(CLEAN), t(ADVERSARIAL)
    objectives.trades(clean, adversarial, torch.tensor(LABELS), 6.0).backward()
    natural = t(CLEAN)
    torch.nn.functional.cross_entropy(natural, torch.tensor(LABELS)).backward()
    assert (clean.grad - natural.grad).abs().max() > 0.01
    assert adversarial.grad.abs().max() > 0.01


def test_mart():
    def one(c, a, y):
        wrong = max(p for k, p in enumerate(a) if k != y)
        return -math.log(a[y]) - math.log(1.0001 - wrong) + 5 * kl(c, a) * (1 - c[y])

    got = objectives.mart(t(CLEAN), t(ADVERSARIAL), torch.tensor(LABELS), 5.0)
    assert got.item() == pytest.approx(mean(one(c, a, y) for c, a, _, y in rows()), abs=1e-5)


@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 30.0), (0.7, 2.0)])
def test_ard(alpha, temperature):
    def one(c, a, s, y):
        soft = kl(softmax(s / temperature), softmax(a / temperature))
        return alpha * temperature**2 * soft - (1 - alpha) * math.log(softmax(c)[y])

    expected = mean(one(*row) for row in zip(CLEAN, ADVERSARIAL, TEACHER, LABELS, strict=True))
    got = objectives.ard(t(CLEAN), t(ADVERSARIAL), t(TEACHER), torch.tensor(LABELS), alpha, temperature)
    assert got.item() == pytest.approx(expected, abs=1e-5)


def test_rslad():
    expected = mean(kl(s, c) / 6 + 5 / 6 * kl(s, a) for c, a, s, _ in rows())
    assert objectives.rslad(t(CLEAN), t(ADVERSARIAL), t(TEACHER), 5 / 6).item() == pytest.approx(expected, abs=1e-5)
