"""The job `universal_patch`: a patch for all images, measured on others beside random noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from attack_samples import linear_net
from PIL import Image
from torch import nn

from inoculate.attacks.universal_patch import FixedPatch
from inoculate.core.errors import InputError
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
