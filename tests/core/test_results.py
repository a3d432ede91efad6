"""Rows as columns and as HTML."""

import pytest
from report_samples import clean, row

from inoculate.core.results import html_of, table_of

pytestmark = pytest.mark.smoke


def test_columns_hold_every_field_of_every_row():
    table = table_of([clean("a", "standard", 90), row("b", correct=40)])
    assert list(table)[:4] == ["dataset", "model", "arm", "attack"]
    assert table["accuracy"] == [0.9, 0.4]
    assert {len(column) for column in table.values()} == {2}
    assert set(table_of([])) == set(table)


def test_html_shows_accuracy_interval_and_n_and_escapes_text():
    html = html_of([clean("<b>", "standard", 90), row("c", correct=40)], title="a & b")
    assert "<caption>a &amp; b</caption>" in html
    assert "&lt;b&gt;" in html
    assert "<td>40.0%</td><td>30.9% to 49.8%</td><td>100</td>" in html
    assert "arm" not in html  # the rows do not differ in it
    assert "model" not in html_of([row(), row(eps=0.1)])
