"""In whatever form a network is brought, its numbers are its own, and everything stays as it was."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model_forms import FORMS, ROUNDED, Body, CallableObject, Checkpointed, OwnTrain, Returns, Takes, body, quarters
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.base import Attack
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.fmn import FMN
from inoculate.attacks.pgd import PGD
from inoculate.attacks.square import Square
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.minimal_eps import minimal_eps
from inoculate.evaluation.result import Evaluation
from inoculate.evaluation.transfer import transfer
from inoculate.models.acceleration.fast import fast
from inoculate.models.loading.load import load_model

THREAT = Threat("linf", 0.04)
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*(torch.jit|weight_norm|torch.ao.quantization|quantize).*"),
    pytest.mark.filterwarnings("ignore:.*autograd kernel was not registered.*"),
]


def measure(model: Any, precision: str = "fast", data: Dataset | None = None, **attacks: Attack) -> Evaluation:
    options = EvaluationOptions(precision=precision, checks=False)  # type: ignore[arg-type]
    named = attacks or {"fgsm": FGSM(), "pgd": PGD(steps=2, step=0.8)}
    return evaluate(model, data or quarters(), named, [THREAT], options=options)


def right(found: Evaluation) -> list[int]:
    return [row.correct for row in found.rows]


@functools.cache
def expected() -> list[int]:
    """The network's own numbers: clean, FGSM and PGD."""
    found = right(measure(body(), "exact"))
    assert found[0] == 47
    assert max(found[1:]) < 40
    return found


def state(model: Any) -> list[Any]:
    """What no measurement may change. A model's own counters are its own."""
    modules = model.modules() if isinstance(model, nn.Module) else []
    found: list[Any] = [torch.get_rng_state().tolist(), str(random.getstate()), str(np.random.get_state())]
    for module in modules:
        found += [type(module), getattr(module, "training", False), getattr(module, "noise", None)]
        found += [len(module._forward_hooks), len(module._forward_pre_hooks)]
        found += [(p.requires_grad, p.grad, p.sum().item()) for p in module.parameters(recurse=False)]
        found += [b.sum().item() for name, b in module.named_buffers(recurse=False) if name != "calls"]
    return found


@pytest.mark.parametrize("form", FORMS)
def test_numbers_are_the_networks_own(form: str) -> None:
    model = FORMS[form]()
    before, images = state(model), quarters().images.clone()
    for precision in ("fast", "exact"):
        assert right(measure(model, precision)) == expected(), precision
    assert torch.equal(images, quarters().images)
    assert str(state(model)) == str(before)


@pytest.mark.parametrize("form", FORMS)
def test_direct_call_equals_that_on_the_network(form: str) -> None:
    x, y = quarters().images[:8] / 255, quarters().labels[:8]
    model, given = FORMS[form](), x.clone()
    before = state(model)
    want = PGD(steps=2)(body(), x, y, THREAT)
    for tested in (model, fast(model)):
        got = PGD(steps=2)(tested, given, y, THREAT)
        assert float((got - want).abs().gt(1e-5).float().mean()) < 0.01  # rounding may turn the sign of a gradient
    assert torch.equal(given, x)
    assert str(state(model)) == str(before)


@pytest.mark.parametrize("form", ROUNDED)
def test_bfloat16_is_the_same_on_both_paths(form: str) -> None:
    found = [right(measure(ROUNDED[form](), precision)) for precision in ("fast", "exact")]
    assert found[0] == found[1]
    assert max(abs(a - b) for a, b in zip(found[0], expected(), strict=True)) <= 2


@pytest.mark.parametrize(
    "context", [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_context_of_the_caller_changes_nothing(context: Callable[[], Any]) -> None:
    model = body()
    with context():
        for precision in ("fast", "exact"):
            assert right(measure(model, precision)) == expected()


def test_model_built_by_name_under_inference_mode() -> None:
    with torch.inference_mode():
        model = load_model("small_cnn", quarters())
        rows = measure(model, pgd=PGD(steps=1)).rows
    assert len(rows) == 2


def test_other_jobs_take_every_form() -> None:
    for form in ("dict in a tuple", "lambda", "script", "own train"):
        rows = transfer({"a": FORMS[form](), "b": body()}, quarters(), PGD(steps=2), [THREAT]).rows
        assert rows[0].correct == rows[1].correct == 47
        assert len({row.correct for row in rows[2:]}) == 1, form
        nearest = minimal_eps(FORMS[form](), quarters(), FMN(steps=3), Threat(eps=0.2))
        torch.testing.assert_close(nearest, minimal_eps(body(), quarters(), FMN(steps=3), Threat(eps=0.2)))


def test_what_is_used_as_logits_is_said() -> None:
    for form, said in (
        ("out in a dict", "(output['aux'] is B×3×8×8, output['out'] is B×4): output['out'] is used as the logits"),
        ("tuple that starts with None", "output[1] is used as the logits"),
        ("dict in a tuple", "output[0]['logits'] is used as the logits"),
        ("dataclass", "output.logits is used as the logits"),
    ):  # fmt: skip
        (warning,) = measure(FORMS[form](), pgd=PGD(steps=1)).warnings
        assert said in warning


# --- declared outputs ---------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[Tensor], Any]] = {
    "probabilities": lambda z: z.softmax(1),
    "log-probabilities": lambda z: z.log_softmax(1),
    "sigmoid": lambda z: z.sigmoid(),
    "background-first": lambda z: torch.cat([z.amax(1, keepdim=True) + 1, z], dim=1),
    "background-last": lambda z: torch.cat([z, z.amax(1, keepdim=True) + 1], dim=1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", [False, True])
def test_declared_outputs_give_the_networks_numbers(kind: str, packed: bool) -> None:
    def pack(z: Tensor, x: Tensor) -> Any:
        return {"logits": KINDS[kind](z)} if packed else KINDS[kind](z)

    for precision in ("fast", "exact"):
        found = measure(load_model(Returns(pack), outputs=kind), precision)
        # float32 keeps few digits of a probability near 1, so that a step of PGD may have another sign
        assert max(abs(a - b) for a, b in zip(right(found), expected(), strict=True)) <= (kind == "sigmoid")
        assert found.warnings == []


def test_undeclared_outputs_are_named() -> None:
    for kind, said in (
        ("probabilities", "weak and flatter"),
        ("log-probabilities", "serve as logits"),
        ("sigmoid", ""),
    ):
        (warning,) = measure(Returns(lambda z, x, kind=kind: KINDS[kind](z)), pgd=PGD(steps=1)).warnings  # type: ignore[misc]
        assert f"--outputs {kind}" in warning
        assert said in warning
    for kind in ("background-first", "background-last"):
        with pytest.raises(InputError, match=rf"--outputs {kind}.* \(right on 98% of 48 images"):
            measure(Returns(lambda z, x, kind=kind: KINDS[kind](z)))  # type: ignore[misc]


def test_two_classes_in_one_number() -> None:
    data = Dataset.from_tensors(quarters().images, (quarters().labels == 0).long(), classes="ab")

    def two(z: Tensor, x: Tensor) -> Tensor:
        return torch.stack([z[:, 1:].logsumexp(1), z[:, 0]], dim=1)

    want = right(measure(Returns(two), "exact", data))
    for pack, kind in (
        (lambda z, x: two(z, x).diff(dim=1), "single-logit"),
        (lambda z, x: two(z, x).diff(dim=1).squeeze(1), "single-logit"),
        (lambda z, x: two(z, x).diff(dim=1).sigmoid(), "probabilities"),
    ):
        for call in (measure, lambda model, data: PGD()(model, data.images / 255, data.labels, THREAT)):
            with pytest.raises(InputError, match=f"--outputs {kind}"):
                call(Returns(pack), data=data)  # type: ignore[arg-type]
        for precision in ("fast", "exact"):
            assert right(measure(load_model(Returns(pack), outputs=kind), precision, data)) == want


# --- what cannot be measured --------------------------------------------------------------------------------------


class Decorated(nn.Module):
    """Its forward runs under a context that stops gradients."""

    def __init__(self, context: Any) -> None:
        super().__init__()
        self.inner, self.context = body(), context

    def forward(self, x: Tensor) -> Tensor:
        with self.context():
            z: Tensor = self.inner(x)
        return z


class Lazy(nn.Module):
    """A layer that has seen no image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.layer(x.flatten(1))
        return z


def needs_sixteen(x: Tensor) -> Tensor:
    assert len(x) == 16, "this model takes 16 images"
    return x


def under_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return Body()


def no_gradient(x: Tensor) -> Tensor:
    return torch.from_numpy(x.detach().numpy().copy())


def returns(pack: Callable[[Tensor], Any]) -> Callable[[], nn.Module]:
    return lambda: Returns(lambda z, x: pack(z)).eval()


def raises(*lines: str) -> Any:
    raise RuntimeError("\n".join(lines))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "nothing": (returns(lambda z: None), "returns NoneType, not a tensor"),
    "text": (returns(lambda z: "cat"), "returns str, not a tensor"),
    "scores in a dict": (returns(lambda z: {"scores": z}), r"returns dict.*\(output\['scores'\] is B×4\)"),
    "numpy": (returns(lambda z: z.detach().numpy()), "returns ndarray, not a tensor"),
    "class numbers": (returns(lambda z: z.argmax(1)), "gives labels only"),
    "one-hot": (returns(lambda z: F.one_hot(z.argmax(1), 4)), "returns int64 numbers, not logits"),
    "booleans": (returns(lambda z: z > 0), "returns bool numbers, not logits"),
    "complex": (returns(lambda z: z.to(torch.complex64)), "returns complex64 numbers, not logits"),
    "sparse": (returns(lambda z: z.to_sparse()), "returns sparse_coo numbers, not logits"),
    "maps": (returns(lambda z: z[:, :, None, None]), r"outputs of shape \(\d+, 4, 1, 1\)"),
    "transposed": (returns(lambda z: z.T), r"outputs of shape \(4, \d+\) for"),
    "loss": (returns(lambda z: (z.sum(), z)), r"shape \(\).*output\[0\] is a single number, output\[1\] is B×4"),
    "image by image": (returns(list), r"outputs of shape \(4,\) for"),
    "in-place edit of a result": (
        lambda: Returns(lambda z, x: (z, x.zero_())).eval(), "gradient of the model cannot be computed"
    ),
    "reentrant checkpoint": (lambda: Checkpointed(True).eval(), "cannot be computed .*use_reentrant"),
    "no_grad": (lambda: Decorated(torch.no_grad).eval(), "attack it with square"),
    "inference_mode": (lambda: Decorated(torch.inference_mode).eval(), "attack it with square"),
    "detached": (returns(lambda z: z.detach()), "attack it with square"),
    "through numpy": (lambda: Takes(no_gradient).eval(), "attack it with square"),
    "integers inside": (lambda: Takes(lambda x: (x * 255).long().float() / 255).eval(), "attack it with square"),
    "bytes inside": (lambda: Takes(lambda x: (x * 255).to(torch.uint8) / 255).eval(), "attack it with square"),
    "quantised": (
        lambda: torch.ao.quantization.quantize_dynamic(body(), {nn.Linear}), "attack it with square"
    ),
    "lazy": (lambda: Lazy().eval(), "lazy layer"),
    "meta": (lambda: Body().to("meta"), "meta device"),
    "made under inference_mode": (under_inference_mode, "made under torch.inference_mode"),
    "fixed batch": (lambda: Takes(needs_sixteen).eval(), "this model takes 16 images"),
    "wrong channels": (lambda: nn.Conv2d(1, 4, 8), "does not take 3×8×8 images"),
    "several lines": (returns(lambda z: raises("first", "second")), "does not take 3×8×8 images .first."),
    "without forward": (nn.Module, "missing the required"),
    "a class": (lambda: Body, "is the class Body: give an object"),
    "a state dict": (lambda: body().state_dict(), "model is OrderedDict"),
    "None": (lambda: None, "model is NoneType"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_in_one_line_by_every_job(kind: str) -> None:
    make, said = REFUSED[kind]
    x, y = quarters().images[:6] / 255, quarters().labels[:6]
    jobs: list[Callable[[], object]] = [
        lambda: measure(make(), "fast"),
        lambda: measure(make(), "exact"),
        lambda: PGD(steps=1)(make(), x, y, THREAT),
        lambda: PGD(steps=1)(fast(make()), x, y, THREAT),
        lambda: minimal_eps(make(), quarters(), FMN(steps=1)),
    ]
    for job in jobs:
        with pytest.raises(InputError, match=said) as caught:
            job()
        assert "\n" not in str(caught.value)


def test_labels_that_the_model_does_not_have() -> None:
    x, y = quarters().images[:6] / 255, quarters().labels[:6]
    for attack in (PGD(steps=1), FGSM(), Square(queries=2)):
        with pytest.raises(InputError, match=r"label 2 of image 2 must be in 0\.\.1, the 2 outputs of the model"):
            attack(Returns(lambda z, x: z[:, :2]), x, y, THREAT)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_outputs_that_are_not_finite(value: float) -> None:
    def spoiled(z: Tensor, x: Tensor) -> Tensor:
        return z + value

    for job in (measure, lambda model: minimal_eps(model, quarters(), FMN(steps=1))):
        with pytest.raises(InputError, match="not finite on all of 48 clean images"):
            job(Returns(spoiled))
    sixth = quarters().images[5] / 255
    one = Returns(lambda z, x: torch.where((x == sixth).flatten(1).all(1)[:, None], value, z))
    found = measure(one, pgd=PGD(steps=1))
    assert found.rows[0].correct == 46
    (warning,) = found.warnings
    assert "on 1 of 48 clean images (the first is image 5) are not finite: they count as errors" in warning


def test_logarithm_of_rounded_probabilities() -> None:
    naive = Returns(lambda z, x: (400 * z).softmax(1).log())
    with pytest.raises(InputError, match=r"logarithms of probabilities, some 0.*--outputs log-probabilities"):
        measure(naive)
    assert measure(load_model(naive, outputs="log-probabilities"), pgd=PGD(steps=1)).rows[0].correct == 47


# --- numbers that flatter -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda z, x: z * 10_000, "its logits are saturated.*attack it with autoattack as well"),
        (lambda z, x: z * 0, "same outputs for all 48 sample images"),
    ],
)
def test_outputs_without_a_gradient_are_named(change: Callable[[Tensor, Tensor], Tensor], said: str) -> None:
    found = measure(Returns(change), fgsm=FGSM())
    assert found.rows[0].correct == found.rows[1].correct  # the number that flatters
    assert re.search(said, found.warnings[0])


def test_rounding_inside_is_named() -> None:
    (warning,) = measure(Takes(lambda x: (x * 255).round() / 255), fgsm=FGSM()).warnings
    assert "no gradient on 8 of 8 sample images (something in it rounds" in warning
    assert "square" in warning


def noisy(scale: float) -> nn.Module:
    return Returns(lambda z, x: z + scale * torch.randn_like(z)).eval()


def test_random_model_is_judged_over_several_passes() -> None:
    """One pass is right on about 43 of 48 images; judging each anew would lose some of them at eps 0."""
    before = torch.get_rng_state()
    drops = Returns(lambda z, x: F.dropout(z, 0.2, training=True)).eval()
    for model, precision in ((noisy(2.0), "fast"), (drops, "exact")):
        options = EvaluationOptions(precision=precision, checks=False)  # type: ignore[arg-type]
        attacks = {"rand": AutoAttack("rand", steps=1), "pgd": PGD(steps=1)}
        found = evaluate(model, quarters(), attacks, [Threat(eps=0.0)], options=options)
        clean, *attacked = right(found)
        assert clean >= 46
        assert min(attacked) >= clean - 2
        (warning,) = found.warnings
        assert "predictions are random" in warning
        assert "mean of 20 passes" in warning
    assert torch.equal(before, torch.get_rng_state())


def test_attack_on_a_random_model_does_not_stop_at_the_first_crossing() -> None:
    stops = [right(measure(noisy(4.0), precision, pgd=PGD(steps=4)))[1] for precision in ("fast", "exact")]
    assert stops[0] == stops[1]


# --- copies -------------------------------------------------------------------------------------------------------


def in_place(net: Body) -> None:
    with torch.no_grad():
        net.head.weight.neg_()


def through_data(net: Body) -> None:
    net.head.weight.data.copy_(net.head.weight.data.roll(1, 0))


def replaced(net: Body) -> None:
    net.head = nn.Linear(128, 4)


def loaded(net: Body) -> None:
    net.load_state_dict({name: value.flip(0) if value.ndim else value for name, value in net.state_dict().items()})


@pytest.mark.parametrize("change", [in_place, through_data, replaced, loaded])
def test_fast_copy_follows_its_original(change: Callable[[Body], None]) -> None:
    x, y = quarters().images[:8] / 255, quarters().labels[:8]
    net = body()
    copied = fast(net)
    first = PGD(steps=2)(copied, x, y, THREAT)
    change(net)
    second = PGD(steps=2)(copied, x, y, THREAT)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(second, PGD(steps=2)(net, x, y, THREAT), rtol=0, atol=1e-5)


def test_copy_with_another_gradient_is_not_used() -> None:
    x, y = quarters().images[:8] / 255, quarters().labels[:8]
    net = body()
    net.norm.register_full_backward_hook(lambda module, inputs, outputs: (-inputs[0],))  # the folded copy has no norm
    assert torch.equal(FGSM()(fast(net), x, y, THREAT), FGSM()(net, x, y, THREAT))


def test_function_runs_its_network_in_eval_mode() -> None:
    net = OwnTrain().train()

    def classify(x: Tensor) -> Tensor:
        z: Tensor = net(x)
        return z

    assert right(measure(classify)) == expected()
    assert net.training
    assert net.noise
    held = CallableObject()
    held.net.train()
    assert right(measure(held)) == expected()
    assert held.net.training


COMPILED: dict[str, Callable[[Any], Any]] = {
    "module": lambda backend: torch.compile(body(), backend=backend),
    "function": lambda backend: torch.compile(CallableObject().__call__, backend=backend),
    "function around a module": lambda backend: (lambda net: lambda x: net(x))(torch.compile(body(), backend=backend)),
}


@pytest.mark.parametrize(
    ("form", "precision"),
    [
        ("module", "fast"),
        ("function around a module", "exact"),
        *(
            pytest.param(form, precision, marks=pytest.mark.slow)
            for form, precision in (
                ("module", "exact"),
                ("function", "fast"),
                ("function", "exact"),
                ("function around a module", "fast"),
            )
        ),
    ],
)
def test_compiled_model_is_not_compiled_at_every_step(form: str, precision: str) -> None:
    counts = []
    for steps in (1, 4):
        torch._dynamo.reset()
        counter = CompileCounter()
        found = right(measure(COMPILED[form](counter), precision, pgd=PGD(steps=steps)))
        assert found[0] == expected()[0]
        counts.append(counter.frame_count)
    torch._dynamo.reset()
    assert counts[0] == counts[1] <= 8


def test_model_compiled_in_place() -> None:
    for precision in ("fast", "exact"):
        model = body()
        torch._dynamo.reset()
        counter = CompileCounter()
        model.compile(backend=counter)
        assert right(measure(model, precision)) == expected()
        assert counter.frame_count <= 8
    torch._dynamo.reset()
