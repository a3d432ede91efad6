"""Per-image tables and images on disk hold what the results hold."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from evaluation_samples import measured
from PIL import Image
from torch import nn

from inoculate.attacks.autoattack import AutoAttack
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.pgd import PGD
from inoculate.core.errors import InputError
from inoculate.core.pixels import eight_bits
from inoculate.core.threat import Threat, distance
from inoculate.evaluation.records import save_images, write_records


def test_records_hold_a_line_per_image_and_row(digits, tmp_path):
    model, data = digits
    data = data.subset(range(120))
    attacks = {"fgsm": FGSM(), "autoattack": AutoAttack(steps=5, targets=2, queries=20)}
    found = measured(model, data, attacks, [Threat("linf", 0.15), Threat("linf", 0.05)])
    table = pq.read_table(write_records(found, tmp_path / "r.parquet")).to_pandas()
    assert len(table) == 5 * 120
    clean = table[table.attack == "none"]
    assert clean.right.sum() == found[0].correct
    assert (clean.predicted == clean.clean_predicted).all()
    for row in found:
        lines = table[(table.attack == row.attack) & (table.eps == row.eps)]
        assert lines.right.sum() == row.correct
        assert (lines.label.to_numpy() == data.labels.numpy()).all()
        assert ((lines.margin < 0) == lines.right).mean() > 0.98  # the margin decides; clean errors are errors
        assert (lines.distance <= row.eps + 1e-6).all()
        assert ((lines.predicted == lines.label) == lines.right).all()
    whole = table[(table.attack == "autoattack") & (table.eps == 0.15)]
    broken = whole[~whole.right & (whole.clean_predicted == whole.label)]
    assert set(broken.broken_by) <= {"pgd", "apgd_ce", "apgd_t", "fab_t", "square"}
    assert len(broken) > 10
    assert whole[whole.right].broken_by.isna().all()
    assert (broken.breaks_at <= 0.15 + 1e-6).all()
    assert (whole[whole.clean_predicted != whole.label].breaks_at == 0).all()
    easy = table[(table.attack == "autoattack") & (table.eps == 0.05) & ~table.right]
    assert set(easy.image) <= set(whole[~whole.right].image)  # broken at a smaller eps is broken at a larger one
    with pytest.raises(InputError, match=r"ends in \.parquet"):
        write_records(found, tmp_path / "r.csv")


def test_eight_bits_stay_inside_the_ball():
    g = torch.Generator().manual_seed(0)
    original = torch.randint(256, (40, 3, 6, 6), dtype=torch.uint8, generator=g)
    x, model = original.float() / 255, nn.Sequential(nn.Flatten(), nn.Linear(108, 4)).requires_grad_(False)
    for threat in (Threat("linf", 0.1), Threat("linf", 8 / 255), Threat("l2", 0.9), Threat("l1", 4.0)):
        x_adv = PGD(steps=3)(model, x, torch.zeros(40).long(), threat)
        pixels = eight_bits(x_adv, original, threat)
        assert pixels.dtype is torch.uint8
        assert distance(pixels.float() / 255, x, threat.norm).max() <= threat.eps + 1e-6, threat
        assert (pixels.float() / 255 - x_adv).abs().max() < 1.01 / 255, threat


def test_saved_images_are_read_back_and_counted(digits, tmp_path):
    model, data = digits
    data = data.subset(range(120))
    # to the last step: images that are left alone as soon as they fool may stand just behind the boundary
    found = measured(model, data, ["pgd"], [Threat("linf", 0.1)], precision="exact", keep_images=True)
    (saved,) = save_images(found, model, data, tmp_path)
    broken = found.per_image[found[0]].right & ~found.per_image[found[1]].right
    assert saved.row == found[1]
    assert list(saved.files) == broken.nonzero().squeeze(1).tolist()
    assert len(saved.files) > 10
    assert sorted((tmp_path / "pgd" / "linf-0.1").glob("*.png")) == sorted(saved.files.values())
    read = torch.stack([torch.from_numpy(np.asarray(Image.open(file)).copy())[None] for file in saved.files.values()])
    wrong = model(read.float() / 255).argmax(dim=1) != data.labels[broken]
    assert saved.misclassified == int(wrong.sum())
    assert 0.8 * len(saved.files) <= saved.misclassified <= len(saved.files)
    for row, path in list(saved.files.items())[:10]:
        label, predicted = path.stem[7:].split("-as-")
        assert int(path.name[:6]) == row
        assert int(label) == int(data.labels[row]) != int(predicted)
        moved = np.abs(np.asarray(Image.open(path)).astype(int) - data.images[row, 0].numpy().astype(int))
        assert 0 < moved.max() <= 25  # 0.1 · 255 = 25.5
    with pytest.raises(InputError, match="keep_images"):
        save_images(measured(model, data, ["fgsm"], [Threat()]), model, data, tmp_path)
