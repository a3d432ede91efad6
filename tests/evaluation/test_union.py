"""The union of several norms: counted by hand, shown, saved and reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from attack_samples import linear_net, seeded
from evaluation_samples import measured
from torch import Tensor, nn

from inoculate.artifacts.rows import read_rows
from inoculate.attacks.fgsm import FGSM
from inoculate.attacks.pgd import PGD
from inoculate.core.mask import Mask
from inoculate.core.threat import Threat, largest_threat
from inoculate.data.dataset import Dataset
from inoculate.evaluation.records import write_records
from inoculate.evaluation.result import Evaluation

THREATS = [Threat("linf", 0.05), Threat("l2", 0.05), Threat("l1", 0.3), Threat("linf", 0.02)]
NAMES = ("linf 0.05", "linf 0.02", "l2 0.05", "l1 0.3")  # those that differ in eps alone are measured together


class _BrightOrSpot(nn.Module):
    """Class 1 where the image is bright on the whole, or its first pixel is."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        bright = (x.mean(dim=1) - 0.6).maximum(x[:, 0] - 0.8)
        return torch.stack([-bright, bright], dim=1)


def evaluated(**options: object) -> tuple[Evaluation, Dataset]:
    """Of seven images L∞ breaks the two that are nearly bright, L1 the three with a nearly bright spot, nothing one.

    The last one is wrong from the start.
    """
    shots = torch.full((7, 1, 4, 4), 50, dtype=torch.uint8)
    shots[:2], shots[2:5, 0, 0, 0], shots[6, 0, 0, 0] = 150, 180, 250
    shots[:2, 0, 0, 0] = 20
    data = Dataset.from_tensors(shots, torch.zeros(7, dtype=torch.int64), classes=["dark", "bright"])
    attacks = {"fgsm": FGSM(loss="margin"), "pgd": PGD(steps=5, step=0.5, loss="margin")}
    return measured(_BrightOrSpot(), data, attacks, THREATS, precision="exact", **options), data


def test_a_union_is_the_worst_of_each_image() -> None:
    found = evaluated(keep_images=True)[0]
    assert [(row.attack, row.norm) for row in found][-2:] == [("fgsm", "union"), ("pgd", "union")]
    for name in ("fgsm", "pgd"):
        alone = [found.per_image[row] for row in found if row.attack == name and row.norm != "union"]
        (row,) = [row for row in found if row.attack == name and row.norm == "union"]
        union = found.per_image[row]
        assert [int(each.right.sum()) for each in alone] == [4, 6, 6, 3]
        assert union.right.tolist() == [False] * 5 + [True, False]
        assert (row.correct, row.n, row.eps, row.threats) == (1, 7, 1.0, ", ".join(NAMES))
        assert union.names == NAMES
        assert union.broken_by.tolist() == [0, 0, 3, 3, 3, -1, -1]
        margins = torch.stack([each.margin for each in alone])
        assert torch.equal(union.margin, margins.amax(0))
        assert union.seconds == pytest.approx(sum(each.seconds for each in alone))


def test_a_union_names_the_mask_of_its_threats() -> None:
    data = Dataset.from_tensors(torch.full((2, 1, 4, 4), 50, dtype=torch.uint8), torch.tensor([0, 1]))
    edge, centre = (Mask.region(text, (4, 4)) for text in ("border:1", "center:0.5"))
    for masks, mask, threats in (
        ((edge, edge), edge.name, "linf 0.1, l1 1"),
        ((edge, centre), "", f"linf 0.1 in {edge.name}, l1 1 in {centre.name}"),
        ((edge, None), "", f"linf 0.1 in {edge.name}, l1 1"),
    ):
        united = [Threat(*pair, mask=own) for pair, own in zip((("linf", 0.1), ("l1", 1.0)), masks, strict=True)]
        row = measured(_BrightOrSpot(), data, {"fgsm": FGSM(loss="margin")}, united, precision="exact")[-1]
        assert (row.norm, row.mask, row.threats) == ("union", mask, threats)


def test_one_norm_has_no_union() -> None:
    shots = torch.randint(256, (4, 1, 2, 2), generator=seeded(0), dtype=torch.uint8)
    net, data = linear_net([[1.0] * 4, [-1.0] * 4]), Dataset.from_tensors(shots, torch.tensor([0, 1, 0, 1]))
    assert [row.norm for row in measured(net, data, ["fgsm"], [Threat("l2", 1.0), Threat("l2", 2.0)])] == ["l2"] * 3


def test_a_union_is_shown_saved_loaded_and_reported(tmp_path: Path) -> None:
    found = evaluated(name="net")[0]
    assert f"pgd union of {', '.join(NAMES)}" in str(found)
    loaded = Evaluation.load(found.save(tmp_path))
    assert loaded.rows == found.rows
    assert torch.equal(loaded.per_image[loaded[-1]].right, found.per_image[found[-1]].right)
    page = found.report(tmp_path / "page.html").read_text()
    assert ", ".join(NAMES) in page
    assert f"{found[-1].accuracy:.1%}"[:-1] in page
    assert write_records(found, tmp_path / "records.parquet").stat().st_size


def test_rows_without_threats_are_read(tmp_path: Path) -> None:
    row = evaluated()[0][1].as_dict()
    assert "threats" not in row
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    assert read_rows(tmp_path / "rows.json")[0].as_dict() == row


def test_the_largest_threat_is_of_the_first_norm() -> None:
    assert largest_threat(THREATS) == Threat("linf", 0.05)
    assert largest_threat(THREATS[2:]) == Threat("l1", 0.3)
