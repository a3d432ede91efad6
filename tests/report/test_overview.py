"""The first screen: the picture, the answers, the failures and the classes, for one model and before and after."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from page_samples import whole_run
from recorded_samples import recorded
from report_samples import clean, row

from inoculate.artifacts.rows import write_rows
from inoculate.core.errors import InputError
from inoculate.core.groups import GroupAccuracy
from inoculate.report.answers import Answer, badge_of, which_fail_first
from inoculate.report.comparison import are_they_robust
from inoculate.report.headline import headline
from inoculate.report.html.environment import unbroken
from inoculate.report.ladder import ladder_of
from inoculate.report.names import short_name, short_names, with_short_names
from inoculate.report.overview import Overview, overview_of
from inoculate.report.plots.accuracy import accuracy_figures
from inoculate.report.results import collect
from inoculate.report.run import RunRecord, read_run
from inoculate.report.several_answers import best_networks
from inoculate.report.tables.evaluation import accuracy_table, before_after_table
from inoculate.report.tables.latex import to_latex
from inoculate.report.tables.paper import paper_tables
from inoculate.report.write import write_report


def overview(run: RunRecord) -> Overview:
    found = collect(run.rows, run.surrogates)
    return overview_of(run, [(results, headline(results, run.records).lead) for results in found])


def answer(found: Overview, question: str) -> tuple[str, str]:
    (only,) = [each for each in found.answers if each.question.startswith(question)]
    return only.verdict, only.text


def ladder(*rows):
    (results,) = collect(rows)
    return ladder_of(results)


def accuracies(found):
    return [(rung.label, [bar and bar.accuracy for bar in rung.bars]) for rung in found.rungs]


def test_with_several_eps_a_rung_shows_the_strongest_attack_at_each():
    found = ladder(
        clean("a", "standard", 95),
        *(row("a", attack=attack, eps=eps, correct=correct) for attack, eps, correct in
          (("fgsm", 0.1, 80), ("fgsm", 0.2, 50), ("pgd", 0.1, 70), ("pgd", 0.2, 60))),
    )  # fmt: skip
    assert accuracies(found) == [("Clean images", [0.95]), ("Attacked, eps 0.1", [0.7]), ("Attacked, eps 0.2", [0.5])]
    assert [rung.note for rung in found.rungs] == ["no attack", "PGD", "FGSM"]


def test_with_one_eps_the_attacks_go_from_weak_to_strong_and_the_proof_is_last():
    rows = [clean("a", "standard", 95), row("a", correct=60), row("a", attack="pgd", correct=40)]
    found = ladder(*rows, row("a", attack="certified", correct=20))
    assert [rung.label for rung in found.rungs] == ["Clean images", "FGSM", "PGD", "Proved, eps 0.01"]
    assert [rung.proved for rung in found.rungs] == [False, False, False, True]
    assert [rung.label for rung in found.attacked] == ["FGSM", "PGD"]


def test_what_is_proved_and_what_an_attack_leaves_are_one_bar():
    rows = [clean("a", "standard", 95), row("a", correct=60), row("a", attack="pgd", correct=40)]
    rows.append(row("a", attack="certified", correct=20))
    (results,) = collect(rows)
    (bar,) = ladder_of(results).rungs[-1].bars
    assert (bar.accuracy, bar.attacked, bar.strongest) == (0.2, 0.4, "PGD")
    assert bar.words.startswith("proved bound: 20.0 %, 40.0 % under PGD: the best possible attack lies between, 95 %")
    found = headline(results)
    assert found.lead == "The model keeps 40.0 % under PGD at eps 0.01."
    assert found.rest[0].endswith("under PGD at eps 0.01 right. Whatever the attack, at least 20.0 % there.")
    assert accuracy_table(results).rows[-2:] == [
        ["a", "proved bound", "0.01", "20.0 [13.3, 28.9]", "100"],
        ["a", "best possible attack", "0.01", "20.0 to 40.0", "100"],
    ]
    (table,) = [each for each in paper_tables(rows, {}) if "Table 2" in each.title]
    at = table.columns.index("best possible attack")
    assert [line[at] for line in table.rows] == ["20.0 to 40.0", ""]
    hardened = [replace(each, arm=arm) for arm in ("before", "after") for each in rows]
    (results,) = collect(hardened)
    assert before_after_table(results).rows[-1][2:4] == ["20.0 to 40.0", "20.0 to 40.0"]
    assert r"best possible attack & 0.01 & 20.0 to 40.0" in to_latex([before_after_table(results)])
    alone = collect([clean("a", "standard", 95), rows[-1]])[0]
    assert ladder_of(alone).rungs[-1].bars[0].attacked is None
    assert headline(alone).lead == "No attack has been measured."
    assert not accuracy_figures(alone), "a proof is no attack"


def test_an_attack_that_one_side_did_not_meet_compares_nothing():
    rows = [clean(model, "standard", 90) for model in ("a", "b")] + [row("a", correct=50), row("b", correct=60)]
    found = ladder(*rows, row("a", attack="pgd", correct=1))
    assert accuracies(found) == [("Clean images", [0.9, 0.9]), ("FGSM", [0.5, 0.6])]


def test_a_model_is_robust_up_to_the_eps_where_half_of_its_accuracy_is_left(tmp_path: Path) -> None:
    found = overview(read_run(recorded(tmp_path, [0.0, 0.02, 0.02, 0.02, 0.5, 0.02, 0.02, 0.02])))
    assert answer(found, "Is it robust") == (
        "Up to eps 0.01; no longer at 0.03",
        "It classifies 87.5 % of clean images correctly, 87.5 % under attack at eps 0.01, and 12.5 % [2.2, 47.1] "
        "under PGD at eps 0.03. Robust here: at least half of the clean accuracy is left.",
    )
    assert answer(found, "Against")[0] == "FGSM, PGD, L∞"
    assert found.badge is not None
    assert found.badge.state == "good"
    verdict, text = answer(found, "Which images")
    assert verdict == "A “cat” without any attack, then a “dog” at eps 0.03"
    assert text == (
        "Taken for “dog”, then “cat” under FGSM. Under PGD at eps 0.03 the weakest class is “dog”, 0.0 % (0 of 4 "
        "images), the strongest “cat”, 25.0 %."
    )


@pytest.mark.parametrize(
    ("breaks_at", "attacks", "verdict"),
    [
        ([0.005] * 8, ("pgd",), "No"),
        ([0.5] * 8, ("pgd",), "Largely, at the sizes measured"),
        ([0.005] * 5 + [0.5] * 3, ("pgd",), "Weakly"),
        ([0.5] * 8, ("fgsm",), "Not shown: only weak attacks were run"),
    ],
)
def test_verdicts(tmp_path: Path, breaks_at: list[float], attacks: tuple[str, ...], verdict: str) -> None:
    run = read_run(recorded(tmp_path, breaks_at, attacks=attacks))
    assert answer(overview(run), "Is it robust")[0] == verdict


def test_the_badge_says_the_worst():
    def check(name, passed):
        return {"name": name, "passed": passed, "message": ""}

    assert badge_of([check("a", True), check("b", None)]).text == "1 check passed, 1 not made"
    assert badge_of([check("a", True), check("b", None)]).not_made == ("b",)
    assert badge_of([check("a", True), check("b", False), check("c", False)]).text == "Check failed: b and 1 more"
    assert badge_of([check("a", True)], 2).text == "1 check passed, 2 warnings"
    assert badge_of([check("a", True)], 2).state == "warned"
    assert badge_of([check("a", None)]).state == badge_of([]).state == "open"


def test_what_an_attack_may_have_missed_is_said_where_it_is_the_larger_doubt(tmp_path: Path) -> None:
    said = (
        "AutoAttack saves time by giving up on images that look unbreakable: the true accuracy may be up to 20 points "
        "below the one shown (most: 50.0 % at eps 0.01)."
    )
    for hidden, doubted in ((0.2, True), (0.01, False), (None, False)):
        attacked = replace(row("net", attack="autoattack"), hidden=hidden)
        weaker = replace(
            row("net", attack="pgd", correct=95), hidden=0.9
        )  # AutoAttack leaves less: nothing hangs on it
        write_rows(tmp_path / "results.json", [clean("net", "standard", 95), weaker, attacked])
        text = answer(overview(read_run(tmp_path)), "Can I")[1]
        start = "Apart from that, with" if doubted else "With"
        assert f"{start} 100 images, the numbers are precise to about ±10 points (95 %)." in text
        assert (said in text) is doubted
        assert ("saves time" in text) is doubted


def test_what_is_in_doubt_is_not_believed_outright(tmp_path: Path) -> None:
    folder = recorded(tmp_path, [0.5] * 8, attacks=("pgd",))
    assert answer(overview(read_run(folder)), "Can I")[0] == "Yes, as far as was checked"
    warned = replace(read_run(folder), warnings=["the model is strange"])
    assert answer(overview(warned), "Can I")[0] == "Only in part"
    assert answer(overview(warned), "Can I")[1].startswith("1 warning: the model is strange. ")
    unchecked = [clean("net", "standard", 95), row("net")]
    assert answer(overview(RunRecord("net", unchecked)), "Can I")[0] == "Low accuracies yes, high ones not yet"


def test_images_fail_in_the_order_of_eps_with_what_breaks_them(tmp_path: Path) -> None:
    (shown,) = overview(read_run(recorded(tmp_path, [0.5, 0.02, 0.0, 0.005]))).failures
    assert [(each.number, each.eps, each.attack) for each in shown.images] == [
        (2, 0.0, ""), (3, 0.01, "FGSM"), (1, 0.03, "FGSM"),
    ]  # fmt: skip
    assert [(each.label, each.prediction) for each in shown.images] == [("cat", "dog"), ("dog", "cat"), ("dog", "cat")]
    assert shown.images[1].steps == [(0.0, ""), (0.01, "cat"), (0.03, "cat")]


def test_of_a_study_the_explained_images_are_shown(tmp_path: Path) -> None:
    found = overview(read_run(whole_run(tmp_path)))
    assert [each.title for each in found.failures] == [
        f"{data}, resnet18, standard training" for data in ("MNIST", "mnist large")
    ]
    assert all(image.attacked is not None for each in found.failures for image in each.images)
    assert answer(found, "Which network")[0]
    assert found.badge is not None
    assert found.badge.state == "bad"
    assert found.shared_sides


def test_files_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    recorded(tmp_path, [0.5, 0.02])
    write_rows(tmp_path / "results.json", [clean("net", "standard", 1, n=2)])
    with pytest.raises(InputError, match="does not fit"):
        read_run(tmp_path)
    (recorded(tmp_path, [0.5, 0.02]) / "thumbnails.npz").write_bytes(b"no")
    with pytest.raises(InputError, match="thumbnails"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("/home/me/nets/mine.pt", "mine.pt"),
        ("runs/hardened/", "hardened"),
        ("runs/a/model.onnx", "a/model.onnx"),
        ("code/nets.py:make", "nets.py:make"),
        *((name, name) for name in ("resnet18", "hf-hub:timm/resnet18", "package.module:net", "http://localhost/x")),
    ],
)
def test_a_path_is_named_by_its_file(name: str, short: str) -> None:
    assert short_name(name) == short


def test_names_that_would_be_alike_stay_whole():
    assert short_names(["a/net.pt", "b/net.pt", "c/other.pt"]) == {
        "a/net.pt": "a/net.pt", "b/net.pt": "b/net.pt", "c/other.pt": "other.pt",
    }  # fmt: skip


def test_a_page_names_the_model_and_not_its_path(tmp_path: Path) -> None:
    html = write_report(recorded(tmp_path, [0.5, 0.02, 0.0, 0.02], model="/home/me/nets/mine.pt")).read_text()
    assert "<h1>“mine.pt” on MNIST</h1>" in html
    assert "/home/me" not in html
    assert "standard training" not in html
    run = with_short_names(read_run(tmp_path))
    assert set(run.records) == {each.key for each in run.rows}
    assert "/home/me/nets/mine.pt" in (tmp_path / "tables.csv").read_text()


def test_tables_are_folded_and_last(tmp_path: Path) -> None:
    html = write_report(whole_run(tmp_path, datasets=("mnist",), models=("resnet18",)), tmp_path / "p.html").read_text()
    places = [html.index(f'id="{name}"') for name in ("summary", "failures", "mnist-linf-eps", "tables", "glossary")]
    assert places == sorted(places)
    outside = re.sub(r"<details.*?</details>", "", html, flags=re.DOTALL)
    assert 'class="sortable"' in html
    assert 'class="sortable"' not in outside


def test_variants_of_a_network_are_no_trainings(tmp_path: Path) -> None:
    rows = [
        *(clean("net", arm, 95) for arm in ("fp32", "int8")),
        *(row("net", arm, attack, correct=correct)
          for attack, pair in (("fgsm", (70, 70)), ("autoattack", (60, 40)))
          for arm, correct in zip(("fp32", "int8"), pair, strict=True)),
    ]  # fmt: skip
    write_rows(tmp_path / "results.json", rows)
    (tmp_path / "evaluation.json").write_text('{"warnings": [], "variants": ["fp32", "int8"]}')
    found = overview(read_run(tmp_path))
    assert found.title == "“net” on MNIST, as it will be deployed"
    assert "2 variants: fp32, int8" in found.measured
    assert answer(found, "Is each variant") == (
        "No",
        "They differ most under AutoAttack at eps 0.01: int8 40.0 %, fp32 60.0 %.",
    )
    assert "40.0 % [30.9, 49.8] under AutoAttack" in answer(found, "Is it robust")[1]
    equal = [each for each in rows if each.attack != "autoattack"]
    write_rows(tmp_path / "results.json", equal)
    assert answer(overview(read_run(tmp_path)), "Is each variant")[0] == "Yes, to within a point"


def study_of(*found: tuple[str, str, int, int]) -> list[Answer]:
    """The answers on a study: of each dataset, arm, and correct of 100 images without and with the attack."""
    rows = [
        measured for dataset, arm, right, left in found
        for measured in (clean("net", arm, right, dataset=dataset), row("net", arm, correct=left, dataset=dataset))
    ]  # fmt: skip
    return list(overview(RunRecord("paper", rows, manifest={"study": {"name": "paper"}})).answers)


def test_a_study_says_on_which_data_its_networks_are_robust() -> None:
    mnist = (("mnist", "standard", 98, 20), ("mnist", "pgd_at", 96, 90))
    cifar = (("cifar10", "standard", 80, 2), ("cifar10", "pgd_at", 80, 4))
    assert study_of(*mnist, *cifar)[0].verdict == (
        "At eps 0.01: on MNIST with 1 of 2 trainings (not checked yet); not on CIFAR10"
    )
    assert study_of(*mnist)[0].verdict == "At eps 0.01: yes, with 1 of 2 trainings (not checked yet)"
    assert "MNIST (FGSM): robust with pgd_at 90.0 %; not with standard training 20.0 %." in study_of(*mnist)[0].text
    assert study_of(*cifar)[0].verdict == "No"
    other = (("cifar10", "standard", 80, 2), ("cifar10", "trades", 80, 60))
    assert study_of(*mnist, *other)[0].verdict == (
        "At eps 0.01: on MNIST with 1 of 2 trainings, on CIFAR10 with 1 of 2 trainings (not checked yet)"
    )


def test_what_is_called_robust_without_a_check_says_so_of_each_model() -> None:
    rows = [
        clean("a", "standard", 90), row("a", attack="pgd", correct=80), row("a", attack="pgd", eps=0.03, correct=2),
        clean("b", "standard", 90), row("b", attack="pgd", correct=3), row("b", attack="pgd", eps=0.03, correct=1),
    ]  # fmt: skip
    checked, unchecked = (are_they_robust(ladder(*rows), checked).verdict for checked in (True, False))
    assert checked == "a: up to eps 0.01, no longer at 0.03; b: no"
    text = are_they_robust(ladder(*rows), checked=True).text
    assert text.startswith("Left at the largest of these eps: a "), text
    assert "; b" not in text
    assert unchecked == "a: up to eps 0.01 (not checked yet), no longer at 0.03; b: no"


def test_the_weakest_class_of_each_network_is_named() -> None:
    groups = [GroupAccuracy("cat", 1, 10), GroupAccuracy("dog", 5, 10)]
    found = which_fail_first([("a", "PGD at eps 0.1", groups), ("b", "PGD at eps 0.3", groups[::-1][:1])], [])
    assert found is not None
    assert (found.verdict, found.text) == ("See the classes", "Weakest classes under PGD at eps 0.1: a “cat” 10.0 %.")


def test_what_an_attack_covers_less_is_said_of_each_attack() -> None:
    rows = [
        each for dataset in ("mnist", "cifar10") for model in ("a", "b")
        for each in (clean(model, "standard", 90, dataset=dataset), row(model, dataset=dataset))
    ]  # fmt: skip
    rows += [row(model, attack="pgd", correct=20, n=50) for model in ("a", "b")]
    rows += [row("a", attack="autoattack", dataset="cifar10")]
    text = answer(overview(RunRecord("paper", rows)), "Against")[1]
    assert "100 test images. PGD: 50 images, MNIST only. AutoAttack: CIFAR10, a only." in text


def test_an_attack_under_one_norm_of_two_is_said_by_its_norm() -> None:
    rows = [clean("a", "standard", 90), row("a"), row("a", norm="l2"), row("a", attack="pgd", norm="l2")]
    assert "100 test images. PGD: L2 only." in answer(overview(RunRecord("a", rows)), "Against")[1]


def test_a_study_says_how_many_images_fail_first() -> None:
    found = study_of(("mnist", "standard", 98, 20), ("mnist", "noise", 96, 30), ("cifar10", "standard", 80, 2))
    (first,) = [each for each in found if each.question.startswith("Which images")]
    assert first.verdict == "MNIST: 80.0 % of the images; CIFAR10: 98.0 % of the images"
    assert first.text.startswith(
        "Wrong under FGSM at eps 0.01, the smallest measured. Of all images: "
        "80.0 %, 98.0 % (without an attack 2.0 %, 20.0 %)."
    )


def test_a_study_names_the_classes_that_fail_first_over_all_seeds() -> None:
    """Of the cats 10 of 40 and 0 of 40 stand, of the dogs all and 30 of 40."""
    labels, left = ["cat"] * 40 + ["dog"] * 40, ((0, [10, 40]), (1, [0, 30]))
    rows, records = [], {}
    for seed, counts in left:
        attacked = row("net", correct=sum(counts), n=80, seed=seed)
        rows += [clean("net", "standard", 78, n=80, seed=seed), attacked]
        records[attacked.key] = np.concatenate([np.arange(40) < count for count in counts])
    text = " ".join("0" if label == "cat" else "1" for label in labels)
    facts = {"classes": ["cat", "dog"], "labels": {"0": text, "1": text}}
    manifest = {"study": {"name": "paper"}, "datasets": {"mnist": facts}}
    found = overview(RunRecord("paper", rows, records, manifest))
    assert answer(found, "Which images")[0] == "Images of “cat” (87.5 % fail)"
    assert "Last to fail: “dog” (12.5 %)." in answer(found, "Which images")[1]
    (group,) = found.subgroups
    assert [(each.name, each.correct, each.n) for each in group.classes] == [("cat", 10, 80), ("dog", 70, 80)]
    unknown = overview(RunRecord("paper", rows, records, {**manifest, "datasets": {}}))
    assert answer(unknown, "Which images")[0] == "50.0 % of the images"


def test_classes_that_chance_explains_fail_alike() -> None:
    attacked = row("net", correct=40, n=80)
    rows = [clean("net", "standard", 78, n=80), attacked]
    facts = {"classes": ["cat", "dog"], "labels": {"0": " ".join("01" * 40)}}
    right = np.arange(80) < 40
    run = RunRecord("paper", rows, {attacked.key: right}, {"study": {"name": "paper"}, "datasets": {"mnist": facts}})
    assert answer(overview(run), "Which images")[0] == "All classes about alike"


def test_the_best_network_may_differ_from_data_to_data() -> None:
    numbers = (("mnist", "a", 20), ("mnist", "b", 90), ("cifar10", "a", 4), ("cifar10", "b", 2))
    rows = [
        each for dataset, model, left in numbers
        for each in (clean(model, "standard", 96, dataset=dataset), row(model, correct=left, dataset=dataset))
    ]  # fmt: skip
    best = best_networks(collect(rows))
    assert best is not None
    assert best.verdict == "MNIST: b; CIFAR10: none withstands the attack"
    assert best.text.startswith("MNIST: it keeps 90.0 % [82.6, 94.5] (FGSM, eps 0.01). CIFAR10: at most 4.0 %")


def test_a_study_says_how_many_seeds_its_networks_have() -> None:
    def said(*seeds: int) -> str:
        rows = [
            each for net, count in enumerate(seeds) for seed in range(count) for arm in ("standard", "noise")
            for each in (clean(f"net{net}", arm, 90, seed=seed), row(f"net{net}", arm, seed=seed))
        ]  # fmt: skip
        return answer(overview(RunRecord("paper", rows, manifest={"study": {"name": "paper"}})), "Can I")[1]

    assert said(3, 1).endswith(" images and 1 to 3 training seeds.")
    assert said(2, 2).endswith(" images and 2 training seeds.")
    assert said(1, 1).endswith(" images and 1 training seed.")


def test_a_lead_within_the_interval_is_none() -> None:
    def best(*correct: int) -> Answer:
        networks = [(clean(f"net{i}", "standard", 95), row(f"net{i}", correct=n)) for i, n in enumerate(correct)]
        answers = overview(RunRecord("several", [each for pair in networks for each in pair])).answers
        (found,) = [each for each in answers if each.question.startswith("Which network")]
        return found

    assert best(6, 90).verdict == "net1"
    assert best(55, 56).verdict == "Several are about as good"
    assert best(55, 56).text == (
        "MNIST: 2 of 2 networks cannot be told apart; the highest: net1, 56.0 % [46.2, 65.3] (FGSM, eps 0.01)."
    )
    assert best(5, 6).verdict == "None withstands the attack"
    assert best(5, 6).text == "MNIST: at most 6.0 % (FGSM, eps 0.01)."


def test_no_line_ends_between_a_number_and_its_unit() -> None:
    said = unbroken("keeps 45.0 % [38.1, 52.0] at eps 0.1: +3.0 points [1.0, 5.0] of 3 networks [a, b]")
    joined = "keeps 45.0_%_[38.1,_52.0] at eps_0.1: +3.0_points [1.0,_5.0] of 3 networks [a, b]"
    assert said == joined.replace("_", "\N{NO-BREAK SPACE}")
