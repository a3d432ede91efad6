"""What is traced is what the model computes, or it is refused in a line: writing in place, casts, chance, state."""

import copy

import pytest
import torch
import torch.nn.functional as F
from bounds_steps import SHAPE
from torch import nn

from inoculate.certification.bounds.graph import Graph
from inoculate.certification.bounds.margins import margin_bounds
from inoculate.certification.bounds.tracing import trace
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat


class Written(nn.Module):
    """A network of a function of itself and the images."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.last = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(144, 3)
            self.register_buffer("shift", torch.rand(4, 1, 1))
            self.register_buffer("count", torch.ones(()))

    def forward(self, x):
        found = self.function(self, x)
        return found if isinstance(found, dict) else self.last(found.flatten(1))


def found_of(function) -> Graph:
    model = Written(function).eval()
    before = copy.deepcopy(model.state_dict())
    graph = trace(model, SHAPE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "it is left as it was"
    x = torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(x.clone())
    logits = logits["logits"] if isinstance(logits, dict) else logits
    assert (graph.value(x.double()) - logits).abs().max() < 1e-6
    return graph


def on_a_copy(m, x):
    kept = m.conv(x)
    kept.clone().relu_()
    other = kept.clone().relu_()
    return kept + other


def on_the_copied(m, x):
    hidden = m.conv(x)
    kept = hidden.clone()
    hidden.relu_()
    return kept + hidden


def behind_dropout(m, x):
    hidden = m.conv(x)
    F.dropout(hidden, 0.5, m.training).relu_()
    return hidden


def on_a_view_that_is_all(m, x):
    return m.conv(x).flatten(1).relu_()


def on_one_of_two_names(m, x):
    hidden = kept = m.conv(x)
    hidden.detach().relu_()
    return kept + hidden


def like_the_images(m, x):
    return (x - m.shift.to(x)) / m.shift.type_as(x)


def beside_a_dead_branch(m, x):
    return {"logits": m.last(x.flatten(1)), "other": F.gelu(m.conv(x))}


def into_a_sum(m, x):
    total = m.shift.clone() + 0 * x
    total += m.conv(x)
    total -= x
    return total


@pytest.mark.parametrize(
    "function",
    [on_a_copy, on_the_copied, behind_dropout, on_a_view_that_is_all, on_one_of_two_names, like_the_images,
     beside_a_dead_branch, into_a_sum],
)  # fmt: skip
def test_the_graph_computes_what_the_model_does(function):
    found_of(function)


def through_a_view(m, x):
    hidden = m.conv(x)
    hidden.flatten(1).relu_()
    return hidden


def under_a_view(m, x):
    hidden = m.conv(x)
    flat = hidden.flatten(1)
    hidden.relu_()
    return flat


def into_a_part(m, x):
    hidden = m.conv(x)
    hidden[:, 0].relu_()
    return hidden


def over_a_part(m, x):
    hidden = m.conv(x)
    hidden[:, 0] = 0
    return hidden


def counting(m, x):
    m.count.add_(1)
    return x * m.count


def through_a_view_of_its_state(m, x):
    m.shift[0].mul_(2)
    return x * m.shift


def in_half_precision(m, x):
    with torch.autocast("cpu", torch.bfloat16):
        return m.conv(x).float()


def mean_in_half_precision(m, x):
    return x.mean((2, 3), keepdim=True, dtype=torch.bfloat16).float().expand(-1, -1, 6, 6)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (through_a_view, r"relu_\) \(it changes in place what is also read"),
        (under_a_view, r"relu_\) \(it changes in place what is also read"),
        (into_a_part, r"relu_\) \(it changes in place what is also read"),
        (over_a_part, "fill_"),
        (counting, "changes its own parameters or buffers"),
        (through_a_view_of_its_state, "changes its own parameters or buffers"),
        (lambda m, x: x + torch.randn(1, 4, 6, 6), r"randn\) \(it is random"),
        (lambda m, x: F.dropout(x, 0.5, True), r"dropout\) \(it is random"),
        (in_half_precision, "layer model"),
        (mean_in_half_precision, r"mean\) \(it computes in bfloat16"),
        (lambda m, x: (255 * x).int().float(), r"\(Written, to\)"),
        (lambda m, x: F.avg_pool2d(x, 1, divisor_override=-2), "avg_pool2d"),
        (lambda m, x: torch.addmm(m.last.bias, x.flatten(1), m.last.weight.T, beta=2).repeat(1, 48), "beta"),
        (lambda m, x: x.flip(0), "flip"),
        (lambda m, x: x - x.mean(0, keepdim=True), "mixes the images"),
        (lambda m, x: x.mul(x), "both depend on the image"),
        (lambda m, x: F.batch_norm(x, None, None, training=True), "statistics from the batch"),
        (lambda m, x: F.pad(x, (1, 1, 1, 1), "reflect")[..., :6, :6], "padding 'reflect'"),
        (lambda m, x: F.pad(x, (1, 1, 1, 1), value=0.5)[..., :6, :6], "padding 'constant' with 0.5"),
    ],
)  # fmt: skip
def test_what_is_not_followed_is_refused(function, words):
    model = Written(function).eval()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=words) as raised:
        trace(model, SHAPE)
    assert "\n" not in str(raised.value)
    if words != "changes its own parameters or buffers":  # which it does whenever it runs
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_margins_need_the_weights_as_they_are():
    graph, x = found_of(like_the_images), torch.rand(2, *SHAPE)
    with pytest.raises(InputError, match="float32"):
        margin_bounds(graph.to(torch.float32), x, torch.tensor([0, 1]), Threat())


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("method", ["ibp", "crown-ibp", "crown"])
def test_weights_that_are_not_finite_prove_nothing(value, method):
    model = Written(lambda m, x: F.max_pool2d(m.conv(x).relu(), 2).repeat(1, 1, 2, 2))
    with torch.no_grad():
        model.conv.weight[0, 0] = value
    graph, x = trace(model.eval(), SHAPE), torch.rand(2, *SHAPE)
    found = margin_bounds(graph, x.double(), torch.tensor([0, 1]), Threat("linf", 0.1), method)
    assert not (found > 0).any()


def test_a_model_in_float64_is_traced_as_it_is():
    model, x = Written(like_the_images).eval().double(), torch.rand(2, *SHAPE).double()
    assert (trace(model, SHAPE).value(x) - model(x)).abs().max() < 1e-12
