"""Results are sequences of rows, tables and folders; `save` and `load` are inverse."""

import json

import numpy as np
import pytest
import torch
from evaluation_samples import measured

from inoculate.artifacts.rows import read_records
from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.evaluation.evaluate import EvaluationOptions, evaluate
from inoculate.evaluation.result import Evaluation, TransferMatrix
from inoculate.evaluation.transfer import transfer

THREATS = [Threat("linf", 0.1), Threat("linf", 0.05)]
ARRAYS = ("right", "predicted", "margin", "distance", "broken_by", "finished")


@pytest.fixture(scope="module")
def found(digits):
    model, data = digits
    options = EvaluationOptions(keep_images=True)
    return evaluate(model, data.subset(range(40)), ["fgsm", "pgd"], THREATS, options=options)


@pytest.mark.smoke
def test_an_evaluation_is_a_sequence_of_rows_and_a_table(found):
    assert len(found) == len(list(found)) == 5
    assert found[0] is found.rows[0]
    table = found.table()
    assert table["attack"] == ["none", "fgsm", "fgsm", "pgd", "pgd"]
    assert table["accuracy"] == [row.accuracy for row in found]
    text = str(found).splitlines()
    assert text[0] == "model on 40 images of digits"
    assert "pgd linf eps 0.1" in text[4]
    html = found._repr_html_()
    assert "<td>pgd</td>" in html
    assert "passed: eps = 0" in html
    assert set(found.images) == set(found.rows[1:])
    assert found.images[found[1]].shape == (40, 1, 8, 8)


def test_save_and_load_are_inverse(found, tmp_path):
    assert found.save(tmp_path / "run") == tmp_path / "run"
    back = Evaluation.load(str(tmp_path / "run"))
    assert (back.rows, back.checks, back.warnings) == (found.rows, found.checks, found.warnings)
    assert (back.checked, back.classes) == (found.checked, found.classes)
    assert torch.equal(back.labels, found.labels)
    for row in found:
        mine, theirs = found.per_image[row], back.per_image[row]
        assert (mine.eps, mine.seconds, mine.names) == (theirs.eps, theirs.seconds, theirs.names)
        for name in ARRAYS:
            torch.testing.assert_close(getattr(mine, name), getattr(theirs, name), rtol=0, atol=0, equal_nan=True)
    assert all(torch.equal(back.images[row], found.images[row]) for row in found.images)
    records = read_records(tmp_path / "run" / "records.npz")
    assert all(np.array_equal(records[row.key], found.per_image[row].right.numpy()) for row in found)
    assert json.loads((tmp_path / "run" / "checks.json").read_text())["threat"]["eps"] == 0.1


def test_a_second_save_leaves_nothing_of_the_first(found, digits, tmp_path):
    found.save(tmp_path)
    model, data = digits
    measured(model, data.subset(range(10)), ["fgsm"], THREATS[:1]).save(tmp_path)
    assert not (tmp_path / "checks.json").exists()
    assert not (tmp_path / "images.npz").exists()
    assert len(Evaluation.load(tmp_path)) == 2


def test_damaged_folders_are_refused_in_one_line(found, tmp_path):
    for name, content in (
        ("per_image.npz", b""),
        ("evaluation.json", b"{}"),
        ("results.json", b"["),
        ("evaluation.json", b"["),
    ):
        found.save(tmp_path)
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=name) as caught:
            Evaluation.load(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_transfer_matrix_by_source_and_target(digits, tmp_path):
    model, data = digits
    threats = [*THREATS, Threat("l2", 0.1)]
    found = transfer({"a": model, "b": lambda x: model(x.flip(3))}, data.subset(range(40)), "fgsm", threats)
    assert len(found) == 2 + 2 * 2 * 3
    matrix = found.matrix(0.05)
    assert list(matrix) == list(matrix["a"]) == ["a", "b"]
    rows = {(row.protocol, row.model): row.accuracy for row in found if row.eps == 0.05}
    assert matrix["a"]["b"] == rows["transfer:a/standard", "b"]
    assert matrix["b"]["b"] == rows["white-box", "b"]
    assert found.matrix(0.1, "l2") != found.matrix(0.1, "linf")
    for eps in (None, 0.1, 0.3):
        with pytest.raises(InputError, match=r"linf 0\.1, linf 0\.05, l2 0\.1"):
            found.matrix(eps)
    assert "transfer:a/standard" in found._repr_html_()
    assert found.table()["eps"][-1] == 0.1
    found.save(tmp_path)
    back = TransferMatrix.load(tmp_path)
    assert (back.rows, back.models, back.warnings) == (found.rows, found.models, found.warnings)
    assert all(torch.equal(back.per_image[row].right, found.per_image[row].right) for row in found)
