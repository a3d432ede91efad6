"""The job `corruptions`: its rows are accuracies on images that `corrupt` made."""

from __future__ import annotations

import pytest
import torch
from evaluation_samples import measured

from inoculate.core.errors import InputError
from inoculate.core.pixels import to_float
from inoculate.core.threat import Threat
from inoculate.data.corruptions.corrupt import corrupt
from inoculate.evaluation.corruptions import corruptions
from inoculate.evaluation.evaluate import EvaluationOptions
from inoculate.evaluation.records import write_records
from inoculate.evaluation.result import Evaluation


@pytest.fixture(scope="module")
def few(digits):
    model, data = digits
    return model, data.subset(range(40))


def test_rows_are_the_accuracies_on_corrupted_images(few, tmp_path):
    model, data = few
    seen = []
    found = corruptions(
        model, data, ["noise", "contrast"], [1, 5], options=EvaluationOptions(name="cnn"),
        progress=lambda *step: seen.append(step),
    )  # fmt: skip
    clean, *rows, mean = found
    assert seen[-1] == ("corruptions", 8, 8)
    assert (clean.attack, clean.severity) == ("none", 0)
    assert [(row.attack, row.severity) for row in rows] == [
        (kind, s) for kind in ("gaussian_noise", "shot_noise", "impulse_noise", "contrast") for s in (1, 5)
    ]
    for row in rows:
        x = to_float(corrupt(data.images, row.attack, row.severity))
        with torch.no_grad():
            right = model(x).argmax(1) == data.labels
        assert row.correct == int(right.sum())
        assert torch.equal(found.per_image[row].right, right)
        assert (row.norm, row.eps, row.n, row.model) == ("corruption", 0.0, 40, "cnn")
    assert mean.attack == "mean_corruption"
    assert mean.accuracy == pytest.approx(sum(row.accuracy for row in rows) / 8)
    assert 0 <= mean.ci_low <= mean.accuracy <= mean.ci_high <= 1
    assert len({row.key for row in found}) == 10
    loaded = Evaluation.load(found.save(tmp_path / "saved"))
    assert loaded.rows == found.rows
    page = found.report(tmp_path / "page.html").read_text()
    assert "common corruptions" in page
    assert "gaussian noise" in page
    write_records(found, tmp_path / "records.parquet")


def test_they_join_an_evaluation_and_stay_apart_from_its_attacks(few, tmp_path):
    model, data = few
    attacked = measured(model, data, ["fgsm"], [Threat("linf", 0.1)])
    both = attacked.joined(corruptions(model, data, "contrast", [2]))
    assert [row.attack for row in both] == ["none", "fgsm", "contrast"]
    assert "contrast corruption severity 2" in str(both)
    assert "severity 2" in both._repr_html_()
    page = both.report(tmp_path / "page.html").read_text()
    assert "Accuracy under common corruptions" in page
    assert Evaluation.load(both.save(tmp_path / "saved")).rows == both.rows


def test_batches_and_seeds(few):
    model, data = few
    one, other = (corruptions(model, data, "shot_noise", [5], batch_size=size) for size in (7, 64))
    assert [row.correct for row in one] == [row.correct for row in other]
    with pytest.raises(InputError, match="severity"):
        corruptions(model, data, "fog", [])
