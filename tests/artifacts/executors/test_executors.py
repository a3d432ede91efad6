"""Every executor makes a graph's artefacts once, in an order that it allows, and survives the loss of workers."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from executor_samples import GRAPH, SUMS, SumJob, Watcher, attempts, graph, sums

from inoculate.artifacts.executors.base import Local
from inoculate.artifacts.executors.find import find_executor
from inoculate.artifacts.executors.processes import Processes
from inoculate.artifacts.executors.schedule import MOST_ATTEMPTS, Schedule
from inoculate.artifacts.store import Store
from inoculate.core.errors import InputError
from inoculate.core.extras import is_installed

SAMPLES = Path(__file__).parents[2] / "samples"


def make(executor, folder, nodes=GRAPH, **options):
    """Run the sample job; returns the nodes in the order in which they were done, the watcher and the store."""
    store, watcher = Store(folder), Watcher()
    job = SumJob(store, dict(nodes), **options)
    with executor.open(job, watcher) as pool:
        return list(pool.run(nodes)), watcher, store


@pytest.mark.parametrize("executor", [Local(), Processes(2)], ids=["local", "processes"])
def test_a_graph_is_made_once_in_an_order_that_it_allows(executor, tmp_path):
    done, watcher, store = make(executor, tmp_path)
    order = [node for node, _ in done]
    assert sorted(order) == sorted(GRAPH)
    assert all(order.index(each) < order.index(node) for node in GRAPH for each in GRAPH[node])
    assert sums(store, GRAPH) == SUMS
    assert sorted(watcher.begun) == sorted(GRAPH)
    assert sorted(watcher.steps) == [(node, 1, 1, {"node": node}) for node in GRAPH]
    assert all(artefact.made for _, artefact in done)
    assert set(attempts(tmp_path).values()) == {1}
    if executor.workers == 1:
        assert order == list(GRAPH)


def test_a_worker_that_is_killed_is_replaced_and_its_node_made_again(tmp_path, caplog):
    behaviour = ((0, "die"), (4, "die"), (1, "threads"), (3, "log"), (5, "log"))
    done, watcher, store = make(Processes(2), tmp_path, behaviour=behaviour)
    assert len(done) == len(GRAPH)
    assert sums(store, GRAPH) == SUMS
    begun = attempts(tmp_path)
    assert {node for node in GRAPH if begun[f"sum/{store.path('sum', {'node': node}).name}"] == 2} == {0, 4}
    assert sum(begun.values()) == len(GRAPH) + 2, "nothing else was begun twice"
    assert sorted(watcher.begun) == [0, 0, 1, 2, 3, 4, 4, 5]
    assert json.loads((store.path("sum", {"node": 1}) / "threads.json").read_text()) == 1
    assert [record.getMessage() for record in caplog.records] == ["node 3 is odd", "node 5 is odd"]


@pytest.mark.parametrize(
    ("what", "error", "says"),
    [
        ("always die", InputError, "5 workers were lost at the same step .signal 9.: if memory ran out"),
        ("refuse", InputError, "^this node is wrong: mend it$"),
        ("fail", RuntimeError, "ZeroDivisionError: in the middle"),
    ],
)
def test_what_a_node_raises_ends_the_run_and_the_workers(what, error, says, tmp_path):
    with pytest.raises(error, match=says):
        make(Processes(1), tmp_path, {0: (), 1: ()}, behaviour=((1, what),))
    assert sums(Store(tmp_path), [0]) == {0: 1}, "what was done is kept"


def test_the_schedule_takes_the_first_node_that_can_be_made():
    schedule = Schedule({"a": ("elsewhere",), "b": ("a",), "c": (), "d": ("b", "c")})
    assert [schedule.take(), schedule.take(), schedule.take()] == ["a", "c", None]
    schedule.finish("c")
    assert schedule.take() is None
    for _ in range(MOST_ATTEMPTS - 1):
        schedule.lose("a", "signal 9")
        assert schedule.take() == "a"
    with pytest.raises(InputError, match="the same step"):
        schedule.lose("a", "signal 9")
    schedule.finish("a")
    assert schedule.take() == "b"
    schedule.finish("b")
    assert (schedule.take(), schedule.left) == ("d", 1)


def test_executors_are_found_by_name():
    assert isinstance(find_executor("local"), Local)
    assert find_executor("processes:3").workers == 3
    assert find_executor("processes").workers >= 1
    mine = Processes(2)
    assert find_executor(mine) is mine
    for wrong in ("processes:0", "processes:x", "processes:", "threads", "ray:", "local:2", "", 3, None):
        with pytest.raises(InputError, match="give local, processes, processes:4, ray or ray:ADDRESS"):
            find_executor(wrong)
    if not is_installed("ray"):
        with pytest.raises(InputError, match=r"pip install 'inoculate\[ray\]'"):
            find_executor("ray")


DRIVER = """
import signal
import sys
from pathlib import Path
from executor_samples import SumJob, Watcher, graph
from inoculate.artifacts.executors.processes import Processes
from inoculate.artifacts.store import Store

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs inherit that it is ignored
    nodes = graph(int(sys.argv[2]))
    job = SumJob(Store(Path(sys.argv[1])), nodes, float(sys.argv[3]))
    with Processes(2).open(job, Watcher()) as pool:
        for node, artefact in pool.run(nodes):
            print(node, artefact.made, flush=True)
"""


def start(script, *arguments):
    """A driving process of its own."""
    environment = os.environ | {"PYTHONPATH": f"{SAMPLES}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def alive(store):
    """The worker processes that made something, and still live."""
    pids = {int(path.read_text()) for path in store.root.glob("sum/*/pid")}
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_workers_end_with_the_driving_process(how, tmp_path):
    (tmp_path / "drive.py").write_text(DRIVER)
    store, nodes = Store(tmp_path / "store"), graph(400)
    driver = start(tmp_path / "drive.py", store.root, len(nodes), 0.1)
    for _ in range(3):
        assert driver.stdout.readline()
    driver.send_signal(how)
    driver.communicate(timeout=20)
    end = time.monotonic() + 10
    while alive(store) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(store)
    before = sum(attempts(store.root).values())
    done, _, _ = make(Local(), store.root, nodes)
    assert 0 < before < len(nodes)
    assert sum(artefact.made for _, artefact in done) == len(nodes) - before
    assert sum(attempts(store.root).values()) <= len(nodes) + 2, "only what was under way was begun again"


def test_two_drivers_share_a_store(tmp_path):
    (tmp_path / "drive.py").write_text(DRIVER)
    nodes = graph(12)
    drivers = [start(tmp_path / "drive.py", tmp_path / "store", len(nodes), 0.02) for _ in range(2)]
    printed = [driver.communicate(timeout=100)[0].split() for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0]
    assert sum(words.count("True") for words in printed) == len(nodes)
    assert set(attempts(tmp_path / "store").values()) == {1}
    assert len(attempts(tmp_path / "store")) == len(nodes)


def test_a_script_without_a_guard_is_told_of_it(tmp_path):
    (tmp_path / "drive.py").write_text(DRIVER.replace('if __name__ == "__main__":', "if True:"))
    driver = start(tmp_path / "drive.py", tmp_path / "store", 3, 0)
    _, errors = driver.communicate(timeout=100)
    assert driver.returncode == 1
    assert "below if __name__ == '__main__'" in errors.splitlines()[-1]


def test_a_lock_is_never_held_twice(tmp_path):
    """Many threads make one artefact that fails now and then: one at a time, and the number of attempts is right."""
    store, inside, failures = Store(tmp_path), [], [True] * 3

    def build(folder):
        inside.append(1)
        assert len(inside) == 1
        time.sleep(0.002)
        inside.pop()
        if failures:
            failures.pop()
            raise RuntimeError

    def call():
        while store.find("thing", {}) is None:
            with contextlib.suppress(RuntimeError):
                store.get_or_make("thing", {}, build)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(attempts(tmp_path).values()) == [4]
    assert [path.name for path in (tmp_path / "thing").iterdir()] == [store.path("thing", {}).name], "no lock is left"
