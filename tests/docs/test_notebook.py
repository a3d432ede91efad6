"""The example notebook runs, and its results show themselves."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "robustness.ipynb"


def code_cells() -> list[str]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def shown(source: str, namespace: dict[str, Any]) -> Any:
    """Run a cell; the value of its last line, as a notebook shows it."""
    tree = ast.parse(source)
    last = tree.body.pop()
    assert isinstance(last, ast.Expr), "every cell of the example shows something"
    exec(compile(tree, str(NOTEBOOK), "exec"), namespace)
    return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), namespace)


def test_every_cell_shows_a_table_or_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    html = [shown(source, namespace)._repr_html_() for source in code_cells()]
    assert len(html) == 5
    assert "60 images" in html[0]
    assert all("<table>" in each for each in html[1:])
    assert "<svg" in html[2]
    assert html[3].count("<img") >= 10
    before, after = namespace["before"], namespace["after"]
    assert after[4].accuracy > before[4].accuracy  # PGD at the larger eps


def test_it_is_short_and_holds_no_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert len(cells) <= 14
    assert not any(cell.get("outputs") for cell in cells)


@pytest.mark.slow  # a process of its own
def test_jupyter_runs_it(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    done = nbclient.NotebookClient(
        notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    results = [cell["outputs"][-1] for cell in done["cells"] if cell["cell_type"] == "code"]
    assert all(each["output_type"] == "execute_result" and "text/html" in each["data"] for each in results)
