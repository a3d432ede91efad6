"""For every test: a cache of the session's own, so that nothing of the user's is read or written."""

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    before = os.environ.get("INOCULATE_CACHE")
    os.environ["INOCULATE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("INOCULATE_CACHE") if before is None else os.environ.update(INOCULATE_CACHE=before)
