"""The job `universal_patch`: a patch for all images, measured on others beside random noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from attack_samples import linear_net
from PIL import Image
from torch import nn

from inoculate.attacks.interop.art import to_art
from inoculate.attacks.universal_patch import FixedPatch
from inoculate.core.errors import InputError
from inoculate.core.pixels import to_float
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.universal_patch import PatchOptions, UniversalPatch, universal_patch

QUICK = PatchOptions(steps=40, batch_size=16)


def test_it_misleads_images_that_it_was_not_made_on_and_can_be_used_again(
    digits: tuple[nn.Module, Dataset], tmp_path: Path
) -> None:
    model, data = digits
    seen: list[tuple[str, int, int]] = []
    found = universal_patch(model, data, 3, options=QUICK, progress=lambda *step: seen.append(step))
    clean, patched, random = found.evaluation
    assert [row.attack for row in found.evaluation] == ["none", "universal_patch", "random_patch"]
    assert (patched.norm, patched.eps, patched.n) == ("l0", 9, 100)
    assert patched.accuracy < random.accuracy - 0.1 < clean.accuracy
    assert ("patch", 0, 40) in seen
    assert ("patch", 40, 40) in seen
    again = UniversalPatch.load(found.save(tmp_path / "patch"))
    assert torch.equal(again.patch, found.patch)
    assert again.evaluation.rows == found.evaluation.rows
    picture = np.asarray(Image.open(tmp_path / "patch" / "patch.png"))
    np.testing.assert_array_equal(picture, (found.patch[0] * 255).round().to(torch.uint8).numpy())
    options = EvaluationOptions(checks=False)
    other = evaluate(model, data, {"patch": again.attack}, [Threat("l0", 9)], options=options)
    assert other[1].accuracy < other[0].accuracy - 0.1
    assert torch.equal(universal_patch(model, data, 3, options=QUICK).patch, found.patch)


def test_the_patch_of_a_linear_model_is_its_optimum() -> None:
    """Brightness anywhere raises class 1: the patch is white; towards class 0 it is black, found on class 1 alone."""
    net = linear_net([[0.0] * 36, [1.0] * 36], bias=[18.0, 0.0])
    images, labels = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    data = Dataset.from_tensors((255 * images).to(torch.uint8), labels)
    for target, value in ((1, 1.0), (0, 0.0)):
        found = universal_patch(net, data, 2, data, options=PatchOptions(steps=30, batch_size=8, target=target))
        assert torch.equal(found.patch, torch.full((1, 2, 2), value))
        assert len(found.evaluation.labels) == 40


@pytest.mark.slow
def test_it_is_about_as_strong_as_arts(digits: tuple[nn.Module, Dataset]) -> None:
    """Brown et al.'s patch by ART, a quarter of the image as ours is: the accuracies differ by a sixth at most."""
    art = pytest.importorskip("art.attacks.evasion")
    model, data = digits
    first, second = data.subset(range(100)), data.subset(range(100, 200))
    ours = universal_patch(model, first, 4, second, options=PatchOptions(steps=60, batch_size=50)).evaluation[1]
    before = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        np.random.seed(0)
        attack = art.AdversarialPatchPyTorch(
            to_art(model, Threat(), (1, 8, 8), 10), rotation_max=0.0, scale_min=0.5, scale_max=0.51, learning_rate=0.05,
            max_iter=60, batch_size=50, patch_shape=(1, 8, 8), optimizer="Adam", targeted=False, verbose=False,
        )  # fmt: skip
        attack.generate(to_float(first.images).numpy(), np.eye(10, dtype=np.float32)[first.labels])
        x_adv = torch.as_tensor(attack.apply_patch(to_float(second.images).numpy(), scale=0.5)).float()
    np.random.set_state(before)
    with torch.no_grad():
        theirs = float((model(x_adv).argmax(1) == second.labels).float().mean())
    assert theirs < 0.6
    assert ours.accuracy <= theirs + 1 / 6


def test_what_makes_no_patch_is_refused_in_one_line(digits: tuple[nn.Module, Dataset], tmp_path: Path) -> None:
    model, data = digits
    for wrong, said in (
        (lambda: universal_patch(model, data, 9, options=QUICK), "does not fit"),
        (lambda: universal_patch(model, data, 0, options=QUICK), "whole number"),
        (lambda: universal_patch(model, data, 2, options=PatchOptions(target=10)), "from 0 to 9"),
        (lambda: PatchOptions(step=0), "above 0"),
        (lambda: UniversalPatch.load(tmp_path), "cannot be read"),
        (lambda: evaluate(model, data, {"p": FixedPatch(torch.rand(1, 3, 3))}, [Threat("l0", 4)]), "l0 eps of 9"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            wrong()
        assert "\n" not in str(caught.value)
