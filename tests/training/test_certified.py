"""Certified training: bounds and losses written out, literal schedules, and what a short training proves on digits."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_samples import digit_parts, fit_digits

import inoculate as ino
from inoculate.certification.bounds.span import Span
from inoculate.core.errors import InputError
from inoculate.core.pixels import to_float
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.models.normalize import normalized
from inoculate.training.bounds import propagate
from inoculate.training.methods.adversarial import Batch
from inoculate.training.methods.base import standard
from inoculate.training.methods.certified import eps_at
from inoculate.training.methods.names import CERTIFIED
from inoculate.training.methods.registry import get_method
from inoculate.training.validation import certified_accuracy

THREAT = Threat("linf", 0.1)


def network(*, seed=0, pool=False):
    """Every kind of layer that has bounds, normalisation and nesting included."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        features = nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 6, 3, groups=2), nn.MaxPool2d(2) if pool else nn.LeakyReLU() if seed else nn.ReLU(),
        )  # fmt: skip
        units = 6 if pool else 24
        head = nn.Sequential(nn.Flatten(), nn.Linear(units, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        model = normalized(nn.Sequential(features, head), (0.3, 0.4), (0.5, 0.2))
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean += 0.1
            layer.weight.data[0] = -1.0
    return model


def batch(count=5):
    g = torch.Generator().manual_seed(1)
    return torch.rand(count, 2, 8, 8, generator=g), torch.arange(count) % 3


def differences(logits, y):
    return logits.gather(1, y[:, None]) - logits


@pytest.mark.parametrize("kind", [{}, {"seed": 1}, {"pool": True}])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_bounds_hold_and_those_of_crown_are_between(kind, mode):
    model, (x, y) = getattr(network(**kind), mode)(), batch()
    with torch.no_grad():
        found = propagate(model, Span.around(x, THREAT, x))
        ibp, crown, plain = found.margins(y), found.margins(y, relax=True), found.plain
        true = differences(plain, y)
        assert (ibp <= true + 1e-5).all()
        assert (crown <= true + 1e-5).all()
        if not kind.get("pool"):  # where the lines end at the pooling they lose more than they gain
            assert crown.sum() > ibp.sum(), "tighter on the whole"
        if mode == "eval":
            assert torch.allclose(plain, model(x), atol=1e-5)
            g = torch.Generator().manual_seed(2)
            for _ in range(200):
                corner = x + THREAT.eps * (torch.rand(x.shape, generator=g) * 2 - 1).sign()
                found = differences(model(corner.clamp(0, 1)), y)
                assert (torch.maximum(ibp, crown) <= found + 1e-5).all()


class Branched(nn.Module):
    """Two branches that meet, dropout, and a mean over the image."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.one, self.norm, self.two = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
            self.skip, self.last = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x):
        x = F.dropout(F.relu(self.norm(self.one(x))), 0.5, self.training)
        return self.last((self.two(x) + self.skip(x)).relu_().mean((2, 3)))


@pytest.mark.parametrize("name", CERTIFIED)
def test_any_graph_of_layers_is_trained(name):
    model, (x, y) = Branched().train(), batch()
    method, optimizer = get_method(name).begin(THREAT), torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for precision in (torch.float32, *[torch.bfloat16] * 15):
        with torch.autocast("cpu", precision, enabled=precision is torch.bfloat16):
            losses.append(method(model, optimizer, x, y, generator=torch.Generator())["loss"])
    assert losses[-1] < losses[0]
    assert model.norm.num_batches_tracked == 16
    assert all(value.grad is not None for value in model.parameters())
    with torch.no_grad():
        found = propagate(model.eval(), Span.around(x, THREAT, x))
        assert torch.allclose(found.plain, model(x), atol=1e-5)
        g = torch.Generator().manual_seed(2)
        low = torch.maximum(found.margins(y), found.margins(y, relax=True))
        for _ in range(50):
            corner = x + THREAT.eps * (torch.rand(x.shape, generator=g) * 2 - 1).sign()
            assert (low <= differences(model(corner.clamp(0, 1)), y) + 1e-5).all()


def test_the_weights_are_those_that_the_model_has():
    x, _ = batch()
    model = small().train()
    for change in (
        lambda: model.load_state_dict({name: 2 * value for name, value in model.state_dict().items()}),
        lambda: setattr(model[1], "weight", nn.Parameter(torch.rand(6, 128))),
        lambda: model[3].weight.data.mul_(-1),
        lambda: model.double(),
        lambda: model.eval(),
    ):
        change()
        images = x.to(model[1].weight.dtype)
        found = propagate(model, Span.around(images, THREAT, images))
        assert torch.allclose(found.plain, model(images), atol=1e-5)
        found.margins(torch.zeros(5, dtype=torch.int64)).sum().backward()
        assert all(value.grad is not None for value in model.parameters())
        model.zero_grad()


def test_without_eps_bounds_are_the_logits():
    model, (x, y) = network().eval(), batch()
    with torch.no_grad():
        found = propagate(model, Span.around(x, Threat("linf", 0.0)))
        ibp, crown = found.margins(y), found.margins(y, relax=True)
        assert torch.allclose(ibp, differences(model(x), y), atol=1e-5)
        assert torch.allclose(crown, ibp, atol=1e-5)


def test_interval_bounds_on_paper():
    """One hidden layer, by hand: x = (0.5, 0.2) ± 0.1."""
    first, last = nn.Linear(2, 2), nn.Linear(2, 2)
    with torch.no_grad():
        first.weight[:] = torch.tensor([[1.0, -1.0], [2.0, 1.0]])
        first.bias[:] = torch.tensor([-0.4, 0.0])
        last.weight[:] = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        last.bias[:] = torch.tensor([0.0, 0.5])
        model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), last)
        found = propagate(model, Span(torch.tensor([[[[0.5, 0.2]]]]), torch.tensor([[[[0.1, 0.1]]]])))
        hidden = found.spans[-2]
        assert torch.allclose(hidden.low, torch.tensor([[0.0, 0.9]]), atol=1e-6)
        assert torch.allclose(hidden.high, torch.tensor([[0.1, 1.5]]), atol=1e-6)
        low = found.margins(torch.tensor([1]))
    assert torch.allclose(low, torch.tensor([[0.9 + 0.5 - 0.1, 0.0]]), atol=1e-6)


def test_the_box_keeps_to_the_valid_range():
    span = Span.around(torch.tensor([[[[0.05, 0.5, 1.0]]]]), THREAT)
    assert torch.allclose(span.low, torch.tensor([0.0, 0.4, 0.9]))
    assert torch.allclose(span.high, torch.tensor([0.15, 0.6, 1.0]))


def test_batchnorm_takes_and_keeps_the_statistics_of_the_points():
    x, _ = batch()
    model = network().train()
    other = copy.deepcopy(model)
    found = propagate(model, Span.around(x, THREAT, x))
    assert torch.allclose(found.plain, other(x), atol=1e-5)
    for one, two in zip(model.buffers(), other.buffers(), strict=True):
        assert torch.allclose(one.float(), two.float(), atol=1e-5)


def plain_ibp(model, x, y, eps):
    """Interval bounds of `small()` written out with lower and upper limits."""
    first, last = model[1], model[3]
    low, high = (x - eps).clamp(0, 1).flatten(1), (x + eps).clamp(0, 1).flatten(1)
    up, down = first.weight.clamp_min(0), first.weight.clamp_max(0)
    low, high = low @ up.T + high @ down.T + first.bias, high @ up.T + low @ down.T + first.bias
    low, high = low.relu(), high.relu()
    rows = []
    for i, label in enumerate(y):
        difference, shift = last.weight - last.weight[label], last.bias - last.bias[label]
        rows.append(difference.clamp_min(0) @ high[i] + difference.clamp_max(0) @ low[i] + shift)
    return torch.stack(rows)


def small(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(128, 6), nn.ReLU(), nn.Linear(6, 3))


def loss_of(name, model, x, y, progress, **options):
    method = get_method(name, **options)
    metrics = method.begin(THREAT)(
        model, torch.optim.SGD(model.parameters(), lr=0.0), x, y, generator=torch.Generator(), progress=progress
    )
    return metrics["loss"]


def test_the_losses_are_those_of_the_papers():
    (x, y), model = batch(), small()
    clean, worst = F.cross_entropy(model(x), y), F.cross_entropy(plain_ibp(model, x, y, 0.1), y)
    assert loss_of("ibp", model, x, y, 1.0) == pytest.approx((0.5 * clean + 0.5 * worst).item(), abs=1e-5)
    half = F.cross_entropy(plain_ibp(model, x, y, 0.05), y)
    halfway = loss_of("ibp", model, x, y, 0.5, start=0.25, ramp=0.5, kappa=0.2)
    assert halfway == pytest.approx((0.6 * clean + 0.4 * half).item(), abs=1e-5)
    assert loss_of("ibp", model, x, y, 0.01) == pytest.approx(clean.item(), abs=1e-5)
    more = F.cross_entropy(plain_ibp(model, x, y, 0.15), y)
    assert loss_of("ibp", model, x, y, 1.0, kappa=0.0, factor=1.5) == pytest.approx(more.item(), abs=1e-5)
    assert loss_of("crown_ibp", model, x, y, 1.0) == pytest.approx(worst.item(), abs=1e-5)
    assert loss_of("sabr", model, x, y, 1.0, subselection=1.0) == pytest.approx(worst.item(), abs=1e-5)
    assert loss_of("mtl_ibp", model, x, y, 1.0, alpha=1.0) == pytest.approx(worst.item(), abs=1e-5)
    x_adv = get_method("mtl_ibp").defence.examples(Batch(model, x, y, THREAT, torch.Generator()))
    mixed = 0.7 * F.cross_entropy(model(x_adv), y) + 0.3 * worst
    assert loss_of("mtl_ibp", model, x, y, 1.0, alpha=0.3) == pytest.approx(mixed.item(), abs=1e-5)
    order = [loss_of("sabr", model, x, y, 1.0, subselection=part) for part in (0.1, 0.5, 1.0)]
    assert clean < order[0] < order[1] < order[2], "the larger the box, the higher the loss"
    linear = loss_of("crown_ibp", model, x, y, 1.0, beta=1.0)
    assert clean < linear < worst


def test_the_published_schedule():
    """Gowal et al. 2018 for MNIST: 60,000 steps, eps 0 for 2,000, then growing for 10,000."""
    ibp = get_method("ibp").defence
    found = [eps_at(step / 60_000, ibp.start, ibp.ramp) for step in (0, 1_999, 2_000, 7_000, 12_000, 60_000)]
    assert found == pytest.approx([0, 0, 0, 0.5, 1, 1], abs=1e-9)
    assert ibp.kappa == 0.5
    assert eps_at(0.3, 0.3, 0.0) == 1.0


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    return fit_digits(tmp_path_factory.mktemp("standard"), standard, None, digits_cnn())[0]


def digits_cnn():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(256, 10),
        )  # fmt: skip


@pytest.mark.parametrize("name", CERTIFIED)
def test_a_short_training_proves_what_standard_training_does_not(name, ordinary, tmp_path):
    test = digit_parts()[2]
    method = get_method(name, ramp=0.4, **{"sabr": {"steps": 2, "step": 0.7}}.get(name, {}))
    model, history = fit_digits(tmp_path, method.begin(THREAT), THREAT, digits_cnn(), updates=160, certify=True)
    assert certified_accuracy(ordinary, test, THREAT) < 0.05
    assert certified_accuracy(model, test, THREAT) > 0.4
    assert max(each["val_certified"] for each in history) > 0.4
    assert "val_robust" not in history[-1]


@pytest.mark.parametrize("name", CERTIFIED)
def test_what_has_no_bounds_is_named(name):
    x, y = batch()
    method = get_method(name).begin(THREAT)
    for model, says in (
        (nn.Sequential(nn.Flatten(), nn.Linear(128, 3), nn.Softmax(dim=1)), "2.*Softmax"),
        (nn.Sequential(nn.Flatten(), nn.Linear(128, 3), nn.ReLU()), "linear layer"),
        (nn.Sequential(nn.Flatten(2), nn.LayerNorm(64), nn.Flatten(), nn.Linear(128, 3)), "1.*LayerNorm"),
    ):
        with pytest.raises(InputError, match=says):
            method(model, torch.optim.SGD(model.parameters(), 0.1), x, y, generator=torch.Generator(), progress=0.0)
    with pytest.raises(InputError, match="ramp"):
        get_method(name, warmup=0.3)
    with pytest.raises(InputError, match="linf"):
        get_method(name).begin(Threat("l2", 0.1))


def test_certified_counts_only_what_is_right_everywhere():
    images = (batch()[0][:, :1] * 255).to(torch.uint8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        predicted = model(to_float(images)).argmax(1)
    for labels, eps, proven in ((predicted, 1e-6, 1.0), ((predicted + 1) % 3, 1e-6, 0.0), (predicted, 1.0, 0.0)):
        assert (
            certified_accuracy(
                model, Dataset.from_tensors(images, labels, classes=["a", "b", "c"]), Threat("linf", eps)
            )
            == proven
        )


def test_hardening_keeps_the_round_that_is_proven_most():
    train, val, test = digit_parts()
    options = {"seed": 0, "test_images": 20}
    found = ino.harden(
        digits_cnn(), {"train": train, "val": val, "test": test}, THREAT, method="ibp", budget="4s",
        options=ino.HardeningOptions(method_options={"ramp": 0.3}, **options),
    )  # fmt: skip
    assert "val_certified" in found.history[-1]
    assert found.method == "ibp"


def test_gaussian_training_makes_a_base_classifier(ordinary, tmp_path):
    test = digit_parts()[2].limit(100, seed=0)
    x, y = to_float(test.images[:]), test.labels
    base, _ = fit_digits(tmp_path, get_method("gaussian", sigma=0.5).begin(THREAT), None, digits_cnn())
    shares = [
        ino.certify_smoothed(model, x, ino.Smoothing(0.5, n=300, alpha=0.01), y=y).certified(y, 0.25).float().mean()
        for model in (ordinary, base)
    ]
    assert shares[1] > shares[0] + 0.15
