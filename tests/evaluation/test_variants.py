"""Variants of a network: exchanged examples, honest gradients, differences that are flagged."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from digits_samples import every_digit
from evaluation_samples import Misleading
from torch import Tensor, nn

import inoculate as ino
from inoculate.core.errors import InputError
from inoculate.core.extras import is_installed
from inoculate.data.dataset import Dataset
from inoculate.models.export.files import write_int8
from inoculate.models.loading.onnx import OnnxModel

THREAT = ino.Threat("linf", 0.1)
PGD = ino.PGD(steps=5)
needs_onnx = pytest.mark.skipif(not is_installed("onnxruntime"), reason="pip install 'inoculate[onnx]'")


class Brightness(nn.Module):
    """Class 1 if the image is brighter than `threshold`."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1) - self.threshold
        return torch.stack([-mean, mean], dim=1)


class Detached(nn.Module):
    """A network that passes no gradient."""

    def __init__(self, inner: nn.Module, *, rounds: bool = False) -> None:
        super().__init__()
        self.inner, self.rounds = inner, rounds

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner((x * 255).round() / 255 if self.rounds else x.detach())
        return logits


def grey(value: float, n: int = 20) -> Dataset:
    """Plain images of class 1."""
    images = torch.full((n, 1, 4, 4), round(255 * value), dtype=torch.uint8)
    return Dataset.from_tensors(images, torch.ones(n, dtype=torch.int64), classes=("dark", "bright"))


def checks(found: ino.VariantComparison) -> dict[str, bool | None]:
    return {check.name: check.passed for check in found.checks}


def correct(found: ino.VariantComparison, protocol: str = "white-box") -> dict[str, int]:
    """Images right under attack, by variant."""
    return {row.arm: row.correct for row in found if row.attack != "none" and row.protocol == protocol}


def test_weak_gradients_do_not_look_robust(digits: tuple[nn.Module, Dataset]) -> None:
    """The same function with a gradient that points the wrong way is exactly as robust."""
    net, data = digits
    found = ino.evaluate_variants(net, data, {"plain": net, "masked": Misleading(net)}, {"pgd": PGD}, [THREAT])
    alone, together = correct(found, "own-attack"), correct(found)
    assert alone["masked"] > alone["plain"] + 50
    assert together["masked"] == together["plain"] == alone["plain"]
    assert checks(found) == {
        "variants differ: clean": True, "variants differ: pgd linf eps 0.1": True,
        "own attack of masked: pgd linf eps 0.1": False,
    }  # fmt: skip
    broken_by = next(found.per_image[row] for row in found if (row.arm, row.protocol) == ("masked", "white-box")
                     and row.attack == "pgd").broken_by  # fmt: skip
    assert found.variants == ("plain", "masked")
    assert int((broken_by == 0).sum()) >= alone["masked"] - together["masked"]


def test_what_stopped_at_one_boundary_is_tried_beyond_it() -> None:
    """The attack on `near` stops below 0.5; only its full budget (0.55 − 0.1) crosses 0.455."""
    near, far = Brightness(0.5), Misleading(Brightness(0.455))
    found = ino.evaluate_variants(near, grey(0.55), {"near": near, "far": far}, {"pgd": ino.PGD(steps=20)}, [THREAT])
    assert correct(found, "own-attack") == {"near": 0, "far": 20}
    assert correct(found) == {"near": 0, "far": 0}
    further = Misleading(Brightness(0.44))  # is not reached: the difference stands
    found = ino.evaluate_variants(near, grey(0.55), {"near": near, "far": further}, {"pgd": PGD}, [THREAT])
    assert correct(found) == {"near": 0, "far": 20}
    assert checks(found)["variants differ: pgd linf eps 0.1"] is False


def test_clean_errors_are_no_examples() -> None:
    """A variant that is wrong without an attack says nothing about the others."""
    right, wrong = Brightness(0.3), Brightness(0.9)
    found = ino.evaluate_variants(right, grey(0.55), {"right": right, "wrong": wrong}, {"pgd": PGD}, [THREAT])
    assert correct(found) == {"right": 20, "wrong": 0}
    assert checks(found)["variants differ: clean"] is False


@pytest.mark.parametrize("rounds", [False, True])
def test_a_variant_without_gradients_gets_those_of_the_original(
    rounds: bool, digits: tuple[nn.Module, Dataset]
) -> None:
    """Without any at all, and with one that is 0 everywhere."""
    net, data = digits
    variants = {"plain": net, "quantised": Detached(net, rounds=rounds)}
    found = ino.evaluate_variants(net, data.subset(range(60)), variants, {"pgd": PGD}, [THREAT])
    words = {row.arm: row.gradients for row in found if row.attack == "pgd"}
    assert words == {"plain": "", "quantised": "of the original network (BPDA)"}
    alone = correct(found, "own-attack")
    assert abs(alone["quantised"] - alone["plain"]) <= 2
    assert "gradients of the original network (BPDA)" in str(found)


def test_without_any_gradient_square_attacks(digits: tuple[nn.Module, Dataset]) -> None:
    net, data = digits
    few, blind = data.subset(range(10)), Detached(net)
    variants = {"one": blind, "other": Detached(net)}
    found = ino.evaluate_variants(blind, few, variants, {"pgd": PGD}, [ino.Threat("linf", 0.3)])
    assert {row.gradients for row in found if row.attack == "pgd"} == {"none: Square and the examples of the others"}
    assert max(correct(found).values()) < 5
    with pytest.raises(InputError, match=r"no variant passes gradients, .* in l0"):
        ino.evaluate_variants(blind, few, variants, {"pgd": PGD}, [ino.Threat("l0", 3)])
    seen = ino.evaluate_variants(
        blind, few, {"plain": net, "blind": blind}, {"pgd": PGD}, [ino.Threat("l0", 5)]
    )  # what is given as original has no gradient, a variant has
    words = {row.arm: row.gradients for row in seen if row.attack == "pgd"}
    assert words == {"plain": "", "blind": "none: the examples of the others alone"}
    assert correct(seen)["blind"] == correct(seen)["plain"]


@needs_onnx
def test_every_variant_of_our_network(digits: tuple[nn.Module, Dataset], tmp_path: Path) -> None:
    net, data = digits
    net = deepcopy(net).to(memory_format=torch.channels_last)  # as training leaves it
    names = ["fp32", "bf16", "onnx", "int8", "torchscript", "pruned:0.5"]
    options = ino.VariantOptions(calibration=every_digit().limit(100), folder=tmp_path, name="net")
    before = [each.clone() for each in net.state_dict().values()]
    found = ino.evaluate_variants(net, data, names, ["fgsm"], [ino.Threat("linf", e) for e in (0.02, 0.05)],
                                  options=options)  # fmt: skip
    assert len(found) == len(names) * (1 + 2 * 2)
    assert {path.name for path in tmp_path.iterdir()} == {"onnx.onnx", "int8.onnx", "torchscript.ts"}
    accuracies = found.accuracies()
    for cell in accuracies.values():
        assert list(cell) == names
        assert cell["onnx"] == cell["torchscript"] == cell["fp32"]
        assert abs(cell["bf16"] - cell["fp32"]) <= 0.02
        assert abs(cell["int8"] - cell["fp32"]) <= 0.05
    own = {row.arm: row.gradients for row in found}
    assert [name for name in names if own[name]] == ["onnx", "int8"]
    assert all(torch.equal(*pair) for pair in zip(before, net.state_dict().values(), strict=True))
    assert found.warnings == []


@needs_onnx
def test_a_broken_int8_network_is_flagged(digits: tuple[nn.Module, Dataset], tmp_path: Path) -> None:
    """Calibrated on images that are far too dark, it cuts activations off."""
    net, data = digits
    good, broken = tmp_path / "good.onnx", tmp_path / "broken.onnx"
    calibration = every_digit().limit(100).images / 255
    write_int8(net, good, calibration)
    write_int8(net, broken, calibration * 0.02)
    run = ino.evaluate_variants
    verdicts = {
        path.stem: run(net, data, ["fp32", str(path)], {"fgsm": ino.FGSM()}, [THREAT]) for path in (good, broken)
    }
    good_clean = verdicts["good"].accuracies()["clean"]
    assert abs(good_clean[str(good)] - good_clean["fp32"]) <= 0.02
    (check,) = [each for each in verdicts["broken"].checks if each.name == "variants differ: clean"]
    assert check.passed is False
    assert f"points between {broken} and fp32 (p = " in check.message
    assert "\n" not in check.message
    clean = verdicts["broken"].accuracies()["clean"]
    assert clean[str(broken)] < clean["fp32"] - 0.1
    assert not verdicts["broken"].require("checks").met


@needs_onnx
def test_results_of_another_file_are_not_taken_over(digits: tuple[nn.Module, Dataset], tmp_path: Path) -> None:
    """In one store and under one path, a file that was quantised anew is measured anew."""
    net, data = digits
    few, found = data.subset(range(50)), []
    for factor in (1.0, 0.02):
        calibration = Dataset.from_tensors((every_digit().images[:50] * factor).to(torch.uint8), torch.arange(50) % 10)
        options = ino.VariantOptions(calibration=calibration, folder=tmp_path / "files", store=tmp_path / "store")
        found.append(ino.evaluate_variants(net, few, ["fp32", "int8"], {"fgsm": ino.FGSM()}, [THREAT], options=options))
    fresh = ino.evaluate_variants(
        net, few, ["fp32", "int8"], {"fgsm": ino.FGSM()}, [THREAT], options=ino.VariantOptions(calibration=calibration)
    )
    assert found[1].accuracies() == fresh.accuracies() != found[0].accuracies()


def test_differences_of_a_point_are_flagged_and_less_is_not() -> None:
    """199 of 200 images are half a point; 198 a point. 50 images cannot tell."""
    images = torch.cat([torch.full((198, 1, 2, 2), 230), torch.full((2, 1, 2, 2), 128)]).byte()

    def differ(last: int, n: int = 200) -> Any:
        images[-1] = last
        data = Dataset.from_tensors(images[-n:], torch.ones(n, dtype=torch.int64), classes=("dark", "bright"))
        variants = {"one": Brightness(0.4), "other": Brightness(0.55)}
        return ino.evaluate_variants(variants["one"], data, variants, {}, []).checks[0]

    assert differ(230).passed is True
    assert differ(128).passed is False
    assert "99.0%: 1.0 points between other and one (p = 0.5)" in differ(128).message
    assert differ(128, 50).passed is False
    assert differ(230, 1).passed is None


def test_saved_shown_and_judged(tmp_path: Path) -> None:
    near, far = Brightness(0.5), Brightness(0.44)
    found = ino.evaluate_variants(near, grey(0.55, 100), {"near": near, "far": far}, {"pgd": PGD}, [THREAT])
    again = ino.VariantComparison.load(found.save(tmp_path))
    assert again.rows == found.rows
    assert (again.variants, again.checks, again.checked) == (found.variants, found.checks, found.checked)
    assert str(again) == str(found)
    assert "<table>" in found._repr_html_()
    assert found.accuracies()["pgd linf eps 0.1"] == {"near": 0.0, "far": 1.0}
    assert not found.require("pgd>=0.5").met, "the weakest variant decides"
    assert found.require("clean>=1").met
    assert len(found.table()["arm"]) == len(found) == 6


ONE = Brightness(0.5)
WRONG: dict[str, tuple[Any, str]] = {
    "one": (["fp32"], "at least two"),
    "none": ([], "at least two"),
    "a text": ("fp32,int8", r"are no list: give one, such as \['fp32'"),
    "nothing": (None, "are no list"),
    "unnamed": (["fp32", ONE], "variant Brightness has no name"),
    "unknown": (["fp32", "int7"], "variant 'int7' is unknown: use fp32, bf16"),
    "architecture": (["fp32", "resnet18"], "variant 'resnet18' is unknown"),
    "twice": (["fp32", "fp32"], "given twice"),
    "nothing pruned": (["fp32", "pruned:0.0"], "unknown"),
    "everything pruned": (["fp32", "pruned:1"], "unknown"),
    "nothing to prune": (["fp32", "pruned:0.5"], "variant pruned:0.5: the network has no weights in torch"),
    "nothing to cast": (["fp32", "bf16"], "variant bf16: the network has no weights in torch"),
    "missing file": (["fp32", "there/is.onnx"], "there/is.onnx.* is not there"),
    "other classes": ({"fp32": ONE, "more": nn.Sequential(nn.Flatten(), nn.Linear(16, 5))}, "variant more: "),
    "no model": ({"fp32": ONE, "number": 3}, "variant number: "),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_variants(kind: str) -> None:
    variants, said = WRONG[kind]
    with pytest.raises(InputError, match=said) as caught:
        ino.evaluate_variants(ONE, grey(0.55, 4), variants, {"pgd": PGD}, [THREAT])
    assert "\n" not in str(caught.value)


def test_wrong_calibration(digits: tuple[nn.Module, Dataset]) -> None:
    net, data = digits
    options = ino.VariantOptions(calibration=grey(0.5))
    with pytest.raises(InputError, match="calibration are 1×4×4 and the measured ones 1×8×8"):
        ino.evaluate_variants(net, data, ["fp32", "int8"], {"pgd": PGD}, [THREAT], options=options)


@needs_onnx
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_variant_of_a_torchvision_network() -> None:
    from torchvision.models import resnet18

    size = every_digit()
    images = nn.functional.interpolate(size.images.float(), size=32).round().byte().repeat(1, 3, 1, 1)
    data = Dataset.from_tensors(images, size.labels, name="digits")
    torch.manual_seed(0)
    net = resnet18(num_classes=10).train()
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    for rows in torch.randperm(1500).split(50)[:25] * 2:
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images[rows] / 255), size.labels[rows]).backward()
        optimizer.step()
    options = ino.VariantOptions(calibration=data.limit(100))
    names = ["fp32", "bf16", "onnx", "int8", "torchscript", "pruned:0.5"]
    test = data.subset(range(1500, 1550))
    found = ino.evaluate_variants(net.eval(), test, names, {"pgd": PGD}, [ino.Threat("linf", 8 / 255)], options=options)
    clean, attacked = found.accuracies().values()
    assert clean["fp32"] > 0.8
    assert attacked["fp32"] < clean["fp32"]
    for cell in (clean, attacked):
        assert cell["onnx"] == cell["torchscript"] == cell["fp32"]
        assert abs(cell["bf16"] - cell["fp32"]) <= 0.03


@needs_onnx
def test_every_variant_of_a_foreign_onnx_file(tmp_path: Path) -> None:
    """Channels last and a fixed batch of one, which torch's exporter never writes."""
    from onnx_samples import numbers, write_graph

    nodes = [
        ("Transpose", ["images"], ["x"], {"perm": [0, 3, 1, 2]}), ("Conv", ["x", "K"], ["c"], {"strides": [2, 2]}),
        ("Relu", ["c"], ["r"], {}), ("ReduceMean", ["r"], ["m"], {"axes": [2, 3], "keepdims": 0}),
        ("MatMul", ["m", "W"], ["y"], {}),
    ]  # fmt: skip
    path = write_graph(
        tmp_path / "foreign.onnx", nodes, {"images": ("FLOAT", [1, 8, 8, 3])}, {"y": ("FLOAT", [1, 4])},
        {"K": numbers(8, 3, 3, 3), "W": numbers(8, 4, seed=1)},
    )  # fmt: skip
    g = torch.Generator().manual_seed(0)
    images = (255 * torch.rand(120, 3, 8, 8, generator=g) * torch.rand(120, 3, 1, 1, generator=g)).byte()
    with torch.no_grad():
        labels = OnnxModel(path)(images / 255).argmax(dim=1)
    data = Dataset.from_tensors(images, labels, classes="abcd")
    names, threats = ["fp32", "bf16", "onnx", "int8", "pruned:0.25"], [ino.Threat("linf", 0.02)]
    found = ino.evaluate_variants(str(path), data, names, {"pgd": PGD}, threats)
    clean, attacked = found.accuracies().values()
    assert list(clean) == list(attacked) == names
    assert clean["fp32"] == clean["onnx"] == 1
    assert attacked["fp32"] == attacked["onnx"] < 1
    with pytest.raises(InputError, match="variant torchscript: the exported file does not run on batches of other"):
        ino.evaluate_variants(str(path), data, ["fp32", "torchscript"], {"pgd": PGD}, threats)
    assert found[0].model == str(path)
