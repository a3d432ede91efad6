"""Declared outputs and normalisation: closed-form values, and what is typed wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inoculate.attacks.fgsm import FGSM
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.models.loading.outputs import OUTPUTS, AsLogits, Declared
from inoculate.models.normalize import NORMALIZATIONS, Normalize, parse_normalize


def test_wrappers_literally() -> None:
    p = torch.tensor([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])
    logits = AsLogits(nn.Identity(), "probabilities")(p)
    torch.testing.assert_close(logits.softmax(1), p)
    assert logits.isfinite().all()
    for one in (p[:, 1], p[:, 1:]):
        torch.testing.assert_close(AsLogits(nn.Identity(), "probabilities")(one).softmax(1), p)
    for z in (torch.tensor([2.0, -4.0]), torch.tensor([[2.0], [-4.0]])):
        assert AsLogits(nn.Identity(), "single-logit")(z).tolist() == [[-1, 1], [2, -2]]
        torch.testing.assert_close(AsLogits(nn.Identity(), "single-logit")(z).softmax(1)[:, 1], z.flatten().sigmoid())
    with pytest.raises(InputError, match="declared as probabilities and go from -1 to 3"):
        AsLogits(nn.Identity(), "probabilities")(torch.tensor([[-1.0, 3.0]]))
    with pytest.raises(InputError, match="declared as a single logit"):
        AsLogits(nn.Identity(), "single-logit")(p)
    assert list(OUTPUTS) == [
        "logits", "probabilities", "log-probabilities", "sigmoid", "single-logit", "labels", "background-first",
        "background-last",
    ]  # fmt: skip


def test_further_kinds_literally() -> None:
    p = torch.tensor([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])
    logits = AsLogits(nn.Identity(), "log-probabilities")(p.log())
    torch.testing.assert_close(logits.softmax(1), p)
    assert logits.isfinite().all()
    z = torch.tensor([[1.0, -2.0, 0.5]])
    torch.testing.assert_close(AsLogits(nn.Identity(), "sigmoid")(z.sigmoid()), z)
    assert AsLogits(nn.Identity(), "sigmoid")(p).isfinite().all()
    assert AsLogits(nn.Identity(), "background-first")(z).tolist() == [[-2.0, 0.5]]
    assert AsLogits(nn.Identity(), "background-last")(z).tolist() == [[1.0, -2.0]]
    for kind in ("log-probabilities", "sigmoid"):
        with pytest.raises(InputError, match=f"declared as {kind} and go from -2 to 1"):
            AsLogits(nn.Identity(), kind)(z)


def test_attack_through_a_wrapper_equals_that_on_the_logits() -> None:
    x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        base = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    single = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
    with torch.no_grad():
        single[1].weight[0] = base[1].weight[1] - base[1].weight[0]
        single[1].bias[0] = base[1].bias[1] - base[1].bias[0]
    y = torch.arange(6) % 2
    expected = FGSM()(base, x, y, Threat())
    assert torch.equal(FGSM()(AsLogits(nn.Sequential(base, nn.Softmax(1)), "probabilities"), x, y, Threat()), expected)
    assert torch.equal(FGSM()(AsLogits(single, "single-logit"), x, y, Threat()), expected)


def test_parse_normalize() -> None:
    assert parse_normalize("0.5,0.5,0.5/0.2,0.2,0.2") == ((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    assert parse_normalize(" ImageNet ") == NORMALIZATIONS["imagenet"]
    assert parse_normalize(".1307/.3081") == NORMALIZATIONS["mnist"]
    torch.testing.assert_close(
        Normalize(*parse_normalize("0-255"))(torch.ones(1, 3, 1, 1)), torch.full((1, 3, 1, 1), 255.0)
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("imagnet", "give imagenet, cifar10"),
        ("", "is not understood"),
        ("0.5", "is not understood"),
        ("0.5/0.5/0.5", "is not understood"),
        ("0.5,/0.5", "is not understood"),
        ("__import__('os')/1", "is not understood"),
        ("0.5,0.5/0.2", "2 mean and 1 std"),
        ("0.5/0", "above 0"),
        ("nan/1", "above 0"),
        ("0.5/-1", "above 0"),
        ("123.7,116.3,103.5/58.4,57.1,57.4", "divide by 255"),
    ],
)
def test_parse_normalize_refuses(text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_normalize(text)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_declared_is_wrapped_and_unwrapped() -> None:
    network, mean_std = nn.Flatten(), ((0.5,), (0.25,))
    for outputs in OUTPUTS:
        for normalize in (None, mean_std):
            declared = Declared(outputs, normalize)
            assert declared.unwrap(declared.wrap(network)) is network
    wrapped = Declared("single-logit", mean_std).wrap(nn.Flatten())
    assert wrapped(torch.tensor([[[[1.0]]]])).tolist() == [[-1.0, 1.0]]
    with pytest.raises(InputError, match="use one of logits, probabilities, log-probabilities"):
        Declared("softmax")
