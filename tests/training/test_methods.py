"""Each update against the same update written out plainly, on fixed tensors."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inoculate.core.errors import InputError
from inoculate.core.rng import Draws
from inoculate.core.threat import Threat
from inoculate.training.awp import worst_weights
from inoculate.training.methods.adversarial import Batch, Defence
from inoculate.training.methods.divergence import NOISE, eval_logits
from inoculate.training.methods.names import CERTIFIED, METHOD_ARMS
from inoculate.training.methods.registry import get_method

EPS = 0.1
THREAT = Threat("linf", EPS)
# Certified training does not call the network, and Gaussian noise knows no ball: see their own tests.
ADVERSARIAL = tuple(name for name in METHOD_ARMS if name not in (*CERTIFIED, "gaussian"))


def network(seed=0):
    """BatchNorm, so that eval mode differs from train mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3))
        model[1].running_mean += 0.1
    return model.train()


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(1)
    return torch.rand(6, 1, 8, 8, generator=g), torch.tensor([0, 1, 2, 0, 1, 2])


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


def one_update(name, batch, model=None, helpers=(), progress=1.0, **options):
    model = model or network()
    method = get_method(name, **options).begin(THREAT, helpers)
    metrics = method(model, sgd(model), *batch, generator=torch.Generator().manual_seed(7), progress=progress)
    return model, metrics


def gradient(model, x, loss):
    """Of `loss(logits)` with respect to the images, in eval mode, without a trace.

    In double precision: near the clean image a divergence is so flat that single precision can miss a pixel's sign.
    """
    twin = copy.deepcopy(model).eval().double()
    x = x.double().requires_grad_()
    loss(twin(x)).backward()
    return x.grad.float()


def pgd(model, x, start, loss, steps, step=0.25):
    x_adv = start
    for _ in range(steps):
        moved = x_adv + step * EPS * gradient(model, x_adv, loss).sign()
        x_adv = torch.min(torch.max(moved, x - EPS), x + EPS).clamp(0, 1)
    return x_adv


def near(x):
    noise = Draws(x, torch.Generator().manual_seed(7)).normal(*x.shape[1:]).to(x)  # it belongs to the image
    return (x + NOISE * noise).clamp(0, 1)


def kl(p_logits, q_logits):
    p, q = p_logits.softmax(1), q_logits.softmax(1)
    return (p * (p.log() - q.log())).sum(1).mean()


def stepped(model, loss):
    """The weights after one SGD step down `loss()`."""
    optimizer = sgd(model)
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()
    return model


def same(one, other, tolerance=1e-5):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.allclose(a.float(), b.float(), atol=tolerance), name


def test_fgsm_rs_without_random_start_is_a_step_on_fgsm_images(batch):
    (x, y), plain = batch, network()
    x_adv = (x + EPS * gradient(plain, x, lambda z: F.cross_entropy(z, y)).sign()).clamp(0, 1)
    stepped(plain, lambda: F.cross_entropy(plain(x_adv), y))
    model, _ = one_update("fgsm_rs", batch, step=1.0, random_start=False)
    same(model, plain)


def test_fgsm_rs_projects_its_long_step(batch):
    x, y = batch
    method = get_method("fgsm_rs").defence
    x_adv = method.examples(Batch(network(), x, y, THREAT, torch.Generator().manual_seed(0)))
    assert (x_adv - x).abs().max() <= EPS + 1e-6
    assert ((x_adv - x).abs() < EPS - 1e-3).any(), "the random start is seen"


def test_n_fgsm_keeps_noise_and_step_in_full(batch):
    (x, y), plain = batch, network()
    noise = Draws(x, torch.Generator().manual_seed(7)).uniform(*x.shape[1:]) * 2 - 1
    start = (x + 2 * EPS * noise).clamp(0, 1)
    x_adv = (start + EPS * gradient(plain, start, lambda z: F.cross_entropy(z, y)).sign()).clamp(0, 1)
    assert (x_adv - x).abs().max() > 2 * EPS
    model, _ = one_update("n_fgsm", batch)
    same(model, stepped(plain, lambda: F.cross_entropy(plain(x_adv), y)))


def test_ard_with_noise_teaches_on_the_images_of_n_fgsm(batch):
    x, y = batch
    drawn = [Batch(network(), x, y, THREAT, torch.Generator().manual_seed(7)) for _ in range(2)]
    noisy, known = get_method("ard", steps=1, step=1.0, noise=2.0).defence, get_method("n_fgsm").defence
    assert torch.equal(noisy.examples(drawn[0]), known.examples(drawn[1]))
    with pytest.raises(InputError, match="steps=1"):
        get_method("ard", noise=2.0)


def test_fgsm_pgi_starts_where_earlier_gradients_led_and_holds_the_logits(batch):
    (x, y), rows, draw = batch, torch.tensor([3, 0, 1, 5, 2, 4]), torch.Generator().manual_seed(7)
    method, model = get_method("fgsm_pgi").begin(THREAT), network()
    optimizer = sgd(model)
    method(model, optimizer, x, y, generator=draw, samples=rows)
    plain, memory = copy.deepcopy(model), copy.deepcopy(method.memory)
    delta, momentum = (memory[name][rows].float() for name in ("delta", "momentum"))
    start = (x + delta * EPS).clamp(0, 1).requires_grad_()
    assert (start - x).abs().max() > 0.9 * EPS
    first = plain(start)
    (g,) = torch.autograd.grad(F.cross_entropy(first, y), start, retain_graph=True)

    def moved(direction):
        return torch.min(torch.max(start.detach() + EPS * direction.sign(), x - EPS), x + EPS).clamp(0, 1)

    def loss():
        second = plain(moved(g))
        return F.cross_entropy(second, y) + 10 * (second - first).square().mean()

    stepped(plain, loss)
    method(model, optimizer, x, y, generator=draw, samples=rows)
    same(model, plain)
    expected = moved(0.3 * momentum + g / g.abs().sum()) - x
    assert (method.memory["delta"][rows].float() * EPS - expected).abs().max() <= EPS / 256
    assert method.memory["uses"][:6].tolist() == [2] * 6
    again = get_method("fgsm_pgi").begin(THREAT)
    again.load_state_dict(copy.deepcopy(method.state_dict()))
    twin, other = copy.deepcopy(model), sgd(model)
    method(model, other, x, y, generator=torch.Generator().manual_seed(1), samples=rows)
    again(twin, sgd(twin), x, y, generator=torch.Generator().manual_seed(1), samples=rows)
    same(model, twin, 0)
    with pytest.raises(InputError, match="leave awp out"):
        get_method("fgsm_pgi", awp=0.01)


def test_fgsm_pgi_starts_anew_after_a_number_of_uses(batch):
    method, model, draw = get_method("fgsm_pgi", reset=2).begin(THREAT), network(), torch.Generator().manual_seed(7)
    momenta = []
    for _ in range(3):
        method(model, sgd(model), *batch, generator=draw)
        momenta.append(method.memory["momentum"][:6].float().abs().sum().item())
    assert momenta[1] > 1.05 * momenta[0]  # each gradient adds 1
    assert momenta[2] < 1.05


@pytest.mark.parametrize("awp", [0.0, 0.05])
def test_fgsm_rs_comes_first_and_pgd_with_perturbed_weights_after(batch, awp):
    for progress, name, options in (
        (0.0, "fgsm_rs", {}),
        (0.399, "fgsm_rs", {}),
        (0.4, "pgd_at", {"steps": 3, "step": 0.5, "awp": awp}),
        (1.0, "pgd_at", {"steps": 3, "step": 0.5, "awp": awp}),
    ):
        plain, _ = one_update(name, batch, progress=progress, warmup=0.2, **options)
        staged, _ = one_update(
            "fgsm_rs_then_pgd", batch, progress=progress, warmup=0.2, head_start=0.4, steps=3, step=0.5, awp=awp
        )
        same(staged, plain, tolerance=0)
    choice = get_method("fgsm_rs_then_pgd", head_start=0.4, steps=3, awp=awp)
    assert choice.passes == pytest.approx(0.4 * 2 + 0.6 * (4 + (awp > 0)))


def test_trades_update(batch):
    (x, y), plain = batch, network()
    with torch.no_grad():
        clean = copy.deepcopy(plain).eval()(x)
    x_adv = pgd(plain, x, near(x), lambda z: kl(clean, z) * len(x), steps=3)

    def loss():
        z, z_adv = plain(x), plain(x_adv)
        return F.cross_entropy(z, y) + 4 * kl(z, z_adv)

    model, _ = one_update("trades", batch, beta=4.0, steps=3)
    same(model, stepped(plain, loss))


def test_the_clean_prediction_is_copied_from_a_network_that_reuses_its_memory():
    """As a network that runs as a CUDA graph does: its next outputs lie where the last ones did."""

    class Reusing(nn.Module):
        kept = torch.zeros(2, 3)

        def forward(self, x):
            return self.kept.copy_(x)

    model, x = Reusing(), torch.rand(2, 3)
    first = eval_logits(model, x)
    eval_logits(model, x + 1)
    assert torch.equal(first, x)


def test_mart_update(batch):
    (x, y), plain = batch, network()
    x_adv = pgd(plain, x, near(x), lambda z: F.cross_entropy(z, y, reduction="sum"), steps=3)

    def loss():
        p, p_adv = plain(x).softmax(1), plain(x_adv).softmax(1)
        true, wrong = p_adv[range(6), y], (p_adv - 2 * F.one_hot(y, 3)).max(1).values
        hard = 1 - p[range(6), y]
        divergence = (p * (p.log() - p_adv.log())).sum(1)
        return (-true.log() - (1.0001 - wrong).log() + 5 * divergence * hard).mean()

    model, _ = one_update("mart", batch, steps=3)
    same(model, stepped(plain, loss))


def test_rslad_update(batch):
    (x, _), plain, teacher = batch, network(), network(seed=5).eval()
    soft = teacher(x).detach()
    x_adv = pgd(plain, x, near(x), lambda z: kl(soft, z) * len(x), steps=2)
    model, _ = one_update("rslad", batch, helpers=(teacher,), steps=2)
    same(model, stepped(plain, lambda: kl(soft, plain(x)) / 6 + 5 / 6 * kl(soft, plain(x_adv))))


@pytest.mark.parametrize(("xent", "logits"), [(0.005, 0.0), (0.1, 0.5)])
def test_rrm_matches_the_teachers_features_of_clean_images(batch, xent, logits):
    (x, y), plain, teacher = batch, network(), network(seed=2).eval()

    def cosine(a, b):
        return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean()

    def loss():
        own, theirs = plain[:4](x), teacher[:4](x).detach()
        match = 1 - cosine(own, theirs)
        return match + xent * F.cross_entropy(plain[4](own), y) + logits * kl(teacher(x).detach(), plain[4](own))

    model, metrics = one_update("rrm", batch, helpers=(teacher,), xent=xent, logits=logits)
    same(model, stepped(plain, loss))
    plain = network()
    assert metrics["loss"] == pytest.approx(float(loss().detach()) - 1, abs=1e-5)


def test_rrm_refuses_a_network_whose_logits_are_not_those_of_its_last_linear_layer(batch):
    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.unused = network(), nn.Linear(3, 3)

        def forward(self, x):
            return self.inner(x)

    probabilities = nn.Sequential(network(), nn.Softmax(1)).train()
    for model, teacher in ((Doubled().train(), network()), (probabilities, network()), (network(), probabilities)):
        with pytest.raises(InputError, match="last linear layer does not compute its logits"):
            one_update("rrm", batch, model, helpers=(teacher.eval(),))
    with pytest.raises(InputError, match="no linear layer"):
        get_method("rrm").begin(THREAT, (nn.Conv2d(1, 3, 8),))


def test_rrm_ends_with_images_of_one_step(batch):
    (x, y), plain, teacher = batch, network(), network(seed=2).eval()
    early = one_update("rrm", batch, helpers=(teacher,), finish=0.5, progress=0.4)[0]
    same(early, one_update("rrm", batch, helpers=(teacher,))[0])
    late = one_update("rrm", batch, helpers=(teacher,), finish=0.5, progress=0.6)[0]
    given = Batch(network(), x, y, THREAT, torch.Generator().manual_seed(7))
    x_adv = get_method("fgsm_rs").defence.examples(given)

    def loss():
        own, theirs = plain[:4](x_adv), teacher[:4](x).detach()
        return 0.005 * F.cross_entropy(plain[4](own), y) - F.cosine_similarity(own, theirs).mean()

    same(late, stepped(plain, loss))


def test_rrm_maps_features_of_another_length_into_the_last_layer(batch):
    def wide():
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)).train()

    teacher = network(seed=2).eval()
    method, again = (get_method("rrm").begin(THREAT, (teacher,)) for _ in range(2))
    draw, model = torch.Generator().manual_seed(7), wide()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    first = method(model, optimizer, *batch, generator=draw)
    product = method.mapping.classify.weight @ method.mapping.project.weight
    assert torch.equal(model[3].weight, product)
    with torch.no_grad():
        assert torch.allclose(model(batch[0]), method.mapping(model[:3](batch[0]))[1], atol=1e-5)
    twin, state = copy.deepcopy(model), copy.deepcopy(method.state_dict())
    twin_optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01)
    twin_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    again.load_state_dict(state)
    for _ in range(20):
        last = method(model, optimizer, *batch, generator=draw)
        again(twin, twin_optimizer, *batch, generator=draw)
    same(model, twin, 0)
    assert last["loss"] < first["loss"] - 0.1


def test_ensemble_crafts_on_every_source_and_keeps_the_clean_half(batch):
    (x, y), other = batch, network(seed=9).eval()
    seen = set()
    for seed in range(12):
        model, generator = network(), torch.Generator().manual_seed(seed)
        get_method("ensemble").begin(THREAT, (other,))(model, sgd(model), x, y, generator=generator)
        for source in (network(), other):
            plain = network()
            x_adv = (x + EPS * gradient(source, x, lambda z: F.cross_entropy(z, y)).sign()).clamp(0, 1)
            stepped(plain, lambda p=plain, a=x_adv: (F.cross_entropy(p(x), y) + F.cross_entropy(p(a), y)) / 2)
            if torch.allclose(model[0].weight, plain[0].weight, atol=1e-6):
                seen.add(source is other)
    assert seen == {True, False}


def test_free_replays_a_batch_and_carries_its_perturbation_over(batch):
    (x, y), plain = batch, network()
    optimizer, delta = sgd(plain), torch.zeros_like(x)
    for _ in range(6):  # two updates of three replays
        x_adv = (x + delta).clamp(0, 1).requires_grad_()
        optimizer.zero_grad()
        F.cross_entropy(plain(x_adv), y).backward()
        optimizer.step()
        delta = (delta + EPS * x_adv.grad.sign()).clamp(-EPS, EPS)
    model, method = network(), get_method("free", replays=3).begin(THREAT)
    for _ in range(2):
        method(model, sgd(model), x, y, generator=torch.Generator())
    same(model, plain)
    twin = get_method("free", replays=3).begin(THREAT)
    twin.load_state_dict(method.state_dict())
    assert torch.equal(twin.delta, delta)


def test_live_surrogate_trains_the_surrogate_and_has_a_state(batch):
    x, y = batch
    surrogate = network(seed=3)
    before = copy.deepcopy(surrogate.state_dict())
    method, model = get_method("live_surrogate", steps=2).begin(THREAT, (surrogate,)), network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    method(model, optimizer, x, y, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(before["0.weight"], surrogate.state_dict()["0.weight"])
    twin = get_method("live_surrogate", steps=2).begin(THREAT, (network(seed=4),))
    twin.load_state_dict(copy.deepcopy(method.state_dict()))
    copies = copy.deepcopy(model)
    theirs = torch.optim.AdamW(copies.parameters(), lr=0.01)
    theirs.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, net, opt in ((method, model, optimizer), (twin, copies, theirs)):
        each(net, opt, x, y, generator=torch.Generator().manual_seed(1))
    same(model, copies, tolerance=0)
    same(surrogate, twin.surrogate, tolerance=0)


def test_weights_are_perturbed_relative_to_their_norm_and_put_back(batch):
    (x, y), model = batch, network()
    before = copy.deepcopy(model.state_dict())
    weights = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    loss = F.cross_entropy(copy.deepcopy(model)(x), y)
    with worst_weights(model, lambda: F.cross_entropy(model(x), y), 0.05):
        for name, w in weights.items():
            assert (w.detach() - before[name]).norm().item() == pytest.approx(
                0.05 * before[name].norm().item(), rel=1e-4
            )
        assert F.cross_entropy(copy.deepcopy(model)(x), y) > loss
        assert torch.equal(model[1].weight, before["1.weight"]), "BatchNorm is left alone"
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_awp_steps_from_the_old_weights_with_the_worst_weights_gradient(batch):
    (x, y), plain = batch, network()
    x_adv = (x + EPS * gradient(plain, x, lambda z: F.cross_entropy(z, y)).sign()).clamp(0, 1)
    moved = copy.deepcopy(plain)
    F.cross_entropy(copy.deepcopy(plain).requires_grad_()(x_adv), y)
    weights = [p for p in moved.parameters() if p.ndim > 1]
    for w, g in zip(weights, torch.autograd.grad(F.cross_entropy(moved(x_adv), y), weights), strict=True):
        w.data += 0.05 * w.data.norm() / g.norm() * g
    F.cross_entropy(moved(x_adv), y).backward()
    for p, m in zip(plain.parameters(), moved.parameters(), strict=True):
        p.data -= 0.1 * m.grad
    model, _ = one_update("fgsm_rs", batch, step=1.0, random_start=False, awp=0.05)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-5)


def test_eps_grows_over_the_warm_up(batch):
    x, y = batch
    none, _ = one_update("fgsm_rs", batch, progress=0.0, warmup=0.5)
    clean = network()
    same(none, stepped(clean, lambda: F.cross_entropy(clean(x), y)))
    half, _ = one_update("fgsm_rs", batch, progress=0.25, warmup=0.5, step=1.0, random_start=False)
    plain = network()
    x_adv = (x + EPS / 2 * gradient(plain, x, lambda z: F.cross_entropy(z, y)).sign()).clamp(0, 1)
    same(half, stepped(plain, lambda: F.cross_entropy(plain(x_adv), y)))


def test_label_smoothing(batch):
    (x, y), plain = batch, network()
    x_adv = (x + EPS * gradient(plain, x, lambda z: F.cross_entropy(z, y)).sign()).clamp(0, 1)
    model, _ = one_update("fgsm_rs", batch, step=1.0, random_start=False, smoothing=0.2)
    same(model, stepped(plain, lambda: F.cross_entropy(plain(x_adv), y, label_smoothing=0.2)))


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_every_method_stays_in_the_ball_and_restores_the_network(name, batch):
    for norm in ("linf", "l2"):
        method, helper = get_method(name), network(seed=2).eval()
        model, threat = network(), Threat(norm, 0.3)
        before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        if isinstance(method.defence, Defence):
            given = Batch(model, *batch, threat, torch.Generator().manual_seed(0), (helper,))
            x_adv = method.defence.examples(given)
            moved = (x_adv - batch[0]).flatten(1).norm(dim=1, p=torch.inf if norm == "linf" else 2)
            assert 0.05 < moved.max() <= (0.9 if name == "n_fgsm" else 0.3) + 1e-5
            assert 0 <= x_adv.min() <= x_adv.max() <= 1
            assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
            assert all(p.grad is None and p.requires_grad for p in model.parameters())
        update = method.begin(threat, (helper,))
        metrics = update(model, sgd(model), *batch, generator=torch.Generator().manual_seed(0))
        assert set(metrics) >= {"loss", "accuracy"}
        assert model.training
        assert torch.equal(state, torch.get_rng_state())
        assert not torch.equal(before["0.weight"], model[0].weight)
        assert method.passes > 1


def test_passes_count_what_an_update_costs(batch):
    """Calls of the network, a gradient counting twice a call, are as `passes` says."""
    perturbed = [("ard", {"alpha": 0.8, "awp": 0.01}), ("trades", {"awp": 0.01}), ("fgsm_rs", {"awp": 0.01})]
    for name, options in [*((name, {}) for name in (*ADVERSARIAL, "gaussian")), *perturbed]:
        method = get_method(name, **options)
        model, helper, calls = network(), network(seed=2).eval(), [0]
        update, draw = method.begin(THREAT, (helper,)), torch.Generator().manual_seed(0)
        update(model, sgd(model), *batch, generator=draw)  # the first may look at the networks
        for each in (model, helper):
            each.register_forward_hook(lambda *_, c=calls: c.__setitem__(0, c[0] + 1))
        update(model, sgd(model), *batch, generator=draw)
        twice = 2 / 3 if name == "fgsm_pgi" else 0  # it goes back through its first pass twice
        # a forward pass without a gradient is a third: it rounds up to a call
        assert method.passes <= calls[0] + twice < method.passes + 2, name


def test_gaussian_training_is_cross_entropy_on_noisy_images(batch):
    (x, y), plain = batch, network()
    noise = Draws(x, torch.Generator().manual_seed(7)).normal(*x.shape[1:])
    model, metrics = one_update("gaussian", batch, sigma=0.5)
    noisy = x + 0.5 * noise
    assert noisy.min() < 0
    assert metrics["loss"] == pytest.approx(F.cross_entropy(copy.deepcopy(plain)(noisy), y).item(), abs=1e-6)
    same(model, stepped(plain, lambda: F.cross_entropy(plain(noisy), y)))
