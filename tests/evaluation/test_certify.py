"""The job `certify`: counts known by hand, the alarm, what it refuses, and its files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from attack_samples import linear_net
from torch import Tensor, nn

import inoculate as ino
from inoculate.artifacts.rows import read_rows
from inoculate.certification import certifiers
from inoculate.certification.bounds.graph import Graph
from inoculate.certification.certifiers import Bounds
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation import votes
from inoculate.evaluation.certificate_checks import certificate_checks
from inoculate.evaluation.combined import combined_rows
from inoculate.evaluation.result import Evaluation

QUIET = ino.CertificationOptions(evaluation=ino.EvaluationOptions(checks=False))
PIXELS = (0, 26, 51, 77, 102, 153, 179, 204)  # of images of four equal pixels; class 1 where the mean exceeds a half


def model() -> nn.Module:
    return linear_net([[0.0] * 4, [1.0] * 4], [0.0, -2.0])


def data(wrong: int = 0) -> Dataset:
    """Eight images, the first `wrong` of them with the other label."""
    images = torch.tensor(PIXELS, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()
    labels = (torch.tensor(PIXELS) > 127).long()
    labels[:wrong] = 1 - labels[:wrong]
    return Dataset.from_tensors(images, labels, classes=["dark", "bright"])


def certified(found: Evaluation) -> dict[tuple[str, float], int]:
    return {(row.norm, row.eps): row.correct for row in found if row.attack == "certified"}


@pytest.mark.smoke
def test_a_linear_model_is_certified_up_to_its_distance() -> None:
    threats = [Threat("linf", 0.05), Threat("linf", 0.15), Threat("linf", 0.25), Threat("linf", 0.45)]
    found = ino.certify(model(), data(wrong=1), threats, ["pgd"], options=QUIET)
    # the means lie 0.4, 0.3, 0.2, 0.1 below and 0.1, 0.2, 0.3 above a half; the first image has the wrong label
    assert certified(found) == {("linf", 0.05): 7, ("linf", 0.15): 5, ("linf", 0.25): 3, ("linf", 0.45): 0}
    assert [row.attack for row in found] == ["none", *["pgd"] * 4, *["certified"] * 4]
    assert [row.correct for row in found][1:5] == [7, 5, 3, 0], "the attack is exact here too"
    assert [(check.name, check.passed) for check in found.checks] == [("certificates", True)] * 4
    assert found.checks[1].message.startswith("linf eps 0.15: certified 62.5% ≤ true ≤ 62.5% (pgd)")
    row = found.rows[-1]
    assert (row.n, row.protocol, row.ci_low) == (8, "white-box", 0.0)
    assert found.per_image[row].margin[1].item() == pytest.approx(4 * 0.45 - (2 - 4 * 26 / 255), abs=1e-3)


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("l1", 1.0)])
def test_norms_and_masks(norm: str, eps: float) -> None:
    left = torch.zeros(2, 2)
    left[:, 0] = 1
    plain, masked = Threat(norm, eps), Threat(norm, eps, mask=left)  # type: ignore[arg-type]
    found = ino.certify(model(), data(), [plain, masked], ["fgsm"], options=QUIET)
    # in L2 all four pixels move by eps / 2 each, two by eps / √2; in L1 only their sum counts
    counts = [row.correct for row in found if row.attack == "certified"]
    assert counts == {"l2": [4, 6], "l1": [4, 4]}[norm]
    assert [row.mask for row in found if row.attack == "certified"] == ["", masked.mask.name]  # type: ignore[union-attr]


def test_each_image_has_its_own_mask() -> None:
    masks = torch.zeros(8, 1, 2, 2)
    masks[:, :, 0, 0] = 1
    masks[4:] = 1
    threat = Threat("linf", 0.35, mask=masks)
    (row,) = (row for row in ino.certify(model(), data(), [threat], [], options=QUIET) if row.attack == "certified")
    assert row.correct == 4, "one pixel does not move a mean by a tenth"


@dataclass(frozen=True)
class Liar:
    """Proves everything."""

    name: str = "liar"

    def largest_batch(self, graph: Graph) -> int:
        return 3

    def pays(self, graph: Graph) -> bool:
        return True

    def margins(self, graph: Graph, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
        return torch.ones(len(x), dtype=torch.float64)


def test_a_broken_certificate_is_an_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(certifiers.CERTIFIERS, "auto", (Liar(),))  # type: ignore[arg-type]
    found = ino.certify(model(), data(wrong=1), [Threat("linf", 0.15)], ["pgd"], options=QUIET)
    assert certified(found) == {("linf", 0.15): 7}, "an image that is wrong when clean is never certified"
    (check,) = found.checks
    assert (check.name, check.passed) == ("certificates", False)
    assert "pgd at eps 0.15 breaks 2 of 7 certified images (first: image 4)" in check.message
    assert "FAILED: certificates" in str(found)
    assert not found.require("checks")
    attacked = next(row for row in found if row.attack == "pgd")
    beyond = {found.rows[-1]: found.per_image[found.rows[-1]], replace(attacked, eps=0.2): found.per_image[attacked]}
    (check,) = certificate_checks(found.rows[-1], beyond)
    assert check.passed is None, "an attack at a larger eps may break it"


def test_cheap_bounds_go_first_and_tighter_ones_get_what_is_left(digits: tuple[nn.Module, Dataset]) -> None:
    network, images = digits[0], digits[1].subset(range(12))
    threats = [Threat("linf", eps) for eps in (0.002, 0.005)]
    steps: list[tuple[str, int, int]] = []
    found = {
        method: ino.certify(network, images, threats, [], options=replace(QUIET, method=method),
                            progress=lambda *step: steps.append(step))  # type: ignore[misc]
        for method in ("ibp", "crown-ibp")
    }  # fmt: skip
    few, more = (certified(found[method]) for method in ("ibp", "crown-ibp"))
    assert few[("linf", 0.005)] < more[("linf", 0.005)] <= more[("linf", 0.002)]
    assert any(step[0] == "crown-ibp linf eps 0.005" and step[1] == step[2] > 0 for step in steps)
    assert any("by crown-ibp" in note for note in found["crown-ibp"].notes)
    assert found["crown-ibp"].provenance["certified"] == {"method": "crown-ibp", "tried": ["ibp", "crown-ibp"]}


def test_auto_leaves_out_what_takes_too_long() -> None:
    graph = ino.trace(_wide(), (1, 40, 40))
    names = {method: [each.name for each in certifiers.get_certifiers(method, graph)] for method in ("auto", "crown")}
    assert names == {"auto": ["ibp", "crown-ibp"], "crown": ["ibp", "crown-ibp", "crown"]}


def _wide() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 40 * 40, 2))


def test_a_time_budget_leaves_images_unproven() -> None:
    options = replace(QUIET, evaluation=ino.EvaluationOptions(checks=False, time_budget=0.0001))
    found = ino.certify(model(), data(), [Threat("linf", 0.05)], [], options=options)
    assert certified(found) == {("linf", 0.05): 0}
    assert found.rows[-1].n == 8, "they count, for a certified accuracy is a lower bound"
    assert found.checks[0].passed is None


def test_the_worst_case_is_that_of_attacks() -> None:
    found = ino.certify(model(), data(), [Threat("linf", 0.15)], ["fgsm", "pgd"], options=QUIET)
    assert {row.attack: row.correct for row in combined_rows(found.per_image)} == {"worst-case": 6}
    assert found.require("certified@0.15>=75%,worst-case@0.15>=75%")
    assert not found.require("certified>=76%")


def test_it_is_saved_and_reported(tmp_path: Path) -> None:
    found = ino.certify(model(), data(), [Threat("linf", 0.15)], ["fgsm"], options=QUIET)
    found.save(tmp_path)
    again = Evaluation.load(tmp_path)
    assert again.rows == found.rows
    assert again.checks == found.checks
    assert [row.attack for row in read_rows(tmp_path / "results.json")] == ["none", "fgsm", "certified"]
    page = ino.write_report(tmp_path).read_text()
    assert "Proved" in page
    ino.write_records(found, tmp_path / "records.parquet")


class Dropping(nn.Module):
    """Random in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.dropout(x, 0.5, training=True).flatten(1)[:, :2]


def test_what_cannot_be_certified_is_refused_in_a_line() -> None:
    images, threat = data(), Threat("linf", 0.1)
    transformer = nn.Sequential(nn.Flatten(), nn.GELU(), nn.Linear(4, 2))
    for network, threats, options, words in (
        (transformer, [threat], {}, r"layer 1 \(GELU, gelu\)"),
        (Dropping(), [threat], {}, "same logits twice"),
        (lambda x: x.flatten(1).argmax(1) % 2, [threat], {}, "same logits twice"),
        (model(), [Threat("l0", 2)], {}, "not l0"),
        (model(), [], {}, "no threat"),
        (model(), [threat], {"batch_size": 0}, "batch_size"),
        (model().half(), [threat], {}, "float32"),
    ):
        with pytest.raises(InputError, match=words) as raised:
            ino.certify(network, images, threats, ["fgsm"], options=QUIET, **options)  # type: ignore[arg-type]
        assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match="crwn"):
        ino.CertificationOptions("crwn")


class Shy(nn.Module):
    """Other steps once it has seen images of a trace."""

    def forward(self, x: Tensor) -> Tensor:
        logits = x.flatten(1)[:, :2]
        return logits if torch.compiler.is_exporting() else 1 - logits


def test_a_trace_that_is_not_the_model_is_refused() -> None:
    with pytest.raises(InputError, match="other logits"):
        ino.certify(Shy(), data(), [Threat("linf", 0.1)], [], options=QUIET)


def test_a_function_is_certified_like_its_network() -> None:
    network = model()
    found = ino.certify(lambda x: network(x), data(), [Threat("linf", 0.15)], [], options=QUIET)
    assert certified(found) == {("linf", 0.15): 6}


def test_float32_intervals_fit_into_memory() -> None:
    graph = ino.trace(_wide(), (1, 40, 40))
    sizes = [Bounds("x", method).largest_batch(graph) for method in ("ibp", "crown-ibp", "crown")]  # type: ignore[arg-type]
    assert 1 <= sizes[2] <= sizes[1] <= sizes[0] <= certifiers.MOST_IMAGES


def test_a_smoothed_classifier_has_rows_of_its_own() -> None:
    smoothing = ino.Smoothing(sigma=0.25, n=2000)
    options = replace(QUIET, method="smoothing", smoothing=smoothing)
    threats = [Threat("l2", 0.1), Threat("l2", 0.3), Threat("l2", 3.0)]
    steps: list[tuple[str, int, int]] = []
    found = ino.certify(
        model(), data(wrong=1), threats, ["pgd"], options=options, progress=lambda *step: steps.append(step)
    )
    # they lie 1, 0.8, 0.6, 0.4, 0.2, 0.2, 0.4 and 0.6 from the plane, which smoothing does not change
    assert [(row.attack, row.eps, row.correct) for row in found] == [
        ("none", 0.0, 7), ("certified", 0.1, 7), ("certified", 0.3, 5), ("certified", 3.0, 0),
    ]  # fmt: skip
    assert {row.model for row in found} == {"model (smoothed, sigma 0.25)"}
    assert steps[-1] == ("smoothing", 8, 8)
    assert found.checks[0].passed is None
    one = ino.certify(model(), data().subset([4]), threats, [], options=options)
    assert [row.correct for row in one] == [1, 1, 0, 0], "an image's noise is its own"
    late = replace(options, evaluation=ino.EvaluationOptions(time_budget=0.0001))
    assert [(row.attack, row.correct, row.n) for row in ino.certify(model(), data(), threats, [], options=late)] == [
        ("certified", 0, 8)
    ] * 3
    with pytest.raises(InputError, match="l2, not linf"):
        ino.certify(model(), data(), [Threat("linf", 0.1)], [], options=options)


def stopped_after(images: int) -> Any:
    """A `progress` that ends the process, as Ctrl-C does, once so many images are proven."""

    def progress(step: str, done: int, total: int) -> None:
        if done >= images and not step.startswith(("clean", "fgsm")):
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("smoothed", [False, True])
def test_a_store_keeps_what_is_proven(smoothed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proven: list[int] = []
    real = votes.certify_smoothed

    def counted(network: nn.Module, x: Tensor, *args: Any, **more: Any) -> Any:
        proven.append(len(x))
        return real(network, x, *args, **more)

    @dataclass(frozen=True)
    class Counted(Bounds):
        def margins(self, graph: Graph, x: Tensor, y: Tensor, threat: Threat) -> Tensor:
            proven.append(len(x))
            return super().margins(graph, x, y, threat)

    monkeypatch.setattr(votes, "certify_smoothed", counted)
    monkeypatch.setitem(certifiers.CERTIFIERS, "ibp", (Counted("ibp", "ibp"),))
    kept = ino.EvaluationOptions(checks=False, store=tmp_path)
    options = replace(QUIET, method="smoothing" if smoothed else "ibp", smoothing=ino.Smoothing(0.25, n=500))
    threats = [Threat("l2", 0.1)]

    def run(images: Dataset, store: bool = True, seed: int = 0, **more: Any) -> list[Any]:
        own = replace(options, evaluation=kept if store else options.evaluation)
        found = ino.certify(model(), images, threats, [], batch_size=3, options=own, seed=seed, **more)
        return [replace(row, seconds=0.0) for row in found]

    with pytest.raises(KeyboardInterrupt):
        run(data(), progress=stopped_after(3))
    first = sum(proven)
    assert 3 <= first < 8
    found = run(data())
    assert sum(proven) == 8, "each image once"
    assert run(data()) == found
    assert [row.correct for row in run(data().subset([6, 1, 2]))] == [3, 3]
    assert sum(proven) == 8
    assert run(data(), store=False) == found
    assert run(data(wrong=1))[-1].correct == found[-1].correct - 1, "another label is another image"
    threats[0] = Threat("l2", 0.11)
    before = sum(proven)
    run(data())
    assert sum(proven) == before + (0 if smoothed else 8), "smoothing finds a radius, which is that of any eps"


@pytest.mark.smoke
def test_evaluate_proves_at_the_threats_it_is_given(tmp_path: Path) -> None:
    options = ino.EvaluationOptions(checks=False, certified=[Threat("linf", 0.15), Threat("l2", 0.5)], store=tmp_path)
    found = ino.evaluate(model(), data(wrong=1), ["pgd"], [Threat("linf", 0.15)], options=options)
    same = ino.certify(model(), data(wrong=1), options.certified, [], options=QUIET)
    assert certified(found) == certified(same) == {("linf", 0.15): 5, ("l2", 0.5): 3}
    assert [(check.name, check.passed) for check in found.checks] == [("certificates", True), ("certificates", None)]
    assert {row.arm for row in found} == {"standard"}
    assert found.require("certified@0.15>=62.5%,certified@l2:0.5>=37.5%")
    assert not found.require("certified@0.15>62.5%")
    assert Evaluation.load(found.save(tmp_path / "out")).require("certified@0.15>=62.5%")
    missed = found.require("certified@0.3>=1%")
    assert "not measured: evaluate with `certified`, or certify" in missed.line


def test_certify_proves_also_what_its_evaluation_asks_for() -> None:
    own = ino.EvaluationOptions(checks=False, certified=[Threat("linf", 0.15), Threat("linf", 0.25)])
    found = ino.certify(model(), data(), [Threat("linf", 0.15)], ["fgsm"], options=replace(QUIET, evaluation=own))
    assert certified(found) == {("linf", 0.15): 6, ("linf", 0.25): 4}
    assert [row.attack for row in found] == ["none", "fgsm", "certified", "certified"]


def test_proofs_of_an_evaluation_are_refused_before_anything_is_attacked() -> None:
    def attack(*_: Any, **__: Any) -> Tensor:
        raise AssertionError("attacked")

    own = ino.EvaluationOptions(checks=False, certified=[Threat("linf", 0.1)])
    network = nn.Sequential(nn.Flatten(), nn.GELU(), nn.Linear(4, 2))
    with pytest.raises(InputError, match=r"layer 1 \(GELU, gelu\)"):
        ino.evaluate(network, data(), {"mine": attack}, [Threat("linf", 0.1)], options=own)
    with pytest.raises(InputError, match="not l0"):
        ino.EvaluationOptions(certified=[Threat("l0", 2)])
    with pytest.raises(InputError, match="give a list"):
        ino.EvaluationOptions(certified=Threat("linf", 0.1))  # type: ignore[arg-type]
