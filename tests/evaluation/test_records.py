"""Records and images on disk say what the verdicts said."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from digits_samples import trained_digits
from PIL import Image
from torch import nn

from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.fab import FAB
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.pgd import PGD
from inoculate.core import modes
from inoculate.core.pixels import eight_bits
from inoculate.core.threat import Threat, distance
from inoculate.data.dataset import Dataset
from inoculate.evaluation import evaluate as evaluation
from inoculate.evaluation.engine import judge_clean
from inoculate.evaluation.evaluate import bounds, evaluate, minimal_eps
from inoculate.evaluation.per_sample import Verdict
from inoculate.evaluation.records import Gallery, write_records


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Dataset]:
    model, split = trained_digits()
    return model, split.subset(range(120))


def test_records_hold_a_line_per_image_and_row(digits: tuple[nn.Module, Dataset], tmp_path: Path) -> None:
    model, split = digits
    verdicts: dict[str, Verdict] = {}
    attacks = {"fgsm": FGSM(), "autoattack": AutoAttack(steps=5, targets=2, queries=20)}
    threats = [Threat("linf", 0.15), Threat("linf", 0.05)]
    rows = evaluate(model, split, attacks, threats, records=verdicts)
    write_records(tmp_path / "r.parquet", split, rows, verdicts)
    table = pq.read_table(tmp_path / "r.parquet").to_pandas()
    assert len(table) == 5 * 120
    clean = table[table.attack == "none"]
    assert clean.right.sum() == rows[0].correct
    assert (clean.predicted == clean.clean_predicted).all()
    for row in rows:
        lines = table[(table.attack == row.attack) & (table.eps == row.eps)]
        assert lines.right.sum() == row.correct
        assert (lines.label.to_numpy() == split.labels.numpy()).all()
        assert ((lines.margin < 0) == lines.right).mean() > 0.98  # the margin decides; clean errors are errors
        assert (lines.distance <= row.eps + 1e-6).all()
        assert ((lines.predicted == lines.label) == lines.right).all()
    whole = table[(table.attack == "autoattack") & (table.eps == 0.15)]
    hit = whole[~whole.right & (whole.clean_predicted == whole.label)]
    assert set(hit.broken_by) <= {"pgd", "apgd_ce", "apgd_t", "fab_t", "square"}
    assert len(hit) > 10
    assert whole[whole.right].broken_by.isna().all()
    assert (hit.breaks_at <= 0.15 + 1e-6).all()
    assert (whole[whole.clean_predicted != whole.label].breaks_at == 0).all()
    easy = table[(table.attack == "autoattack") & (table.eps == 0.05) & ~table.right]
    assert set(easy.image) <= set(whole[~whole.right].image)  # broken at a smaller eps is broken at a larger one


def test_an_ensembles_accuracy_falls_with_eps_and_below_each_attack(digits: tuple[nn.Module, Dataset]) -> None:
    model, split = digits
    attacks = {"pgd": PGD(), "autoattack": AutoAttack(steps=8, targets=2, queries=20)}
    rows = evaluate(model, split, attacks, [Threat("linf", eps) for eps in (0.1, 0.02, 0.05)])
    found = {(row.attack, row.eps): row.correct for row in rows}
    assert found["autoattack", 0.1] <= found["autoattack", 0.05] <= found["autoattack", 0.02] <= found["none", 0.0]
    assert all(found["autoattack", eps] <= found["pgd", eps] for eps in (0.02, 0.05, 0.1))


def test_minimal_eps_is_the_whole_curve(digits: tuple[nn.Module, Dataset]) -> None:
    model, split = digits
    least = minimal_eps(model, split, "linf", FAB(steps=20, targets=3))
    right = judge_clean(model, split).right
    assert bool((least[~right] == 0).all())
    assert bool((least[right] > 0).all())
    rows = evaluate(model, split, {"fab": FAB(steps=20, targets=3)}, [Threat("linf", eps) for eps in (0.03, 0.08)])
    for row in rows[1:]:
        assert row.accuracy == pytest.approx((least > row.eps).float().mean().item(), abs=2 / 120)


@pytest.mark.parametrize("threat", [Threat("linf", 0.1), Threat("linf", 8 / 255), Threat("l2", 0.9), Threat("l1", 4.0)])
def test_eight_bits_stay_inside_the_ball(threat: Threat) -> None:
    g = torch.Generator().manual_seed(0)
    original = torch.randint(256, (40, 3, 6, 6), dtype=torch.uint8, generator=g)
    x = original.float() / 255
    x_adv = PGD(steps=3)(
        nn.Sequential(nn.Flatten(), nn.Linear(108, 4)).requires_grad_(False), x, torch.zeros(40).long(), threat
    )
    pixels = eight_bits(x_adv, original, threat)
    assert pixels.dtype is torch.uint8
    assert distance(pixels.float() / 255, x, threat.norm).max() <= threat.eps + 1e-6
    assert (pixels.float() / 255 - x_adv).abs().max() < 1.01 / 255


def test_saved_images_are_read_back_and_counted(digits: tuple[nn.Module, Dataset], tmp_path: Path) -> None:
    model, split = digits
    gallery = Gallery(tmp_path, model, split)
    verdicts: dict[str, Verdict] = {}
    # to the last step: images that are left alone as soon as they fool may stand just behind the boundary
    rows = evaluate(
        model, split, {"pgd": PGD()}, [Threat("linf", 0.1)], precision="exact", keep=gallery.keep, records=verdicts
    )
    ((key, (written, still)),) = gallery.verify().items()
    assert key == ("pgd", 0.1)
    fell = verdicts[rows[0].key].right & ~verdicts[rows[1].key].right
    assert written == int(fell.sum()) > 10
    files = sorted((tmp_path / "pgd" / "linf-0.1").glob("*.png"))
    assert [int(f.name[:6]) for f in files] == fell.nonzero().squeeze(1).tolist()
    read = torch.stack([torch.from_numpy(np.asarray(Image.open(f)).copy())[None] for f in files])
    with torch.no_grad():
        wrong = model(read.float() / 255).argmax(dim=1) != split.labels[fell]
    assert still == int(wrong.sum())
    assert 0.8 * written <= still <= written
    for path in files[:10]:
        row = int(path.name[:6])
        label, predicted = path.stem[7:].split("-as-")
        assert int(label) == int(split.labels[row]) != int(predicted)
        moved = np.abs(np.asarray(Image.open(path)).astype(int) - split.images[row, 0].numpy().astype(int))
        assert 0 < moved.max() <= 25  # 0.1 · 255 = 25.5


class _Slow(nn.Module):
    """Takes a while for each image that is attacked, by a clock that nothing else moves."""

    def __init__(self, inner: nn.Module, clock: _Clock) -> None:
        super().__init__()
        self.inner, self.clock = inner, clock

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad:
            self.clock.now += 0.01 * len(x)
        logits: torch.Tensor = self.inner(x)
        return logits


class _Clock:
    """Stands in for the module `time` where deadlines are kept: a busy machine must not decide what is tested."""

    perf_counter = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    found = _Clock()
    for module in (evaluation, modes):
        monkeypatch.setattr(module, "time", found)
    return found


def test_a_time_budget_ends_with_fewer_images_and_honest_bounds(
    digits: tuple[nn.Module, Dataset], clock: _Clock
) -> None:
    model, split = digits
    (full,) = evaluate(model, split, {"fgsm": FGSM()}, [Threat("linf", 0.1)])[1:]
    verdicts: dict[str, Verdict] = {}
    rows = evaluate(
        _Slow(model, clock), split, {"fgsm": FGSM()}, [Threat("linf", 0.1)],
        precision="exact", time_budget=0.7, records=verdicts,
    )  # fmt: skip
    assert 0.35 < clock.now < 0.8
    clean, part = rows
    assert clean.n == 120
    assert 10 < part.n < 120
    low, high = bounds(verdicts[part.key])
    assert low <= full.accuracy <= high
    open_still = verdicts[clean.key].right & ~verdicts[part.key].known  # type: ignore[operator]
    assert high - low == pytest.approx(int(open_still.sum()) / 120)
    told: list[tuple[str, int, int]] = []
    evaluate(
        _Slow(model, clock), split, {"fgsm": FGSM(), "bim": FGSM()}, [Threat("linf", 0.1)],
        precision="exact", time_budget=0.9, progress=lambda *said: told.append(said), batch_size=16,
    )  # fmt: skip
    attacked = [done for what, done, total in told if (what, total) == ("fgsm, bim", 100)]
    assert len(attacked) == len([what for what, *_ in told if what != "clean"]) > 4
    assert attacked == sorted(attacked)
    assert 0 < attacked[0] < 75  # the first of several chunks is not the whole
    assert attacked[-1] > 60
    covers = 0
    for seed in range(8):  # one interval alone may well miss
        part = evaluate(
            _Slow(model, clock), split, {"fgsm": FGSM()}, [Threat("linf", 0.1)],
            seed=seed, precision="exact", time_budget=0.4,
        )[1]  # fmt: skip
        covers += part.ci_low <= full.accuracy <= part.ci_high
    assert covers >= 5  # of 8 intervals of 95 %, chance gives fewer once in 2,700
    told.clear()
    plenty = evaluate(
        model, split, {"fgsm": FGSM()}, [Threat("linf", 0.1)], time_budget=600,
        progress=lambda *said: told.append(said),
    )  # fmt: skip
    assert told[-1] == ("fgsm", 100, 100)
    assert (plenty[1].n, plenty[1].correct) == (120, full.correct)
    assert len(evaluate(_Slow(model, clock), split, {"fgsm": FGSM()}, time_budget=1e-6, precision="exact")) == 1
