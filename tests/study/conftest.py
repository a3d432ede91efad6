"""One finished study for the whole session."""

import shutil

import pytest
from study_samples import TINY, run


@pytest.fixture(scope="session")
def _finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, *run(folder, TINY)


@pytest.fixture(scope="session")
def finished(_finished):
    """The result of the tiny study."""
    return _finished[1]


@pytest.fixture(scope="session")
def recorder(_finished):
    """Which cells the tiny study made."""
    return _finished[2]


@pytest.fixture
def folder(_finished, tmp_path):
    """A copy of the finished study's folder, artefacts included."""
    return shutil.copytree(_finished[0], tmp_path / "study")
