"""Models that give labels only, through every job: functions, declared outputs and an address on this machine."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_forms import body, quarters
from servers import predictions, serving
from torch import Tensor

import inoculate as ino
from inoculate.artifacts.rows import read_rows, write_rows
from inoculate.core.threat import distance

DATA = quarters(24)
QUIET = ino.EvaluationOptions(checks=False)
HSJ = {"hsj": ino.HopSkipJump(queries=200, samples=20)}
L2 = ino.Threat("l2", 0.6)


def labels(change: Callable[[Tensor], Any] = lambda z: z) -> Callable[[Tensor], Any]:
    """A function from images to labels, as `change` gives them back."""
    net = body()
    return lambda x: change(net(x).argmax(dim=1))


FORMS = {
    "tensor": lambda z: z,
    "int32": lambda z: z.int(),
    "numpy": lambda z: z.numpy(),
    "numpy uint8": lambda z: z.numpy().astype("uint8"),
    "list": lambda z: z.tolist(),
    "column": lambda z: z[:, None],
}


@functools.cache
def of_the_network() -> ino.Evaluation:
    return ino.evaluate(body(), DATA, HSJ, [L2], options=QUIET)


def summary(found: ino.Evaluation) -> list[Any]:
    return [(row.attack, row.eps, row.correct, row.n, row.queries) for row in found]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_labels_gives_the_numbers_of_the_network(form: str) -> None:
    for precision in ("fast", "exact") if form == "tensor" else ("fast",):
        options = ino.EvaluationOptions(precision=precision, checks=False)  # type: ignore[arg-type]
        found = ino.evaluate(labels(FORMS[form]), DATA, HSJ, [L2], options=options)
        assert [row.correct for row in found] == [row.correct for row in of_the_network()]
        assert found[1].correct < found[0].correct == 24
        assert any("labels only" in each for each in found.warnings)
        assert bool(found.per_image[found[0]].margin.isnan().all())


def test_labels_are_declared_where_they_are_floats() -> None:
    model = ino.load_model(labels(lambda z: z.float().numpy()), outputs="labels")
    assert summary(ino.evaluate(model, DATA, HSJ, [L2], options=QUIET)) == summary(
        ino.evaluate(labels(), DATA, HSJ, [L2], options=QUIET)
    )
    of_logits = ino.load_model(body(), outputs="labels")
    assert ino.evaluate(of_logits, DATA, HSJ, [L2], options=QUIET)[1].queries is not None
    with pytest.raises(ino.InputError, match="labels only"):
        ino.evaluate(of_logits, DATA, ["square"], options=QUIET)


@pytest.mark.parametrize("outputs", ["probabilities", "log-probabilities", "sigmoid", "single-logit"])
def test_labels_that_are_declared_as_something_else_are_refused(outputs: str) -> None:
    with pytest.raises(ino.InputError, match="gives labels only"):
        ino.evaluate(ino.load_model(labels(), outputs=outputs), DATA, HSJ, [L2], options=QUIET)


@pytest.mark.parametrize("values", [[0.5, 1.0], [math.nan, 1.0]], ids=str)
def test_what_is_declared_as_labels_and_is_none_is_refused(values: list[Any]) -> None:
    model = ino.load_model(lambda x: torch.tensor(values, dtype=torch.float32)[:, None], outputs="labels")
    with pytest.raises(ino.InputError, match="declared as labels") as caught:
        model(torch.zeros(2, 3, 8, 8))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("attack", ["fgsm", "pgd", "square", "fab_t", "autoattack", "fmn", "one_step_target"])
def test_attacks_that_need_more_are_refused_by_naming_those_that_do_not(attack: str) -> None:
    with pytest.raises(ino.InputError, match="attack it with hopskipjump or rays") as caught:
        ino.evaluate(labels(), DATA, [attack], options=QUIET)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda z: z + 1, "label 4 and the data has 4 classes, 0 to 3.*counts from 1"),
        (lambda z: z * 0 + 17, "label 17"),
        (lambda z: z - 1, "label -1"),
        (lambda z: F.one_hot(z, 4), "returns int64 numbers"),
        (lambda z: z[1:], "returns int64 numbers"),
        (lambda z: [str(each) for each in z.tolist()], "returns list, not a tensor"),
    ],
)
def test_labels_that_are_none_are_refused_in_one_line(change: Callable[[Tensor], Any], words: str) -> None:
    def counting_from(z: Tensor) -> Any:
        return change(z)

    with pytest.raises(ino.InputError, match=words) as caught:
        ino.evaluate(labels(counting_from), DATA, HSJ, [L2], options=QUIET)
    assert "\n" not in str(caught.value)


def test_one_hot_floats_are_told_to_be_labels_in_disguise() -> None:
    found = ino.evaluate(labels(lambda z: F.one_hot(z, 4).float()), DATA, {}, options=QUIET)
    assert any("one-hot" in each and "--outputs labels" in each for each in found.warnings)


def test_checks_that_need_more_are_not_made() -> None:
    found = ino.evaluate(labels(), DATA, HSJ, [L2])
    assert [check.name for check in found.checks if check.passed] == ["eps = 0"]
    others = [check for check in found.checks if check.name != "eps = 0"]
    assert len(others) == 6
    assert all(check.passed is None and check.message.startswith("–") for check in others)


def test_class_names_cannot_be_matched_and_nothing_can_be_explained() -> None:
    with pytest.raises(ino.InputError, match="no class names can be matched"):
        ino.evaluate(labels(), DATA, HSJ, options=ino.EvaluationOptions(class_names=list("abcd")))
    with pytest.raises(ino.InputError, match="needs its gradient"):
        ino.explain(labels(), DATA)


def test_random_labels_are_told() -> None:
    def noisy(x: Tensor) -> Tensor:
        return torch.randint(4, (len(x),))

    found = ino.evaluate(noisy, DATA, {}, options=QUIET)
    assert any("labels are random" in each for each in found.warnings)


def test_minimal_eps_images_and_records_of_a_function(tmp_path: Path) -> None:
    model, threat = labels(), ino.Threat("linf", 0.05)
    smallest = ino.minimal_eps(model, DATA, ino.RayS(queries=100), threat)
    options = ino.EvaluationOptions(checks=False, keep_images=True)
    found = ino.evaluate(model, DATA, {"rays": ino.RayS(queries=100)}, [ino.Threat(eps=0.02), threat], options=options)
    assert [row.correct for row in found.rows[1:]] == [int((smallest > eps).sum()) for eps in (0.02, 0.05)]
    assert 0 < found[2].correct < found[1].correct
    saved = ino.save_images(found, model, DATA, tmp_path / "images")
    assert [len(each.files) for each in saved] == [24 - row.correct for row in found.rows[1:]]
    x = DATA.images.float() / 255
    assert distance(found.images[found[2]], x, "linf").max() <= 0.05 + 1e-6
    found.save(tmp_path / "saved")
    again = ino.Evaluation.load(tmp_path / "saved")
    assert again.rows == found.rows
    assert again.per_image[again[1]].queries == found.per_image[found[1]].queries
    ino.write_records(found, tmp_path / "records.parquet")


def test_queries_are_those_of_the_attack_on_the_images_that_it_attacked() -> None:
    asked = []

    def model(x: Tensor) -> Tensor:
        asked.append(len(x))
        return labelled(x)

    labelled = labels()
    found = ino.evaluate(model, DATA, {}, options=QUIET)
    before = sum(asked)
    assert found[0].queries is None
    asked.clear()
    two = ino.evaluate(model, DATA, HSJ, [L2, ino.Threat("l2", 0.3)], options=QUIET)
    made = sum(asked) - before - 2 * 24  # less the verdicts at two eps
    assert two[1].queries == two[2].queries == round(made / 24, 1)
    assert 50 < two[1].queries <= 200
    in_time = ino.EvaluationOptions(checks=False, time_budget="1h")
    assert ino.evaluate(model, DATA, HSJ, [L2], options=in_time)[1].queries == two[1].queries


def test_queries_are_left_out_of_rows_that_have_none(tmp_path: Path) -> None:
    rows = ino.evaluate(body(), DATA, ["fgsm"], options=QUIET).rows
    assert "queries" not in write_rows(tmp_path / "rows.json", rows).read_text()
    assert read_rows(tmp_path / "rows.json") == rows


def test_transfer_attacks_do_not_need_the_target_to_give_more() -> None:
    found = ino.transfer({"network": body(), "black box": labels()}, DATA, ino.HopSkipJump(queries=60), [L2])
    matrix = found.matrix()
    assert matrix["network"]["black box"] == matrix["network"]["network"]


def test_an_endpoint_gives_the_numbers_of_the_network_behind_it() -> None:
    net = body()
    expected = ino.evaluate(labels(), DATA, HSJ, [L2], options=QUIET)
    with serving(predictions(lambda x: net(x).argmax(1))) as (url, sizes):
        found = ino.evaluate(url, DATA, HSJ, [L2], options=QUIET)
        assert summary(found) == summary(expected)
        assert found[0].model == url
        assert max(sizes) <= 64
    with serving(predictions(net)) as (url, _):
        scores = ino.evaluate(url, DATA, {"square": ino.Square(queries=30)}, [L2], options=QUIET)
        assert scores[1].queries is not None
        assert (
            scores[1].correct
            == ino.evaluate(net, DATA, {"square": ino.Square(queries=30)}, [L2], options=QUIET)[1].correct
        )
        with pytest.raises(ino.InputError, match="attack it with square"):
            ino.evaluate(url, DATA, ["fgsm"], options=QUIET)
