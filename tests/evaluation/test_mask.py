"""Masks in the jobs: each image keeps its own through batches, chunks, members and models, and rows name it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from evaluation_samples import measured
from torch import nn

from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.fmn import FMN
from inoculate.attacks.pgd import PGD
from inoculate.attribution.explain import explain
from inoculate.attribution.explanation import Amounts
from inoculate.core.errors import InputError
from inoculate.core.mask import Mask
from inoculate.core.pixels import to_float
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.checks import run_checks
from inoculate.evaluation.minimal_eps import minimal_eps
from inoculate.evaluation.records import save_images, write_records
from inoculate.evaluation.result import Evaluation, TransferMatrix
from inoculate.evaluation.transfer import transfer
from inoculate.hardening.harden import harden
from inoculate.models.classifier import prepare
from inoculate.report.results import collect
from inoculate.report.tables.evaluation import accuracy_table
from inoculate.training.train import train


class Ensemble:
    """FGSM, then PGD on what is left."""

    def __call__(self, model, x, y, threat, *, generator=None):
        raise AssertionError("its members attack")

    def members(self, classes, norm):
        return {"fgsm": FGSM(), "pgd": PGD(steps=3)}


ATTACKS = {"fgsm": FGSM(), "pgd": PGD(steps=3), "fmn": FMN(steps=5), "both": Ensemble()}


@pytest.fixture(scope="module")
def few(digits):
    model, data = digits
    return model, data.subset(range(24))


@pytest.fixture(scope="module")
def own(few):
    """A mask for each image."""
    shape = (24, 1, *few[1].image_size)
    return (
        torch.rand(shape, generator=torch.Generator().manual_seed(1))
        < torch.linspace(0.1, 0.9, 24)[:, None, None, None]
    )


def inside(images: torch.Tensor, data: Dataset, mask: torch.Tensor) -> bool:
    changed = (images - to_float(data.images)).abs() > 1e-6
    return bool(changed.any()) and not bool((changed & ~mask).any())


@pytest.mark.parametrize("budget", [None, "60s"])
@pytest.mark.parametrize("batch_size", [7, 256])
def test_every_image_keeps_its_own_mask(few, own, budget, batch_size):
    model, data = few
    options = {"keep_images": True, "time_budget": budget, "batch_size": batch_size}
    found = measured(model, data, ATTACKS, [Threat("linf", 0.15, mask=own), Threat("linf", 0.3, mask=own)], **options)
    assert len(found.images) == 8
    for images in found.images.values():
        assert inside(images, data, own)
    whole = measured(model, data, ATTACKS, [Threat("linf", 0.15), Threat("linf", 0.3)], batch_size=256)
    for masked, free in zip(found.rows[1:], whole.rows[1:], strict=True):
        assert masked.accuracy > free.accuracy


def test_rows_files_and_tables_tell_masks_apart(few, own, tmp_path: Path):
    model, data = few
    masks = (None, own, Mask.region("center:0.5", data.image_size))
    threats = [Threat("linf", 0.2, mask=mask) for mask in masks]
    found = measured(model, data, ["fgsm"], threats, keep_images=True)
    name = f"mask-{Mask.of(own).digest}"
    assert [row.mask for row in found] == ["", "", name, "center:0.5"]
    assert len({row.key for row in found}) == 4
    assert "mask" not in found[1].as_dict()
    assert "fgsm linf in center:0.5 eps 0.2" in str(found)
    loaded = Evaluation.load(found.save(tmp_path / "saved"))
    assert loaded.rows == found.rows
    write_records(found, tmp_path / "records.parquet")
    assert set(pq.read_table(tmp_path / "records.parquet")["mask"].to_pylist()) == {"", name, "center:0.5"}
    saved = save_images(found, model, data, tmp_path / "images")
    files = [file for each in saved for file in each.files.values()]
    broken = sum(int((result.broken_by >= 0).sum()) for result in found.per_image.values())
    assert len(set(files)) == len(files) == broken > 0
    tables = [accuracy_table(results) for results in collect(found.rows)]
    assert [len(table.rows) for table in tables] == [2, 2, 2]
    assert "center:0.5" in found.report(tmp_path / "page.html").read_text()


def test_checks_are_made_under_the_mask_and_restored(few, own, tmp_path: Path):
    model, data = few
    threat = Threat("linf", 0.2, mask=own)
    found = measured(model, data, ["fgsm"], [threat], checks=True)
    assert found.checked == threat
    assert Evaluation.load(found.save(tmp_path)).checked == threat
    assert {check.name: check.passed for check in found.checks}["eps = 0"] is not False
    checks = run_checks(prepare(model, data), data, {"pgd": PGD(steps=2)}, threat)
    assert [check.name for check in checks if check.passed is False] == []


def test_transferred_images_keep_their_masks(few, own, tmp_path: Path):
    model, data = few
    other = nn.Sequential(nn.Flatten(), nn.Linear(data.images[0].numel(), len(data.classes)))
    threats = [Threat("linf", 0.3), Threat("linf", 0.3, mask=own)]
    found = transfer({"a": model, "b": other}, data, PGD(steps=2), threats)
    name = threats[1].mask.name
    assert found.matrix(0.3, "linf", name)["a"]["a"] > found.matrix(0.3, "linf", "")["a"]["a"]
    with pytest.raises(InputError, match="does not name one"):
        found.matrix(0.3)
    assert TransferMatrix.load(found.save(tmp_path)).rows == found.rows


def test_the_smallest_eps_is_larger_under_a_mask(few, own):
    model, data = few
    free, masked = (minimal_eps(model, data, FMN(steps=20), Threat(eps=1.0, mask=mask)) for mask in (None, own))
    assert bool((masked >= free - 0.02).all())
    assert float(masked.clamp_max(1).mean()) > 1.2 * float(free.mean())


def test_an_explanation_is_made_under_the_mask(few, own):
    model, data = few
    amounts = Amounts(images=3, stability=4, fragility=6, steps=2, search=10)
    found = explain(model, data, PGD(steps=2), Threat("linf", 0.2, mask=own), amounts=amounts)
    rows = [each["row"] for each in found.facts["images"]]
    moved = torch.from_numpy(np.moveaxis(found.arrays["perturbation"], 3, 1))
    assert bool((moved != 0).any())
    assert not bool(((moved != 0) & ~own[rows]).any())
    assert found.space == f"linf in {Mask.of(own).name}"
    free = explain(model, data, PGD(steps=2), Threat("linf", 0.2), amounts=amounts)
    ours, theirs = (each.facts["fragility"]["gradient_norm"] for each in (found, free))
    assert all(one < other for one, other in zip(ours, theirs, strict=True))


def test_an_attack_that_leaves_the_mask_is_an_error(few, own):
    model, data = few

    def careless(model, x, y, threat, *, generator=None):
        return (x + threat.eps).clamp(0, 1)

    assert measured(model, data, [careless], [Threat("linf", 0.1)])
    with pytest.raises(InputError, match="outside the threat's mask") as caught:
        measured(model, data, [careless], [Threat("linf", 0.1, mask=own)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("job", ["evaluate", "transfer", "minimal_eps", "explain"])
@pytest.mark.parametrize("size", [(23, 1, 8, 8), (9, 8), (2, 8, 8)])
def test_a_mask_that_does_not_fit_the_data_is_refused_before_any_work(few, job, size):
    model, data = few
    shape = (*size[:-2], *(side - 8 + own for side, own in zip(size[-2:], data.image_size, strict=True)))
    threat = Threat("linf", 0.1, mask=torch.ones(shape))
    jobs = {
        "evaluate": lambda: measured(model, data, ["fgsm"], [threat]),
        "transfer": lambda: transfer({"a": model}, data, "fgsm", [threat]),
        "minimal_eps": lambda: minimal_eps(model, data, FMN(steps=2), threat),
        "explain": lambda: explain(model, data, "fgsm", threat, amounts=Amounts(images=1, stability=1, fragility=1)),
    }
    with pytest.raises(InputError, match="mask is") as caught:
        jobs[job]()
    assert "\n" not in str(caught.value)


def test_training_refuses_a_mask_in_one_line(few):
    _, data = few
    threat = Threat("linf", 0.1, mask=torch.ones(data.image_size))
    for job in (
        lambda: train("small_cnn", data, "pgd_at", threat, epochs=1),
        lambda: harden("small_cnn", data, threat),
    ):
        with pytest.raises(InputError, match="knows no mask"):
            job()
