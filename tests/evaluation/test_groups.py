"""Accuracy by a column of the data: the worst group, small groups, what is refused, and what a page shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from evaluation_samples import Brightness
from PIL import Image

import inoculate as ino
from inoculate.cli import run
from inoculate.core.errors import InputError
from inoculate.core.groups import named_groups
from inoculate.core.threat import Threat
from inoculate.data.dataset import Dataset
from inoculate.data.metadata import read_column
from inoculate.evaluation.result import Evaluation

QUIET = ino.EvaluationOptions(checks=False)


def images(wrong: int = 6) -> Dataset:
    """Forty images, 20 dark and 20 bright; the last `wrong` have the other label."""
    pixels = torch.tensor([40, 220] * 20, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()
    labels = torch.tensor([0, 1] * 20)
    labels[40 - wrong :] = 1 - labels[40 - wrong :]
    return Dataset.from_tensors(pixels, labels, ["dark", "bright"])


@pytest.mark.smoke
def test_the_worst_group_is_named_and_small_ones_are_said_to_be(tmp_path: Path) -> None:
    sites = ["A"] * 30 + ["B"] * 10
    found = ino.evaluate(Brightness(), images(), ["fgsm"], [Threat("linf", 0.1)],
                         options=replace(QUIET, groups={"site": sites}))  # fmt: skip
    for one in (found, Evaluation.load(found.save(tmp_path))):
        worst, best = one.accuracy_by("site", one.rows[1])
        assert [(each.name, each.correct, each.n, each.is_small) for each in (worst, best)] == [
            ("B", 4, 10, True), ("A", 30, 30, False),
        ]  # fmt: skip
        assert "worst site, fgsm linf eps 0.1: B 40.0%  [16.8%, 68.7%] of 10 images (too few images" in str(one)
        assert [each.name for each in one.accuracy_by("class", one.rows[0])] == ["bright", "dark"]
        with pytest.raises(InputError, match="class, site"):
            one.accuracy_by("camera", one.rows[0])
    page = found.report(tmp_path / "page.html").read_text()
    assert "by site, " in page
    assert "Worst: “B”, 4 of 10 images (17 to 69 %)" in page
    assert "Too few images for a conclusion: B" in page


def test_an_evaluation_without_groups_says_nothing_of_them(tmp_path: Path) -> None:
    found = ino.evaluate(Brightness(), images(), ["fgsm"], [Threat("linf", 0.1)], options=QUIET)
    assert "worst" not in str(found)
    assert "groups" not in (found.save(tmp_path) / "evaluation.json").read_text()


def test_groups_that_do_not_fit_are_refused_before_anything_is_measured() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("measured")

    with pytest.raises(InputError, match="'site' has 3 values for 40 images"):
        ino.evaluate(model, images(), options=replace(QUIET, groups={"site": [1, 2, 3]}))


@pytest.mark.parametrize(("groups", "found"), [({"site": None}, "NoneType"), ({"site": "AB"}, "str"), ([1, 2], "list")])
def test_groups_of_another_kind_are_one_line(groups: Any, found: str) -> None:
    with pytest.raises(InputError, match=rf"should .* found {found}$"):
        named_groups(groups, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of two classes; those with an even number are from site A."""
    place, lines, rng = tmp_path / "scans", ["file_name,site,note"], np.random.default_rng(0)
    for name in ("ill", "well"):
        (place / name).mkdir(parents=True)
        for number in range(20):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(place / name / f"{number}.png")
            lines.append(f"{name}/{number}.png,{'AB'[number % 2]},{number}")
    (place / "metadata.csv").write_text("\n".join(lines))
    return place


def test_a_column_follows_the_images_of_a_part(folder: Path) -> None:
    data = ino.load_data(str(folder), split="test")
    sites = read_column(folder, "site", data)
    assert sites == tuple("AB"[int(Path(name).stem) % 2] for name in data.source_names())
    assert len(sites) == len(data) < 40


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot read the columns"),
        ("name,site\nx,A", "has no column file_name"),
        ("file_name,camera,light\nx,A,B", "has no column 'site': give one of camera, light"),
        ("file_name,site\nill/0.png,A", r"has no 'site' for 39 of 40 images"),
        ("file_name,site\nill/0.png,A\nill/0.png,B", "two lines for ill/0.png"),
    ],
)
def test_a_file_without_the_column_is_refused(folder: Path, text: str | None, words: str) -> None:
    file = folder / "metadata.csv"
    file.unlink() if text is None else file.write_text(text)
    with pytest.raises(InputError, match=words) as raised:
        read_column(folder, "site", ino.load_data(str(folder), split="all"))
    assert "\n" not in str(raised.value)


def rows_of(folder: Path, place: Path) -> Path:
    """The same images and sites as two parquet files, in an order in which neither classes nor sites take turns."""
    files = sorted(folder.rglob("*.png"), key=lambda file: (int(file.stem) % 7, file))
    cells = [{"bytes": file.read_bytes(), "path": None} for file in files]
    sites = [f"{file.parent.name} {int(file.stem) % 3}" for file in files]
    table = pa.table({"image": cells, "label": [file.parent.name for file in files], "site": sites})
    place.mkdir()
    for name, part in (("train-0", table[:25]), ("train-1", table[25:])):
        pq.write_table(part, place / f"{name}.parquet")
    return place


def test_the_option_by(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\ndef net(): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))\n"
    )
    common = ("evaluate", "--model", f"{tmp_path}/net.py:net", "--attack", "fgsm", "--no-explain")

    def call(*options: str) -> tuple[int, str]:
        capsys.readouterr()
        code = run([*common, *options])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    code, text = call("--data", str(folder), "--by", "site", "--no-checks")
    assert code == 0
    assert "worst site, clean: " in text
    rows, out = rows_of(folder, tmp_path / "rows"), tmp_path / "out"
    wanted = ("--data", str(rows), "--split", "all", "--limit", "11", "--no-checks", "--out", str(out))
    code, text = call(*wanted, "--by", "site")
    assert code == 0
    found = Evaluation.load(out)
    assert len(set(found.groups["site"])) > 3
    for site, label, source in zip(found.groups["site"], found.labels.tolist(), found.sources, strict=True):
        file, _, row = source.partition(" row ")
        assert pq.read_table(rows / file)["site"][int(row)].as_py() == site
        assert site.startswith(found.classes[label])
    code, text = call(*wanted, "--by", "camera")
    assert code == 2
    assert "give one of label, site" in text
    code, text = call("--data", str(folder), "--by", "camera")
    assert code == 2
    assert "give one of site, note" in text
    code, text = call("--data", "digits", "--by", "site")
    assert code == 2
    assert "digits has no columns" in text
    code, text = call("--data", str(folder), "--by", "site", "--variants", "fp32,bf16")
    assert code == 2
    assert "--by does not go with --variants" in text
