from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_samples import row

from inoculate.artifacts.files import write_file
from inoculate.artifacts.rows import read_records, read_rows, write_records, write_rows
from inoculate.core.errors import InputError


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [row(), row("resnet50", "transferred", "pgd", 8 / 255, 3, protocol="transfer:resnet18/standard", seed=2)]
    path = write_rows(tmp_path / "deep" / "results.json", rows)
    assert read_rows(path) == rows
    assert set(json.loads(path.read_text())[0]) == {
        *("dataset", "model", "arm", "attack", "norm", "eps", "protocol"),
        *("accuracy", "correct", "n", "ci_low", "ci_high", "seed", "seconds"),
    }
    assert read_rows(write_rows(path, [])) == []
    assert [item.name for item in path.parent.iterdir()] == ["results.json"]


def test_optional_fields_are_written_where_they_are_known(tmp_path: Path) -> None:
    audited = replace(row(), audited=10, audited_broken=0, hidden=0.25)
    path = write_rows(tmp_path / "results.json", [row(), audited])
    assert read_rows(path) == [row(), audited]
    plain, full = json.loads(path.read_text())
    assert set(full) - set(plain) == {"audited", "audited_broken", "hidden"}
    path.write_text(json.dumps([{**plain, "hidden": None}, {**full, "hidden": "much"}]))
    with pytest.raises(InputError, match="row 2: field 'hidden' should be float"):
        read_rows(path)


def test_unknown_fields_are_ignored_and_whole_numbers_are_floats(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps([{**row(eps=1.0).as_dict(), "eps": 1, "later": "field"}]))
    assert read_rows(path) == [row(eps=1.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("{}", "expected a list of rows, found dict"),
        ("[3]", "row 1: expected an object, found int"),
        ('[{"dataset": "mnist"}]', "row 1: field 'model' is missing"),
        (json.dumps([{**row().as_dict(), "n": "many"}]), "row 1: field 'n' should be int, found 'many'"),
        (json.dumps([row().as_dict(), {**row().as_dict(), "correct": 101}]), "row 2: needs 0 <= correct <= n"),
        (json.dumps([{**row().as_dict(), "n": 0, "correct": 0}]), "n > 0"),
    ],
)
def test_a_malformed_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"results\.json") as caught:
        read_rows(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the results \(No such file"):
        read_rows(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"cannot read the records \(No such file"):
        read_records(tmp_path / "none.npz")


def test_records_come_back_bit_by_bit(tmp_path: Path) -> None:
    records = {
        "mnist|0|resnet18|standard|fgsm|linf|0.01|transfer:a/b": np.array([True, False, True]),
        "empty": np.zeros(0, dtype=bool),
        "long": np.arange(17) % 3 == 0,
    }
    back = read_records(write_records(tmp_path / "records.npz", records))
    assert list(back) == list(records)
    for key, outcome in records.items():
        assert back[key].dtype == np.bool_
        assert back[key].tolist() == outcome.tolist()
    assert read_records(write_records(tmp_path / "none.npz", {})) == {}


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken"])
def test_broken_records_are_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "records.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match="records"):
        read_records(path)


def test_records_never_unpickle(tmp_path: Path) -> None:
    path = tmp_path / "records.npz"
    np.savez(path, keys=np.array([{}], dtype=object), n=np.array([1]), bits=np.zeros(1, dtype=np.uint8))
    with pytest.raises(InputError, match="not a records file"):
        read_records(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(stream: object) -> None:
        raise RuntimeError("full")

    with pytest.raises(RuntimeError):
        write_file(path, fail)
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
