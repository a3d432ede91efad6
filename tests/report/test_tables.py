from __future__ import annotations

import csv
import io

import pytest
from report_samples import clean, row

from inoculate.core.row import Row
from inoculate.report import published
from inoculate.report.formatting import points
from inoculate.report.headline import headline
from inoculate.report.results import collect, natural_order
from inoculate.report.tables.long_form import to_csv
from inoculate.report.tables.markdown import to_markdown
from inoculate.report.tables.paper import paper_tables


def mnist() -> list[Row]:
    small, large = "resnet18", "resnet50"
    return [
        clean(large, "standard", 97),
        clean(large, "transferred", 99),
        row(large, correct=40),
        row(large, correct=60, protocol="transfer:resnet18/standard"),
        row(large, attack="pgd", correct=2, n=10),
        row(large, "transferred", correct=70),
        row(large, "transferred", correct=90, protocol="transfer:resnet50/standard"),
        row(large, "transferred", correct=80, protocol="transfer:resnet18/standard"),
        row(large, "transferred", "pgd", correct=5, n=10),
        row(large, "duplicates", correct=65),
        row(small, correct=50),
    ]


def test_tables_a_reader_can_check() -> None:
    tables = paper_tables(mnist(), {"mnist": "resnet18"})
    assert to_markdown(tables[:2]) == (
        "### MNIST, Table 1: clean accuracy before and after transfer training\n"
        "\n"
        "Surrogate: resnet18. Seed 0. 95 % Wilson intervals; every test image counts, a clean error is an error.\n"
        "\n"
        "| network  | before (standard) | after (transferred) | difference | paper before | paper after "
        "| paper difference | n   | seeds |\n"
        "|----------|-------------------|---------------------|------------|--------------|-------------"
        "|------------------|-----|-------|\n"
        "| resnet18 | –                 | –                   | –          | 97.43        | 99.20       "
        "| +1.77            | –   | –     |\n"
        "| resnet50 | 97.0 [91.5, 99.0] | 99.0 [94.6, 99.8]   | +2.0       | 97.72        | 99.22       "
        "| +1.50            | 100 | 0     |\n"
        "\n"
        "### MNIST, Table 2: accuracy on adversarial images before (standard)\n"
        "\n"
        "Surrogate: resnet18. Seed 0. 95 % Wilson intervals; every test image counts, a clean error is an error.\n"
        "\n"
        "| network  | eps  | FGSM white-box (n=100) | FGSM surrogate's (n=100) | PGD white-box (n=10) | paper |\n"
        "|----------|------|------------------------|--------------------------|----------------------|-------|\n"
        "| resnet18 | 0.01 | 50.0 [40.4, 59.6]      | 50.0 [40.4, 59.6]        | –                    |       |\n"
        "| resnet50 | 0.01 | 40.0 [30.9, 49.8]      | 60.0 [50.2, 69.1]        | 20.0 [5.7, 51.0]     |       |\n"
        "| mean     |      | 45.0                   | 55.0                     | 20.0 (1 of 2)        | 39.46 |\n"
    )


def test_the_gain_is_taken_where_both_arms_were_measured() -> None:
    table = paper_tables(mnist())[2]
    assert table.title == "MNIST, Table 4: accuracy on adversarial images after transfer training (transferred)"
    assert table.columns[2:5] == ("FGSM white-box (n=100)", "FGSM replayed (n=100)", "FGSM surrogate's (n=100)")
    # resnet50 alone has both: 70 - 40, 90 - 40 (its own white-box row is the replayed "before"), 80 - 60, 50 - 20
    assert table.rows[-1] == [
        "gain over standard",
        "",
        *(f"{gain} (1 of 2)" for gain in ("+30.0", "+50.0", "+20.0", "+30.0")),
        "+41.54",
    ]
    assert table.rows[-2][2:] == ["70.0 (1 of 2)", "90.0 (1 of 2)", "80.0 (1 of 2)", "50.0 (1 of 2)", ""]


def test_the_controls_stand_side_by_side() -> None:
    table = paper_tables(mnist())[-1]
    assert table.title == "MNIST: where the gain comes from"
    assert table.columns == ("network", "arm", "clean", "FGSM white-box", "FGSM replayed", "FGSM surrogate's",
                             "PGD white-box")  # fmt: skip
    assert table.rows[:4] == [
        ["resnet18", "standard", "–", "50.0", "50.0", "50.0", "–"],
        ["resnet50", "standard", "97.0", "40.0", "40.0", "60.0", "20.0"],
        ["resnet50", "duplicates", "–", "65.0", "–", "–", "–"],
        ["resnet50", "transferred", "99.0", "70.0", "90.0", "80.0", "50.0"],
    ]


def test_an_attack_made_in_fewer_places_says_where() -> None:
    wide = [row(model, arm, eps=eps, correct=50) for model in ("resnet18", "resnet50") for arm in
            ("standard", "transferred") for eps in (0.01, 0.03)]  # fmt: skip
    few = [row("resnet18", arm, "autoattack", eps=0.03, correct=right) for arm, right in
           (("standard", 2), ("transferred", 3))]  # fmt: skip
    tables = paper_tables(wide + few)
    assert tables[-1].columns[-1] == "AutoAttack white-box at eps 0.03"
    (results,) = collect(wide + few)
    assert results.restriction("autoattack") == "resnet18 at eps 0.03"
    assert results.restriction("fgsm") == ""
    said = headline(results)
    assert any("(resnet18 at eps 0.03)" in sentence for sentence in said.rest)
    assert "AutoAttack" not in said.lead, "one network does not decide what is said of two"


def test_seeds_are_averaged_and_their_counts_pooled() -> None:
    rows = [row(correct=40, seed=0), row(correct=60, seed=3), row(eps=0.02, correct=10, seed=0)]
    table = paper_tables(rows)[0]
    assert "Seeds 0, 3." in table.note
    # 100 of 200; the second eps has one seed only, so n moves into the cells
    assert [line[2] for line in table.rows[:2]] == ["50.0 [43.1, 56.9] n=200", "10.0 [5.5, 17.4] n=100"]


def test_any_dataset_any_networks_any_eps() -> None:
    rows = [
        row(model, arm, eps=eps, correct=correct, dataset="owner/shapes", norm="l2", protocol=protocol)
        for model, correct in (("vit_tiny", 20), ("convnext", 30))
        for eps in (0.5, 1.0)
        for arm, protocol in (
            ("standard", "white-box"), ("trades", "white-box"), ("transferred", f"transfer:{model}/standard"),
        )
    ]  # fmt: skip
    tables = paper_tables(rows)
    assert [table.title for table in tables] == [
        "owner/shapes (l2), Table 2: accuracy on adversarial images before (standard)",
        "owner/shapes (l2), Table 4: accuracy on adversarial images after transfer training (transferred)",
        "owner/shapes (l2): where the gain comes from",
    ]
    assert "paper" not in to_markdown(tables)
    assert [line[:2] for line in tables[0].rows[:4]] == [
        ["convnext", "0.5"], ["convnext", "1"], ["vit_tiny", "0.5"], ["vit_tiny", "1"],
    ]  # fmt: skip
    assert tables[0].rows[0][3] == "–"  # no surrogate is known, so its reading has no number
    assert ["convnext", "trades", "–", "30.0", "–", "–"] in tables[2].rows


@pytest.mark.parametrize("size", range(12))
def test_every_part_of_a_study_prints(size: int) -> None:
    for table in paper_tables(mnist()[:size]):
        assert all(len(line) == len(table.columns) for line in table.rows)
    assert (size == 0) == (to_markdown(paper_tables(mnist()[:size])) == "")


def test_the_csv_has_one_line_per_number() -> None:
    lines = list(csv.DictReader(io.StringIO(to_csv(paper_tables(mnist())))))
    first = lines[0]
    assert first.pop("table") == "MNIST, Table 1: clean accuracy before and after transfer training"
    assert list(first.values()) == [
        *("mnist", "resnet50", "standard", "none", "linf", "0", "white-box"),
        *("0.970000", "0.915481", "0.989745", "97", "100", "0", "97.72"),
    ]
    mean = [line for line in lines if line["eps"] == "mean" and "Table 2" in line["table"]]
    assert [(line["reading"], line["accuracy"], line["published"]) for line in mean] == [
        ("white-box", "0.450000", "39.46"), ("surrogate's", "0.550000", ""),
    ]  # fmt: skip


def test_the_surrogate_is_read_off_the_protocols() -> None:
    assert collect(mnist())[0].surrogate == "resnet18"
    assert collect(mnist(), {"mnist": "resnet50"})[0].surrogate == "resnet50"
    assert collect([row()])[0].surrogate is None


def test_networks_sort_by_the_number_in_their_names() -> None:
    assert sorted(["resnet101", "vgg16", "resnet50", "resnet18"], key=natural_order) == [
        "resnet18", "resnet50", "resnet101", "vgg16",
    ]  # fmt: skip


def test_published_figures() -> None:
    assert published.clean("cats_vs_dogs", "resnet101") == (94.08, 94.34)
    assert published.clean("Cats-Dogs", "vgg16") is None
    assert published.adversarial_before("cifar10") is None
    assert published.gain("cifar10") == 14.96
    assert published.gain("digits") is None


def test_points_have_a_sign_and_no_negative_zero() -> None:
    assert [points(value) for value in (0.123, -0.1, -0.0001, 0.0)] == ["+12.3", "-10.0", "+0.0", "+0.0"]
