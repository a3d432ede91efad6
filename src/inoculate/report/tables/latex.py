"""Tables as LaTeX with booktabs."""

from __future__ import annotations

from collections.abc import Iterable

from inoculate.report.tables.table import Table, is_summary

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "±": r"$\pm$",
}  # fmt: skip


def to_latex(tables: Iterable[Table]) -> str:
    r"""Every table as a `table` environment; the document needs `\usepackage{booktabs}`."""
    return "% \\usepackage{booktabs}\n" + "\n".join(map(_environment, tables))


def _environment(table: Table) -> str:
    shape = "l" + "r" * (len(table.columns) - 1)
    body = [_line(row) for row in table.rows]
    last = next((n for n, row in enumerate(table.rows) if is_summary(row)), None)
    if last:
        body.insert(last, r"\midrule")
    lines = [
        r"\begin{table}", r"\centering\small", rf"\caption{{{_escape(f'{table.title}. {table.note}')}}}",
        rf"\begin{{tabular}}{{{shape}}}", r"\toprule", _line(table.columns), r"\midrule", *body,
        r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return " & ".join(map(_escape, cells)) + r" \\"


def _escape(text: str) -> str:
    return "".join(_SPECIAL.get(letter, letter) for letter in text)
