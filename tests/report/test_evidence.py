"""The evidence pack: every clause, the same bytes each time, and every changed number detected."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from report_samples import clean, row

from inoculate.artifacts.arrays import read_arrays, write_arrays
from inoculate.artifacts.files import write_json
from inoculate.artifacts.rows import read_rows, write_records, write_rows
from inoculate.cli import app
from inoculate.core.errors import InputError
from inoculate.core.row import Row
from inoculate.core.stats import wilson
from inoculate.report.evidence.clauses import CLAUSES, threat_options
from inoculate.report.evidence.pack import verify_evidence, write_evidence
from inoculate.report.evidence.taxonomy import taxonomy_of

RESULTS = Path(__file__).parents[2] / "results"
LABELS: dict[str, Any] = {"dataset": "d", "model": "nets/m", "arm": "standard", "protocol": "white-box", "seed": 0}
MARKS = {
    ("none", "linf", 0.0, 0): "11111111",
    ("autoattack", "linf", 8 / 255, 0): "11110000",
    ("square", "linf", 8 / 255, 0): "11111000",
    ("fog", "corruption", 0.0, 3): "11111110",
}


def rows_of(marks: dict[tuple[str, str, float, int], str]) -> list[Row]:
    return [
        Row.measured(correct=each.count("1"), n=len(each), seconds=1.0, attack=a, norm=n, eps=e, severity=s, **LABELS)
        for (a, n, e, s), each in marks.items()
    ]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of an evaluation of eight images of two classes."""
    folder = tmp_path / "run"
    rows = rows_of(MARKS)
    right = np.array([[mark == "1" for mark in each] for each in MARKS.values()])
    write_rows(folder / "results.json", rows)
    write_records(folder / "records.npz", {each.key: one for each, one in zip(rows, right, strict=True)})
    write_arrays(folder / "per_image.npz", {"right": right, "finished": np.ones_like(right)})
    write_json(folder / "evaluation.json", {
        "labels": [0, 1] * 4, "classes": ["cat", "<dog>"], "warnings": ["careful"],
        "groups": {"site": [*"AAABBB", "<C>", "<C>"], "night": ["yes"] * 3 + [""] * 5},
        "provenance": {
            "data": {"name": "d", "digest": "abc", "n": 8, "image": [3, 8, 8], "classes": ["cat", "<dog>"]},
            "model": {"digest": "def"}, "attacks": {"autoattack": {"class": "AutoAttack", "version": "standard"}},
            "versions": {"inoculate": "0.1.0", "torch": "2"},
        },
    })  # fmt: skip
    write_json(folder / "checks.json", {"threat": {"norm": "linf", "eps": 8 / 255}, "checks": [
        {"name": "gradients", "passed": True, "message": "fine"}]})  # fmt: skip
    return folder


def read(folder: Path) -> Any:
    return json.loads((folder / "evidence.json").read_text())


def test_every_clause_has_a_value_or_the_command_that_measures_it(run: Path, tmp_path: Path) -> None:
    write_evidence(run, tmp_path / "pack")
    evidence = read(tmp_path / "pack")
    known = {each["id"] for each in evidence["measurements"]}
    assert len(known) == 4
    names = [clause["clause"] for clause in evidence["clauses"]]
    for wanted in ("15(1)", "15(3)", "15(4)", "15(5)", "24029-1", "24029-2", "24029-3", "C11.1.3", "C11.1.4", "2.2.1"):
        assert any(wanted in name for name in names), wanted
    page = (tmp_path / "pack" / "evidence.html").read_text()
    for clause in evidence["clauses"]:
        for item in clause["items"]:
            if item["status"] == "measured":
                assert item.get("measurements") or evidence[item["see"]], item
                assert set(item.get("measurements", ())) <= known
                assert "see" not in item or f'id="{item["see"]}"' in page
            else:
                assert item["status"] == "not measured"
                assert item["command"].startswith("inoculate ")
    states = {clause["clause"]: clause["status"] for clause in evidence["clauses"]}
    assert states["ISO/IEC 24029-2:2023"] == states["AISVS C11.1.4"] == "not measured"
    assert states["NIST 2.2.1 White-box evasion"] == states["Article 15(3)"] == "measured"
    assert states["Article 15(5)"] == "partly measured"


def test_a_measurement_holds_what_a_reader_needs(run: Path, tmp_path: Path) -> None:
    write_evidence(run, tmp_path / "pack")
    evidence = read(tmp_path / "pack")
    found = next(each for each in evidence["measurements"] if each["attack"] == "autoattack")
    assert (found["correct"], found["n"], found["eps"]) == (4, 8, 8 / 255)
    assert found["ci_low"] < 0.5 < found["ci_high"]
    assert found["threat_model"] == "linf ball of radius 0.0313725 (in pixel units of [0, 1]), pixels in [0, 1]"
    assert found["attack_settings"] == {"class": "AutoAttack", "version": "standard"}
    assert "NISTAML.022" in found["taxonomy"]["attack"]
    assert [(part["by"], part["worst"]) for part in found["subgroups"]] == [
        ("class", "<dog>"), ("site", "<C>"), ("night", "")]  # fmt: skip
    assert [[(each["name"], each["correct"], each["n"]) for each in part["groups"]] for part in found["subgroups"]] == [
        [("<dog>", 2, 4), ("cat", 2, 4)], [("<C>", 0, 2), ("A", 3, 3), ("B", 1, 3)], [("", 1, 5), ("yes", 3, 3)],
    ]  # fmt: skip
    third = found["subgroups"][1]["groups"][2]
    assert (third["accuracy"], third["ci_low"], third["ci_high"]) == (1 / 3, *wilson(1, 3))
    assert evidence["subject"]["data"]["d"]["digest"] == "abc"
    assert evidence["versions"]["torch"] == "2"
    assert "&lt;dog&gt;" in (tmp_path / "pack" / "evidence.html").read_text()


def test_accuracy_by_a_column_stands_under_its_clauses_the_worst_first(run: Path, tmp_path: Path) -> None:
    write_evidence(run, tmp_path)
    items = [(clause["clause"], item) for clause in read(tmp_path)["clauses"] for item in clause["items"]]
    by = {tuple(item["by"]): [c for c, each in items if each == item] for _, item in items if "by" in item}
    assert by[("class",)] == by[("site", "night")] == ["Article 15(3)", "ISO/IEC 24029-3"]
    page = (tmp_path / "evidence.html").read_text()
    clauses, measurements = page.split('<section id="measurements">')
    article = re.sub(r"<[^>]*>|\s+", " ", clauses.split("Article 15(3)")[-1].split("</article>")[0])
    assert re.search(r"AutoAttack[^:]*, worst site: &lt;C&gt; +0\.0 % +0\.0 % to 65\.8 %, n 2", article)
    assert re.search(r"clean, worst night: no value +100\.0 %", article)
    attacked = re.sub(r"<[^>]*>|\s+", " ", measurements.split("<summary>")[2])
    assert re.search("By site.* &lt;C&gt; .* B +33.3 % .* A +100.0 % .*By night .* no value +20.0 % .* yes", attacked)


def test_without_a_column_the_command_is_named(run: Path, tmp_path: Path) -> None:
    facts = json.loads((run / "evaluation.json").read_text())
    del facts["groups"]
    write_json(run / "evaluation.json", facts)
    write_evidence(run, tmp_path)
    missing = {item["name"]: item["command"] for item in read(tmp_path)["not_measured"]}
    assert missing["Accuracy by group of images, and the worst group"].endswith("--by COLUMN")
    assert state(tmp_path, "15(3)") == "partly measured"
    assert {part["by"] for each in read(tmp_path)["measurements"] for part in each["subgroups"]} == {"class"}


def test_the_same_folder_gives_the_same_bytes_anywhere(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "elsewhere" / "copy")
    write_evidence(run, run / "evidence")
    write_evidence(run, run / "evidence")  # the pack itself does not count
    write_evidence(tmp_path / "elsewhere" / "copy", tmp_path / "pack")
    for name in ("evidence.json", "evidence.html"):
        assert (run / "evidence" / name).read_bytes() == (tmp_path / "pack" / name).read_bytes()
        assert str(tmp_path) not in (tmp_path / "pack" / name).read_text()
    assert verify_evidence(run, tmp_path / "pack")
    assert verify_evidence(run, run / "evidence")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def flip(path: Path) -> None:
    arrays = read_arrays(path)
    arrays["right"][1, 0] ^= True
    write_arrays(path, arrays)


def exchange_groups(path: Path) -> None:
    facts = json.loads(path.read_text())
    sites = facts["groups"]["site"]
    sites[0], sites[3] = sites[3], sites[0]
    write_json(path, facts)


B = '"name": "B",\n       "accuracy": '  # one of the groups, as the evidence writes it
CHANGES: dict[str, Callable[[Path, Path], object]] = {
    "a count": lambda run, _: edit(run / "results.json", '"correct": 4', '"correct": 5'),
    "an accuracy": lambda run, _: edit(run / "results.json", '"accuracy": 0.5', '"accuracy": 0.6'),
    "an interval": lambda run, _: edit(run / "results.json", '"ci_low": 0.2', '"ci_low": 0.3'),
    "seconds": lambda run, _: edit(run / "results.json", '"seconds": 1.0', '"seconds": 2.0'),
    "an eps": lambda run, _: edit(run / "results.json", '"eps": 0.031', '"eps": 0.032'),
    "one image": lambda run, _: flip(run / "per_image.npz"),
    "a label": lambda run, _: edit(run / "evaluation.json", " 0,", " 1,"),
    "a group": lambda run, _: edit(run / "evaluation.json", '"A"', '"B"'),
    "the groups of two images": lambda run, _: exchange_groups(run / "evaluation.json"),
    "a group less": lambda run, _: edit(run / "evaluation.json", '"A",', ""),
    "a column": lambda run, _: edit(run / "evaluation.json", '"site"', '"ward"'),
    "a check": lambda run, _: edit(run / "checks.json", "true", "false"),
    "a digest": lambda run, _: edit(run / "evaluation.json", '"abc"', '"abd"'),
    "a file more": lambda run, _: (run / "more.txt").write_text("1"),
    "a file less": lambda run, _: (run / "checks.json").unlink(),
    "no rows": lambda run, _: (run / "results.json").unlink(),
    "a broken file": lambda run, _: (run / "per_image.npz").write_bytes(b"PK"),
    "the evidence": lambda _, pack: edit(pack / "evidence.json", '"accuracy": 0.5', '"accuracy": 0.6'),
    "a group of the evidence": lambda _, pack: edit(pack / "evidence.json", '"worst": "<C>"', '"worst": "A"'),
    "a number of a group": lambda _, pack: edit(pack / "evidence.json", f"{B}0.3", f"{B}0.4"),
    "a digest of the evidence": lambda _, pack: edit(pack / "evidence.json", '"sha256": "', '"sha256": "0'),
    "the page": lambda _, pack: edit(pack / "evidence.html", "50.0", "60.0"),
    "no page": lambda _, pack: (pack / "evidence.html").unlink(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_detected(run: Path, tmp_path: Path, name: str) -> None:
    pack = tmp_path / "pack"
    write_evidence(run, pack)
    assert verify_evidence(run, pack).met
    CHANGES[name](run, pack)
    assert not verify_evidence(run, pack).met


@pytest.mark.parametrize("name", ["a count", "an accuracy", "an interval", "one image", "a group less"])
def test_numbers_that_contradict_each_other_are_refused(run: Path, tmp_path: Path, name: str) -> None:
    CHANGES[name](run, tmp_path)
    with pytest.raises(InputError, match=r"not as they were measured|'site' has 7 values for 8 images"):
        write_evidence(run, tmp_path / "pack")


def test_a_difference_between_two_releases_is_a_few_lines(run: Path, tmp_path: Path) -> None:
    write_evidence(run, tmp_path / "one")
    rows = [each if each.attack != "fog" else rows_of({("fog", "corruption", 0.0, 3): "11111100"})[0]
            for each in read_rows(run / "results.json")]  # fmt: skip
    write_rows(run / "results.json", rows)
    arrays = read_arrays(run / "per_image.npz")
    arrays["right"][3, 6] = False
    write_arrays(run / "per_image.npz", arrays)
    write_evidence(run, tmp_path / "other")
    one, other = ((tmp_path / name / "evidence.json").read_text().splitlines() for name in ("one", "other"))
    assert len(one) == len(other)
    changed = Counter(line.split('"')[1] for line, new in zip(one, other, strict=True) if line != new)
    numbers = {name: changed.pop(name) for name in ("accuracy", "correct", "ci_low", "ci_high")}
    assert set(numbers.values()) == {1 + len(("class", "site", "night"))}, "the row, and the groups of the image"
    assert changed.keys() == {"bytes", "sha256", "files_digest"}


def test_no_sentence_claims_conformity(run: Path, tmp_path: Path) -> None:
    write_evidence(run, tmp_path / "pack")
    words = (tmp_path / "pack" / "evidence.html").read_text() + (tmp_path / "pack" / "evidence.json").read_text()
    assert not re.search(r"compl(y|ies|iant|iance)|conform|fulfil|certified (for|under)|meets", words, re.IGNORECASE)
    assert "Nothing here says that a clause is met" in words


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (row("m", attack="pgd"), "NISTAML.022"),
        (row("m", attack="pgd restarts=5"), "NISTAML.022"),
        (row("m", attack="square"), "NISTAML.025"),
        (row("m", attack="hopskipjump"), "query access to labels"),
        (row("m", attack="autoattack"), "score-based black-box"),
        (row("m", attack="pgd", protocol="transfer:other/standard"), "access to another model"),
        (row("m", attack="certified"), "formal verification"),
        (clean("m", "standard", 5), "{'attack': None}"),
    ],
)
def test_rows_in_the_terms_of_the_taxonomy(given: Row, words: str) -> None:
    assert words in str(taxonomy_of(given))


def test_the_commands_can_be_parsed() -> None:
    commands: Any = typer.main.get_command(app)
    threat = threat_options(rows_of(MARKS))
    assert threat == "--norm linf --eps 0.0313725"
    for item in {item.command for clause in CLAUSES for item in clause.items}:
        words = shlex.split(item.format(threat=threat))[1:]
        if words[0] in commands.commands:
            commands.commands[words[0]].make_context(words[0], words[1:])
        else:
            assert words[0] == "certify"


def hardening(folder: Path, kept_original: bool = False) -> None:
    """The folder of a hardening in miniature."""
    rows = [row("before", attack=a, eps=e, correct=c) for a, e, c in (("none", 0.0, 90), ("pgd", 0.1, 10))]
    rows += [row("m", "pgd_at", a, e, c) for a, e, c in (("none", 0.0, 85), ("pgd", 0.1, 50))]
    write_rows(folder / "results.json", rows)
    write_json(folder / "model.json", {"threat": {"norm": "linf", "eps": 0.1}, "card": {
        "dataset": "mnist", "digest": "abc", "image_size": 28, "norm": "linf", "eps": 0.1, "versions": {"torch": "2"},
        "training": {"method": {"method": "pgd_at", "steps": 10}, "kept_original": kept_original},
        "checks": [{"name": "gradients", "passed": False, "message": "zero"}], "warnings": ["careful"],
    }})  # fmt: skip


def state(folder: Path, clause: str) -> str:
    return next(str(each["status"]) for each in read(folder)["clauses"] if clause in each["clause"])


def test_hardening_is_measured_only_where_something_was_hardened(tmp_path: Path, run: Path) -> None:
    hardening(tmp_path / "hardened")
    write_evidence(tmp_path / "hardened", tmp_path / "one")
    evidence = read(tmp_path / "one")
    assert evidence["subject"]["kind"] == "hardening"
    assert state(tmp_path / "one", "C11.1.4") == "measured"
    assert evidence["training"]["method"]["steps"] == 10
    assert evidence["checks"]["checks"][0]["passed"] is False
    assert "failed" in (tmp_path / "one" / "evidence.html").read_text()
    hardening(tmp_path / "kept", kept_original=True)
    write_evidence(tmp_path / "kept", tmp_path / "two")
    assert state(tmp_path / "two", "C11.1.4") == "not measured"
    study = tmp_path / "study"
    write_json(study / "manifest.json", {"study": {"arms": ["standard", "augmented"]}, "datasets": {}})
    write_rows(study / "results.json", [row("a"), row("a", "augmented"), row("b")])
    write_evidence(study, tmp_path / "three")
    assert state(tmp_path / "three", "C11.1.4") == "not measured", "neither two networks nor augmentation is hardening"


@pytest.mark.parametrize("name", sorted(path.parent.name for path in RESULTS.glob("*/results.json")))
def test_committed_results_give_evidence(name: str, tmp_path: Path) -> None:
    write_evidence(RESULTS / name, tmp_path)
    evidence = read(tmp_path)
    assert evidence["subject"]["kind"] == "study"
    assert all(facts["digest"] for facts in evidence["subject"]["data"].values())
    assert verify_evidence(RESULTS / name, tmp_path)


def test_mistakes_are_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no results\.json"):
        write_evidence(tmp_path, tmp_path / "pack")
    with pytest.raises(InputError, match=r"holds no evidence\.json: write it with"):
        verify_evidence(run, tmp_path)
    write_json(tmp_path / "pack" / "evidence.json", {"schema": "inoculate-evidence/0"})
    with pytest.raises(InputError, match="write it again"):
        verify_evidence(run, tmp_path / "pack")
