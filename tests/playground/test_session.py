"""What the playground answers, without its page."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from digits_samples import trained_digits
from evaluation_samples import TooFar, measured
from playground_samples import OFFERED
from torch import nn
from upload_samples import encoded, noise

from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.playground.play import AFTER, BEFORE, PlayOptions, open_session
from inoculate.playground.session import Session


def same(one, other) -> bool:
    return all(
        np.array_equal(a.attacked, b.attacked) and np.array_equal(a.image, b.image)
        for a, b in zip(one.outcomes, other.outcomes, strict=True)
    )


@pytest.mark.parametrize("attack", OFFERED)
def test_an_answer_is_what_evaluate_finds_for_the_image(session: Session, digits, attack):
    attacks = {attack: OFFERED[attack]}
    found = measured(trained_digits()[0], digits, attacks, [Threat("linf", 0.1)], keep_images=True)
    result = found.per_image[found[1]]
    rows = [*result.right.nonzero()[:2, 0].tolist(), *(~result.right).nonzero()[:2, 0].tolist()]
    for row in rows:
        outcome = session.answer(session.picture(row), attack, 0.1).outcomes[0]
        assert outcome.truth == int(digits.labels[row])
        if outcome.verdict == "wrong before":  # which evaluate does not attack
            assert not result.right[row]
            continue
        assert (outcome.verdict == "holds") == bool(result.right[row])
        assert outcome.after == int(result.predicted[row])
        assert np.allclose(outcome.image, result.images[row].permute(1, 2, 0).numpy(), atol=1e-6)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.8), ("l1", 4.0)])
def test_attacked_images_are_inside_the_threat_model(digits, norm, eps):
    session = open_session(trained_digits()[0], digits, ["fgsm", "pgd"], Threat(norm, eps))
    for factor in (0.5, 1, 4):
        size = min(factor * eps, session.largest_eps)
        for attack in session.attacks:
            (outcome,) = session.answer(session.picture(3), attack, size).outcomes
            assert 0 < outcome.distance <= size * (1 + 1e-5)
            assert outcome.image.min() >= 0
            assert outcome.image.max() <= 1
            clean = outcome.image - outcome.moved
            assert np.allclose(clean[..., 0] * 255, digits.images[3, 0].numpy(), atol=1e-3)


def test_a_larger_eps_fools_and_eps_0_changes_nothing(session: Session):
    picture = session.picture(session.first_right(range(40)))
    nothing, most = session.answer(picture, "pgd", 0), session.answer(picture, "pgd", session.largest_eps)
    for outcome in nothing.outcomes:
        assert outcome.verdict == "holds"
        assert outcome.distance == 0
        assert not outcome.moved.any()
        assert np.array_equal(outcome.clean, outcome.attacked)
    assert [each.verdict for each in most.outcomes] == ["fooled", "fooled"]


def test_each_network_is_attacked_itself_and_the_first_ones_image_is_replayed(session: Session):
    answer = session.answer(session.picture(1), "fgsm", 0.1)
    first, second = answer.outcomes
    assert (first.network, second.network) == (BEFORE, AFTER)
    assert first.replayed is None
    assert not np.array_equal(first.image, second.image)
    x = torch.from_numpy(first.image).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = session.networks[1].classifier.model(x).softmax(dim=1)[0].numpy()
    assert np.allclose(second.replayed, expected, atol=1e-6)


def test_an_image_without_a_label_is_led_away_from_each_networks_own_prediction(session: Session):
    picture = session.upload(encoded(noise(8, 8, "L")))
    answer = session.answer(picture, "pgd", 0.2)
    assert answer.label is None
    for outcome in answer.outcomes:
        assert outcome.truth == outcome.before
        assert outcome.attacked[outcome.truth] < outcome.clean[outcome.truth]


def test_attributions_follow_the_answer(session: Session):
    first, complete = session.stages(session.picture(1), "fgsm", 0.1)
    assert not first.is_complete
    assert complete.is_complete
    assert same(first, complete)
    for outcome in complete.outcomes:
        assert outcome.attribution.shape == outcome.grad_cam.shape == (2, 8, 8)
        assert np.isfinite(outcome.attribution).all()
        assert not np.array_equal(*outcome.attribution)
    assert len([*session.stages(session.picture(1), "fgsm", 0.1, attributions=False)]) == 1


@pytest.mark.parametrize("eps", [-0.1, 0.41, math.nan, math.inf, True, None, "0.1"], ids=lambda value: f"{value!r}")
def test_an_eps_out_of_range_is_refused(session: Session, eps):
    with pytest.raises(InputError, match=r"^eps .* is out of range: give a number from 0 to 0\.4$"):
        session.answer(session.picture(0), "fgsm", eps)


@pytest.mark.parametrize("number", [-1, 40, 10**12, 1.5, None, "1"])
def test_an_image_that_is_not_there_is_refused(session: Session, number):
    with pytest.raises(InputError, match="give a number from 0 to 39"):
        session.picture(number)


def test_an_attack_that_is_not_offered_is_refused(session: Session):
    with pytest.raises(InputError, match="attack 'bim' is not offered here: use one of fgsm, pgd, square"):
        session.answer(session.picture(0), "bim", 0.1)


def test_an_attack_that_leaves_the_threat_model_is_refused(digits):
    session = open_session(trained_digits()[0], digits, {"own": TooFar()}, Threat("linf", 0.1))
    with pytest.raises(InputError, match="outside the threat model"):
        session.answer(session.picture(0), "own", 0.1)


def test_the_same_request_has_the_same_answer_also_from_eight_threads(session: Session):
    requests = [(session.picture(row), attack) for row in (1, 2) for attack in ("fgsm", "pgd", "square")]
    alone = [session.answer(picture, attack, 0.1) for picture, attack in requests]
    with ThreadPoolExecutor(8) as threads:
        together = [*threads.map(lambda request: session.answer(*request, 0.1), requests * 3)]
    assert all(same(one, other) for one, other in zip(alone * 3, together, strict=True))


def test_networks_and_the_random_state_are_left_as_they_were(digits):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)).train()
    session = open_session(model, digits, ["pgd"], Threat("linf", 0.1))
    state, weights = torch.random.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    for _ in session.stages(session.picture(0), "pgd", 0.1):
        pass
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_a_network_without_feature_maps_has_no_grad_cam(digits):
    session = open_session(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), digits, ["fgsm"])
    _, complete = session.stages(session.picture(0), "fgsm", 8 / 255)
    assert complete.outcomes[0].grad_cam is None
    assert complete.outcomes[0].attribution is not None


class LabelsOnly(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :10].argmax(dim=1)


class Unfinite(nn.Module):
    """NaN for images that are bright."""

    def forward(self, x):
        logits = x.flatten(1)[:, :10] * 10
        return torch.where(x.amax(dim=(1, 2, 3))[:, None] > 0.97, torch.nan, logits)


def test_a_model_that_gives_labels_only_is_refused(digits):
    with pytest.raises(InputError, match="labels only"):
        open_session(LabelsOnly(), digits, ["fgsm"])


def test_outputs_that_are_not_finite_are_refused_in_one_line(digits):
    images = (digits.images.float() * 0.9).to(torch.uint8)
    images[0, 0, 0, 0] = 255
    session = open_session(Unfinite(), (images, digits.labels), ["fgsm"])
    with pytest.raises(InputError, match="outputs that are not finite on this image"):
        session.answer(session.picture(0), "fgsm", 8 / 255)


class Noisy(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        logits = self.inner(x)
        return logits + 0.5 * torch.randn(logits.shape)


def test_a_random_model_is_judged_over_several_passes_and_answers_the_same_twice(digits):
    session = open_session(Noisy(trained_digits()[0]), digits, ["fgsm"], Threat("linf", 0.1))
    one, other = (session.answer(session.picture(1), "fgsm", 0.1) for _ in range(2))
    assert same(one, other)
    assert np.isclose(one.outcomes[0].clean.sum(), 1, atol=1e-4)


@pytest.mark.parametrize(
    ("attacks", "threat", "words"),
    [
        ([], Threat(), "no attack"),
        (["fgsm"], Threat(eps=0), "eps 0"),
        (["nothing"], Threat(), "unknown"),
        (["fgsm"], Threat(mask=torch.ones(8, 8, dtype=torch.bool)), "mask"),
    ],
)
def test_what_cannot_be_played_with_is_refused_at_once(digits, attacks, threat, words):
    with pytest.raises(InputError, match=words):
        open_session(trained_digits()[0], digits, attacks, threat)


def test_the_page_starts_with_an_image_that_every_network_knows(digits):
    model = trained_digits()[0]
    session = open_session(model, (digits.images, (digits.labels + torch.tensor([1, 0] * 20)) % 10), ["fgsm"])
    assert session.first_right([0, 2, 1, 3]) == 1
    assert session.first_right([0, 2]) == 0


def test_it_says_what_is_played_with(session: Session, digits):
    assert session.title == "model on digits, before and after hardening"
    alone = open_session(trained_digits()[0], digits, ["fgsm"], options=PlayOptions(name="/runs/mine/model.onnx"))
    assert alone.title == "mine/model.onnx on digits"


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_whoever_lets_others_in_is_warned(digits, host, warned):
    session = open_session(trained_digits()[0], digits, ["fgsm"], options=PlayOptions(host=host))
    assert (f"others can open the page through {host}" in session.warnings) == warned
