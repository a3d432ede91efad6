"""Bounds: closed forms on linear models, exact programs on tiny networks, other libraries, and what is refused."""

import pytest
import timm
import torch
import torchvision
from bounds_samples import SHAPE, exact_margins, random_network
from torch import nn

from inoculate.certification.bounds.margins import interval_bounds, margin_bounds
from inoculate.certification.bounds.region import Region
from inoculate.certification.bounds.tracing import trace
from inoculate.core.errors import InputError
from inoculate.core.rng import Draws
from inoculate.core.threat import Threat, sample
from inoculate.models.normalize import normalized

METHODS = ("ibp", "crown-ibp", "crown")


def images(count, seed=0, shape=SHAPE):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def linear(weight, bias):
    last = nn.Linear(len(weight), 2)
    with torch.no_grad():
        last.weight[:] = torch.stack([torch.tensor(weight), torch.zeros(len(weight))])
        last.bias[:] = torch.tensor([bias, 0.0])
    return nn.Sequential(nn.Flatten(), last)


@pytest.mark.smoke
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("norm", "eps", "pixels", "fall"),
    [
        ("linf", 0.1, (0.5, 0.5), 0.1 * 7),
        ("l2", 0.25, (0.5, 0.5), 0.25 * 5),
        ("l1", 0.25, (0.5, 0.5), 0.25 * 4),
        ("linf", 0.25, (0.0, 0.5), 0.25 * 4),  # the wall
        ("l2", 0.5, (0.0, 0.5), 0.5 * 4),
        ("l2", 0.25, (0.1, 0.5), 0.1 * 3 + (0.25**2 - 0.1**2) ** 0.5 * 4),
        ("l1", 0.3, (0.5, 0.2), 0.2 * 4 + 0.1 * 3),
        ("l1", 9.0, (0.5, 0.2), 0.2 * 4 + 0.5 * 3),
        ("l2", 9.0, (0.5, 0.2), 0.2 * 4 + 0.5 * 3),
        ("l2", 0.0, (0.5, 0.2), 0.0),
    ],
)
def test_a_linear_model_has_its_exact_margin(method, norm, eps, pixels, fall):
    x = torch.tensor(pixels).view(1, 1, 1, 2).double()
    graph = trace(linear([3.0, 4.0], 1.0), (1, 1, 2))
    found = margin_bounds(graph, x, torch.tensor([0]), Threat(norm, eps), method)
    assert found.tolist() == [[0.0, pytest.approx(3 * pixels[0] + 4 * pixels[1] + 1 - fall, abs=1e-6)]]


def test_the_least_value_of_a_linear_function_is_that_of_a_solver():
    from scipy.optimize import linprog, minimize

    x, weight = images(1, 3), torch.randn(1, 1, *SHAPE)
    region = Region.of(x.double(), Threat("l1", 2.0))
    a = weight.flatten().double().numpy()
    walls = list(zip(region.below.flatten().tolist(), region.above.flatten().tolist(), strict=True))
    parts = [(0, high) for _, high in walls] + [(0, -low) for low, _ in walls]
    by_program = linprog([*a, *-a], [[1.0] * 50], [2.0], bounds=parts).fun
    assert region.least(weight.double()).item() == pytest.approx(by_program, abs=1e-7)
    region = Region.of(x.double(), Threat("l2", 0.9))
    constraint = {"type": "ineq", "fun": lambda d: 0.81 - d @ d, "jac": lambda d: -2 * d}
    start = sample(x, Threat("l2", 0.5), Draws(x, torch.Generator().manual_seed(0))) - x
    by_search = minimize(
        lambda d: a @ d, start.flatten().double().numpy(), jac=lambda d: a, bounds=walls, constraints=constraint,
        options={"maxiter": 500, "ftol": 1e-12},
    )  # fmt: skip
    assert by_search.success
    assert region.least(weight.double()).item() == pytest.approx(by_search.fun, abs=1e-6)


def test_a_mask_leaves_the_other_pixels_alone():
    mask = torch.zeros(1, 2)
    mask[0, 1] = 1
    graph, x = trace(linear([3.0, 4.0], 1.0), (1, 1, 2)), torch.tensor([0.5, 0.5]).view(1, 1, 1, 2)
    for norm in ("linf", "l2", "l1"):
        found = margin_bounds(graph, x.double(), torch.tensor([0]), Threat(norm, 0.1, mask=mask))
        assert found[0, 1].item() == pytest.approx(4.5 - 0.4, abs=1e-6)


def require_sound(seed, points):
    model = random_network(seed)
    graph = trace(model, SHAPE)
    x, threat = images(points, seed), Threat("linf", 0.02 + 0.03 * (seed % 5))
    with torch.no_grad():
        logits = model(x)
        assert (graph.value(x.double()) - logits).abs().max() < 1e-5
    y = logits.argmax(1)
    found = [margin_bounds(graph, x.double(), y, threat, method) for method in METHODS]
    quick = margin_bounds(graph, x, y, threat)
    assert (quick <= found[0] + 1e-9).all()
    assert (quick >= found[0] - 1e-3 * (1 + found[0].abs())).all()
    assert (found[0] <= found[1]).all()
    assert (found[1] <= found[2]).all()
    for row in range(points):
        exact = exact_margins(graph, x[row : row + 1], int(y[row]), threat)
        assert (found[2][row] <= exact + 1e-5 * (1 + exact.abs())).all(), (seed, row, found[2][row], exact)
    return found, x, y


@pytest.mark.parametrize("seed", range(4))
def test_bounds_lie_below_the_exact_margins(seed):
    found, *_ = require_sound(seed, 2)
    assert (found[2] > found[0] + 1e-6).any(), "linear bounds are tighter somewhere"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_bounds_lie_below_the_exact_margins_of_a_hundred_networks(seed):
    require_sound(seed, 20)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5), ("l1", 1.5)])
def test_no_point_of_a_ball_leaves_the_bounds(norm, eps, seed):
    model, threat = random_network(seed), Threat(norm, eps)
    graph, x = trace(model, SHAPE), images(3, seed)
    y = model(x).argmax(1)
    bounds = torch.stack([margin_bounds(graph, x.double(), y, threat, method) for method in METHODS])
    low, high = interval_bounds(graph.to(torch.float32), x, threat)
    draws, best = Draws(x, torch.Generator().manual_seed(seed)), x
    for _ in range(100):
        with torch.no_grad():
            near = sample(x, threat, draws)
            logits = torch.stack([model(near), model(best)])
        margins = logits.gather(2, y.expand(2, -1)[..., None]) - logits
        assert (margins >= bounds.amax(dim=0)).logical_or(margins == 0).all()
        assert (logits >= low).all()
        assert (logits <= high).all()
        worse = (margins[0].sort(1).values[:, 0] < margins[1].sort(1).values[:, 0]).view(-1, 1, 1, 1)
        best = torch.where(worse, near, best)


def test_the_box_alone_is_no_bound_in_l2():
    """The intervals of the first layer know the length of its weights: far tighter than the box around the ball."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(400, 4), nn.ReLU(), nn.Linear(4, 3))
    graph, x = trace(model, (1, 20, 20)), images(1, shape=(1, 20, 20)) * 0.2 + 0.4
    y = model(x).argmax(1)
    threats = [Threat("linf", 0.0), *(Threat(norm, 0.05) for norm in ("l1", "l2", "linf"))]
    clean, l1, l2, linf = (-margin_bounds(graph, x.double(), y, each).sum().item() for each in threats)
    assert 0 < l1 - clean < l2 - clean < (linf - clean) / 8


def test_bounds_hold_for_the_rounding_of_float32():
    """A layer whose terms cancel: float32 is off by far more than the bounds are wide."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        model[1].weight[:] = torch.tensor([1e4, -1e4]).repeat(32)
        model[3].weight[:] = torch.tensor([[1.0], [-1.0]])
        model[3].bias.zero_()
    x = images(50, shape=(1, 8, 8))
    x[..., 1::2] = x[..., ::2]
    low, high = interval_bounds(trace(model, (1, 8, 8)).to(torch.float32), x, Threat("linf", 0.0))
    logits, exact = model(x), model.double()(x.double())
    assert (exact.abs() > 0).any() or (logits != exact).any()
    for each in (logits, exact):
        assert (low <= each).all()
        assert (each <= high).all()


@pytest.mark.parametrize(
    "build", [lambda: torchvision.models.resnet18(num_classes=10), lambda: timm.create_model("resnet18", num_classes=4)]
)
def test_resnets_are_bounded_as_they_are(build):
    model = normalized(build().eval(), (0.5, 0.4, 0.3), (0.2, 0.3, 0.2)).eval()
    graph, x = trace(model, (3, 32, 32)), images(2, shape=(3, 32, 32))
    with torch.no_grad():
        logits = model(x)
    low, high = interval_bounds(graph, x.double(), Threat("linf", 0.0))
    scale = logits.abs().max()
    assert (low <= logits + 1e-4 * scale).all()
    assert (logits <= high + 1e-4 * scale).all()
    wide = interval_bounds(graph, x.double(), Threat("linf", 1e-5))
    assert (wide[0] < low).all()
    assert wide[1].isfinite().all()
    found = margin_bounds(graph, x.double(), logits.argmax(1), Threat("linf", 1e-5), "crown-ibp")
    assert found.isfinite().all()


class Forms(nn.Module):
    """Steps that are written in many ways."""

    def __init__(self):
        super().__init__()
        self.conv, self.scale = nn.Conv2d(2, 4, 3, padding="same"), nn.Parameter(torch.rand(4, 1, 1) - 0.5)
        self.last = nn.Linear(4 * 9 + 4, 3)

    def forward(self, x):
        if x.shape[1] == 1:  # as a grey image comes into a network of more channels
            x = x.repeat(1, 2, 1, 1)
        x = (2 * x - 0.5) / 0.5
        x = torch.nn.functional.pad(x, (1, 0, 1, 0))
        hidden = torch.tanh(self.conv(x)) * self.scale
        hidden = 1 - hidden.permute(0, 1, 3, 2)
        top, mean = torch.amax(hidden, (2, 3)), nn.functional.avg_pool2d(hidden, 2)
        flat = torch.cat([mean.contiguous().view(x.size(0), -1), top], dim=1)
        return {"logits": self.last(nn.functional.dropout(flat, training=self.training))}


def test_steps_may_be_written_in_many_ways():
    model = Forms().train()
    graph, x, threat = trace(model, SHAPE), images(4), Threat("l2", 0.3)
    assert model.training, "the model is left as it was"
    with torch.no_grad():
        logits = model.eval()(x)["logits"]
    assert torch.allclose(graph.value(x.double()).float(), logits, atol=1e-5)
    draws, y = Draws(x, torch.Generator().manual_seed(0)), logits.argmax(1)
    bounds = [margin_bounds(graph, x.double(), y, threat, method) for method in METHODS]
    for _ in range(50):
        near = model(sample(x, threat, draws))["logits"]
        assert all((near.gather(1, y[:, None]) - near >= bound - 1e-6).all() for bound in bounds)


class InPlace(nn.Module):
    """What is kept beside a ReLU in place is its output; the input is edited too."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.last = nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1), nn.Linear(18, 3)

    def forward(self, x):
        x.sub_(0.5)
        hidden = kept = self.one(x)
        hidden.relu_()
        return self.last((kept + self.two(hidden)).flatten(1))


def test_steps_in_place_change_what_is_kept():
    model, x = InPlace().eval(), images(4)
    with torch.no_grad():
        model.one.bias.fill_(0.1)
        logits = model(x.clone())
    graph = trace(model, SHAPE)
    assert torch.allclose(graph.value(x.double()).float(), logits, atol=1e-6)
    low, high = interval_bounds(graph, x.double(), Threat("linf", 0.0))
    assert torch.allclose(low, high, atol=1e-9)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.GELU(), r"1 \(GELU, gelu\)"),
        (nn.LayerNorm([2, 5, 5]), r"1 \(LayerNorm, layer_norm\)"),
        (nn.Softmax(1), r"1 \(Softmax, softmax\)"),
        (nn.BatchNorm2d(2, track_running_stats=False), r"1 \(BatchNorm2d, batch_norm\).*statistics from the batch"),
    ],
)
def test_a_layer_without_bounds_is_named(layer, words):
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), layer, nn.Flatten(), nn.Linear(50, 3)).eval()
    with pytest.raises(InputError, match=words) as raised:
        trace(model, SHAPE)
    assert "\n" not in str(raised.value)


def test_what_cannot_be_bounded_is_refused():
    graph, x, y = trace(random_network(0), SHAPE), images(1).double(), torch.tensor([0])
    with pytest.raises(InputError, match="not l0"):
        margin_bounds(graph, x, y, Threat("l0", 3))
    with pytest.raises(InputError, match="method"):
        margin_bounds(graph, x, y, Threat(), "crwon")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="outside the valid range"):
        margin_bounds(graph, x, y, Threat("linf", 0.1, low=0.4, high=0.6))
    with pytest.raises(InputError, match="float32"):
        trace(random_network(1).half(), SHAPE)
    with pytest.raises(InputError, match="does not take"):
        trace(random_network(1), (3, 8, 8))


def unrolled(model):
    """A chain as linear layers, which is all that the other library knows."""
    found, shape = [], SHAPE
    for layer in model:
        inside = torch.eye(int(torch.Size(shape).numel())).view(-1, *shape)
        if isinstance(layer, nn.ReLU):
            found.append(layer)
            continue
        with torch.no_grad():
            base = layer(torch.zeros(1, *shape))
            dense = nn.Linear(len(inside), base.numel())
            dense.weight[:], dense.bias[:] = (layer(inside).flatten(1) - base.flatten(1)).T, base.flatten()
        found.append(dense)
        shape = tuple(base.shape[1:])
    return nn.Sequential(*found)


def test_bounds_equal_those_of_bound_propagation():
    library = pytest.importorskip("bound_propagation", reason="bound-propagation is not installed")
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2, 1), nn.Flatten(),
        nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 4),
    ).eval()  # fmt: skip
    torch.nn.init.uniform_(model[1].running_mean, -1, 1)
    graph, x, eps = trace(model, SHAPE), images(6) * 0.8 + 0.1, 0.08
    low, high = interval_bounds(graph, x.double(), Threat("linf", eps))
    theirs = library.BoundModelFactory().build(unrolled(model))
    region = library.HyperRectangle.from_eps(x.flatten(1), eps)
    bounds = theirs.ibp(region)
    assert torch.allclose(bounds.lower, low.float(), atol=1e-4)
    assert torch.allclose(bounds.upper, high.float(), atol=1e-4)
    last = nn.Sequential(*unrolled(model)[:-1], nn.Linear(8, 4))
    y = torch.zeros(len(x), dtype=torch.int64)
    with torch.no_grad():
        weight, bias = model[-1].weight, model[-1].bias
        last[-1].weight[:], last[-1].bias[:] = weight[:1] - weight, bias[:1] - bias
    best = library.BoundModelFactory().build(last).ibp(region).lower
    for method in ("crown_ibp", "crown"):  # ours is the best of all so far
        theirs = library.BoundModelFactory(adaptive_relu=True).build(last)
        best = torch.maximum(best, getattr(theirs, method)(region).concretize().lower)
        ours = margin_bounds(graph, x.double(), y, Threat("linf", eps), method.replace("_", "-"))
        assert torch.allclose(best[:, 1:], ours[:, 1:].float(), atol=1e-4)


class Shallow(nn.Module):
    """The order of layers that ART knows; it flattens between the first two of them by itself."""

    def __init__(self):
        super().__init__()
        self.conv, self.one, self.dense = nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Linear(16, 6)
        self.two, self.last = nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(self.two(self.dense(self.one(self.conv(x)).flatten(1))))


@pytest.mark.filterwarnings("ignore")
def test_intervals_equal_those_of_art():
    library = pytest.importorskip("art.estimators.certification.interval", reason="ART is not installed")
    model = Shallow().eval()
    theirs = library.PyTorchIBPClassifier(
        model, nb_classes=3, input_shape=SHAPE, loss=nn.CrossEntropyLoss(), clip_values=(0, 1), device_type="cpu"
    )
    x, eps = images(5) * 0.8 + 0.1, 0.05
    ends = torch.stack([x - eps, x + eps], dim=1).numpy()
    found = torch.as_tensor(theirs.predict_intervals(ends, is_interval=True))
    low, high = interval_bounds(trace(model, SHAPE), x.double(), Threat("linf", eps))
    assert torch.allclose(found[:, 0], low.float(), atol=1e-4)
    assert torch.allclose(found[:, 1], high.float(), atol=1e-4)
