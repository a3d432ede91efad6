import json
import os
import signal
import subprocess
import sys

import pytest

from inoculate.artifacts.files import read_json, write_json
from inoculate.artifacts.store import Store, is_complete
from inoculate.core.errors import InputError


def test_makes_once_and_finds_again(tmp_path):
    store, calls = Store(tmp_path), []

    def make(folder):
        calls.append(folder)
        (folder / "a.txt").write_text("hello")

    first = store.get_or_make("thing", {"x": 1}, make)
    assert store.get_or_make("thing", {"x": 1}, make) == first
    assert len(calls) == 1
    assert (first / "a.txt").read_text() == "hello"
    assert json.loads((first / "manifest.json").read_text())["spec"] == {"x": 1}


def test_a_failed_make_leaves_nothing_complete(tmp_path):
    store = Store(tmp_path)

    def make(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        store.get_or_make("thing", {}, make)
    assert store.find("thing", {}) is None


@pytest.mark.parametrize("damage", ["truncate", "delete", "manifest"])
def test_a_damaged_artefact_is_made_again(tmp_path, damage):
    store = Store(tmp_path)
    folder = store.get_or_make("thing", {}, lambda f: (f / "a").write_text("hello"))
    if damage == "truncate":
        (folder / "a").write_text("he")
    elif damage == "delete":
        (folder / "a").unlink()
    else:
        (folder / "manifest.json").write_text("{")
    assert not is_complete(folder)
    store.get_or_make("thing", {}, lambda f: (f / "a").write_text("hello"))
    assert is_complete(folder)
    assert (folder / "a").read_text() == "hello"


def test_kill_while_making_is_resumed(tmp_path):
    code = """
import sys, time
from pathlib import Path
from inoculate.artifacts.store import Store
def make(folder):
    (folder / "progress").write_text("1")
    print("ready", flush=True)
    time.sleep(60)
Store(Path(sys.argv[1])).get_or_make("thing", {}, make)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    store, seen = Store(tmp_path), []
    # a dead process holds no lock: else this would wait for ever
    store.get_or_make("thing", {}, lambda f: seen.append((f / "progress").read_text()))
    assert seen == ["1"], "the next attempt sees what the killed one left"


def test_unreadable_json_is_one_clear_line(tmp_path):
    (tmp_path / "x.json").write_text("{oops")
    with pytest.raises(InputError, match=r"x\.json cannot be read") as caught:
        read_json(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


def test_json_is_replaced_whole(tmp_path):
    write_json(tmp_path / "x.json", [1, 2])
    write_json(tmp_path / "x.json", {"a": 1})
    assert read_json(tmp_path / "x.json") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
