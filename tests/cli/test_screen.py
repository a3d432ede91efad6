"""The progress of a study whose cells are made at once."""

import io

import pytest
from rich.console import Console

from inoculate.cli.screen import Screen
from inoculate.study.cell import Cell
from inoculate.study.estimate import TimeLeft
from inoculate.study.measurements import Measurements

FIRST, SECOND = Cell("fit", "digits", 0, "small_cnn"), Cell("fit", "digits", 1, "small_cnn")


@pytest.mark.parametrize("terminal", [True, False])
def test_several_cells_have_a_bar_each(terminal):
    console = Console(file=io.StringIO(), force_terminal=terminal, width=150)
    screen = Screen(console, "fgsm")
    screen.begin(FIRST, 1, 2, None)
    screen.begin(SECOND, 2, 2, TimeLeft(90.0, True))
    screen.progress(SECOND, 5, 10, {"loss": 1.0})
    screen.progress(FIRST, 1, 10, {})
    screen.begin(FIRST, 1, 2, None)  # its worker was lost
    assert [task.description for task in screen.place.tasks] == [screen.bars[SECOND].title, screen.bars[FIRST].title]
    assert [task.completed for task in screen.place.tasks] == [5, 0]
    screen.end(SECOND, 61.0, True, Measurements())
    screen.end(FIRST, 0.0, False, Measurements())
    screen.progress(SECOND, 6, 10, {})  # too late
    assert not screen.place.tasks
    assert not screen.bars
    printed = console.file.getvalue()
    assert "[2/2, at least 1 min 30 s left] digits seed 1: train small_cnn (standard): 1 min 01 s\n" in printed
    screen.begin(FIRST, 1, 2, None)
    screen.close()
    assert not screen.place.tasks
