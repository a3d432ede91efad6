"""What the page's components are told, without a browser."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from inoculate.playground.session import Session

gr = pytest.importorskip("gradio", reason="gradio is not installed: pip install 'inoculate[play]'")


def test_a_number_typed_while_an_answer_arrives_is_kept(session: Session, tmp_path: Path) -> None:
    from inoculate.playground.page import layout

    page = layout(session, tmp_path)
    (from_gallery,) = [each.fn for each in page.fns.values() if each.fn.__name__ == "from_gallery"]
    numbers = [number for _, number, *_ in from_gallery("pgd", 10.0, True, SimpleNamespace(index=2))]
    assert len(numbers) > 1, "the answer arrives in stages"
    assert isinstance(numbers[0], int)
    assert numbers[1:] == [gr.skip()] * (len(numbers) - 1)
