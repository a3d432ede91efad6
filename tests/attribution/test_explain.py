from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from digits_samples import trained_digits
from torch import nn

from inoculate.attacks.fgsm import FGSM
from inoculate.attribution.explain import ExplainOptions, choose_images, explain
from inoculate.attribution.explanation import ARRAYS, FACTS, Amounts, Explanation
from inoculate.attribution.fragility import fragility
from inoculate.core.errors import InputError
from inoculate.core.pixels import to_float
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.models.classifier import prepare

FEW = Amounts(images=3, stability=6, fragility=8, steps=4, search=20)


@pytest.fixture(scope="module")
def digits():
    model, split = trained_digits()
    return (
        model,
        split,
        explain(model, split, FGSM(), Threat("linf", 0.1), amounts=FEW, options=ExplainOptions(name="cnn")),
    )


def test_one_image_of_each_class_then_a_second():
    split = Dataset.from_tensors(torch.zeros(7, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0, 1, 2, 1, 2, 0]))
    right = torch.tensor([True, True, False, True, True, True, True])
    assert choose_images(split, right, 2) == [0, 3]
    assert choose_images(split, right, 4) == [0, 3, 4, 1]
    assert choose_images(split, right, 99) == [0, 3, 4, 1, 5, 6]


def test_what_is_shown_can_be_checked_on_the_model(digits):
    model, split, found = digits
    assert found.key == ("digits", "cnn", "standard")
    assert [found.facts[k] for k in ("attack", "norm", "eps", "image_size")] == ["fgsm", "linf", 0.1, [8, 8]]
    rows = [image["row"] for image in found.facts["images"]]
    assert len({split.labels[row].item() for row in rows}) == 3
    assert np.array_equal(found.arrays["clean"][..., 0], split.images[rows, 0].numpy())
    for place, image in enumerate(found.facts["images"]):
        x = to_float(split.images[image["row"]][None])
        moved = torch.from_numpy(found.arrays["perturbation"][place]).permute(2, 0, 1) / 127 * image["scale"]
        assert image["scale"] == pytest.approx(0.1, abs=1e-6)
        for said, image_shown in ((image["clean"], x), (image["adversarial"], x + moved)):
            sure, label = model(image_shown).softmax(dim=1).max(dim=1)
            assert label.item() == said["predicted"]
            assert sure.item() == pytest.approx(said["confidence"], abs=0.01)
        assert image["clean"]["predicted"] == image["label"]
    assert found.arrays["attribution"].shape == found.arrays["grad_cam"].shape == (3, 2, 8, 8)


def test_attributions_change_more_under_a_larger_attack():
    model, split = trained_digits()
    still = explain(model, split, FGSM(), Threat("linf", 0.0), amounts=FEW).facts["stability"]
    assert still["attack"] == still["noise"] == [0.0] * 6
    assert not any(still["misclassified"])
    means = [
        np.mean(explain(model, split, FGSM(), Threat("linf", eps), amounts=FEW).facts["stability"]["attack"])
        for eps in (0.02, 0.1, 0.3)
    ]
    assert 0 < means[0] < means[1] < means[2] <= 2


def test_the_same_again_and_nothing_left_behind(digits):
    model, split, found = digits
    before = [(p.requires_grad, p.grad) for p in model.parameters()], [m.training for m in model.modules()]
    state = torch.random.get_rng_state()
    again = explain(model, split, FGSM(), Threat("linf", 0.1), amounts=FEW, options=ExplainOptions(name="cnn"))
    assert again.facts == found.facts
    assert all(np.array_equal(again.arrays[name], found.arrays[name]) for name in found.arrays)
    assert ([(p.requires_grad, p.grad) for p in model.parameters()], [m.training for m in model.modules()]) == before
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_hardened_network_also_judges_what_was_crafted_before():
    model, split = trained_digits()
    found = explain(
        model, split, "fgsm", Threat("linf", 0.1), amounts=FEW, before=model, options=ExplainOptions(shown=[5, 1])
    )
    assert [image["row"] for image in found.facts["images"]] == [5, 1]
    for image in found.facts["images"]:
        assert image["replayed"] == image["adversarial"]  # the same network crafted both
    alone = explain(model, split, FGSM(), Threat("linf", 0.1), amounts=FEW, options=ExplainOptions(shown=[5, 1]))
    assert "replayed" not in alone.facts["images"][0]


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", math.inf)])
def test_on_a_linear_model_the_estimate_is_exact_and_the_search_finds_it(norm, dual):
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    model[1].weight.data = torch.randn(2, 16, generator=generator) * 0.2
    model[1].bias.data = -model[1].weight.data.sum(dim=1) / 2  # the boundary passes near the grey of the images
    images = torch.randint(90, 160, (40, 1, 4, 4), generator=generator, dtype=torch.uint8)
    with torch.no_grad():
        logits = model(to_float(images))
    split = Dataset.from_tensors(images, logits.argmax(dim=1))
    found = fragility(prepare(model, split), split, norm, search=100)
    way = model[1].weight.data[0] - model[1].weight.data[1]
    lead = (logits[:, 0] - logits[:, 1]).abs()
    distance = lead / way.norm(p=dual)
    torch.testing.assert_close(torch.tensor(found["margin"]), lead, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(found["estimate"]), distance, rtol=1e-3, atol=1e-5)
    widest = {"linf": 1.0, "l2": float(way.abs().max() / way.norm()), "l1": 1.0}[norm]
    near = distance * widest < 0.33  # the pixel range does not cut the way short
    assert near.sum() > 10
    measured = torch.tensor(found["measured"])[near]
    assert bool((measured >= distance[near] * 0.999).all())
    torch.testing.assert_close(measured, distance[near], rtol=0.03, atol=1e-3)


def test_an_image_that_is_wrong_breaks_at_nothing():
    model, split = trained_digits()
    wrong = Dataset.from_tensors(split.images[:6], (split.labels[:6] + 1) % 10, [str(i) for i in range(10)])
    found = fragility(prepare(model, wrong), wrong, search=5)
    assert found["measured"] == [0.0] * 6
    assert max(found["margin"]) < 0


def test_explanations_come_back_as_they_were(digits, tmp_path):
    _, _, found = digits
    assert found.save(tmp_path / "explained") == tmp_path / "explained"
    back = Explanation.load(str(tmp_path / "explained"))
    assert dict(back.facts) == json.loads(json.dumps(dict(found.facts)))
    assert back.arrays.keys() == found.arrays.keys()
    assert all(np.array_equal(back.arrays[name], found.arrays[name]) for name in found.arrays)


@pytest.mark.parametrize(
    ("file", "content"),
    [(FACTS, b"{"), (FACTS, b"[]"), (FACTS, b'{"format": 1}'), (ARRAYS, b""), (ARRAYS, b"PK\x03\x04broken")],
)
def test_damaged_explanations_are_one_line(digits, tmp_path, file, content):
    digits[2].save(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=file) as caught:
        Explanation.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_arrays_of_other_images_are_refused(digits, tmp_path):
    digits[2].save(tmp_path)
    np.savez(tmp_path / ARRAYS, clean=np.zeros((1, 8, 8, 1), np.uint8), perturbation=np.zeros((1, 8, 8, 1), np.int8))
    with pytest.raises(InputError, match="does not fit"):
        Explanation.load(tmp_path)
    np.savez(tmp_path / ARRAYS, clean=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="cannot be read"):
        Explanation.load(tmp_path)


def test_a_model_without_gradients_says_so():
    class Stuck(nn.Module):
        def forward(self, x):
            return torch.arange(10.0).repeat(len(x), 1)

    _, split = trained_digits()
    with pytest.raises(InputError, match="gradient"):
        explain(Stuck(), split, FGSM(), Threat("linf", 0.1), amounts=FEW)


def test_an_explanation_shows_a_table_and_writes_a_page(digits, tmp_path):
    found = digits[2]
    table = found.table()
    assert table["row"] == [image["row"] for image in found.facts["images"]]
    assert {len(column) for column in table.values()} == {3}
    assert f"<td>{table['label'][0]}</td>" in found._repr_html_()
    assert "Attacked images" in found.report(tmp_path / "page.html").read_text()
