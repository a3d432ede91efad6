"""Examples crafted on the average of the logits of several models: in transfer, and as surrogates of an evaluation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attack_samples import for_every, images, linear_net, seeded, small_net
from torch import nn

from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.pgd import PGD
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.result import TransferMatrix
from inoculate.evaluation.transfer import TransferOptions, transfer
from inoculate.models.acceleration.fast import CraftingCopy, fast
from inoculate.models.averaged_logits import AveragedLogits

NETS = {name: small_net(seed=seed) for seed, name in enumerate("abc")}


def data() -> Dataset:
    pixels = torch.randint(256, (40, 3, 8, 8), generator=seeded(5), dtype=torch.uint8)
    return Dataset.from_tensors(pixels, NETS["a"](pixels / 255).argmax(1), classes=tuple("wxyz"))


def test_logits_and_gradients_are_the_means() -> None:
    x, _ = images(4)
    both = AveragedLogits([NETS["a"], NETS["b"]])
    torch.testing.assert_close(both(x), (NETS["a"](x) + NETS["b"](x)) / 2)
    one = linear_net([[4.0, 1.0, 0.0, 0.0], [0.0] * 4])
    other = linear_net([[-1.0, 1.0, 0.0, -2.0], [0.0] * 4])  # the first pixel: 4 against −1, the last: 0 against −2
    image = torch.full((1, 1, 2, 2), 0.5)
    x_adv = FGSM()(AveragedLogits([one, other]), image, torch.tensor([0]), Threat("linf", 0.1))
    torch.testing.assert_close(x_adv.flatten(), torch.tensor([0.4, 0.4, 0.5, 0.6]))
    copied = fast(both)
    assert isinstance(copied, CraftingCopy)
    torch.testing.assert_close(copied(x), both(x), atol=1e-2, rtol=0)


def test_rows_are_those_of_examples_crafted_by_hand() -> None:
    split, threat = data(), Threat("linf", 0.05)
    options = TransferOptions(sources=["a+b", "c"], precision="exact")
    matrix = transfer(NETS, split, FGSM(), [threat], options=options)
    assert [(row.model, row.protocol) for row in matrix.rows[3:]] == [
        *((name, "transfer:a+b/standard") for name in "abc"),
        ("a", "transfer:c/standard"), ("b", "transfer:c/standard"), ("c", "white-box"),
    ]  # fmt: skip
    x, y = split.images / 255, split.labels
    x_adv = FGSM()(AveragedLogits([NETS["a"], NETS["b"]]), x, y, threat)
    for name, net in NETS.items():
        right = (net(x_adv).argmax(1) == y) & (net(x).argmax(1) == y)
        assert matrix.matrix()["a+b"][name] == pytest.approx(float(right.float().mean()))
    assert list(matrix.matrix()) == ["a+b", "c"]


def test_a_saved_matrix_keeps_its_sources(tmp_path: Any) -> None:
    matrix = transfer(NETS, data(), FGSM(), options=TransferOptions(sources=["b+c"]))
    assert TransferMatrix.load(matrix.save(tmp_path)).matrix() == matrix.matrix()


@for_every(
    [
        ({}, ["a+d"], "model of source a\\+d 'd' is unknown"),
        ({}, ["a+a"], "names a model twice"),
        ({"d": small_net(classes=5)}, ["a+d"], "d: the model knows 5 classes"),
        ({"d": small_net(channels=1)}, ["a+d"], "d: the model does not take 3×8×8 images"),
    ]
)
def test_models_that_have_no_average_are_refused_in_one_line(more: Any, sources: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        transfer(NETS | more, data(), FGSM(), options=TransferOptions(sources=sources))
    assert "\n" not in str(caught.value)


def test_an_average_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="at least two"):
        AveragedLogits([NETS["a"]])
    with pytest.raises(InputError, match="give 4, 5 logits"):
        AveragedLogits([NETS["a"], small_net(classes=5)])(images()[0])


def test_several_surrogates_are_averaged_too() -> None:
    options = EvaluationOptions(surrogates={"b": NETS["b"], "c": NETS["c"]})
    found = evaluate(NETS["a"], data(), {"pgd": PGD(3)}, [Threat("linf", 0.05)], options=options)
    transfers = [check.name for check in found.checks if check.name.startswith("transfer")]
    assert transfers == ["transfer from b", "transfer from c", "transfer from b+c"]


def test_a_model_may_have_a_plus_in_its_name() -> None:
    models: dict[str, nn.Module] = {"a+b": NETS["a"], "c": NETS["c"]}
    matrix = transfer(models, data(), FGSM(), options=TransferOptions(sources=["a+b"]))
    assert [(row.model, row.protocol) for row in matrix.rows[2:]] == [
        ("a+b", "white-box"), ("c", "transfer:a+b/standard"),
    ]  # fmt: skip
