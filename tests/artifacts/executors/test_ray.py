"""The Ray executor on a cluster of several nodes on this machine."""

import os
import random
import sys
from dataclasses import replace

import pytest
from executor_samples import GRAPH, SUMS, SumJob, Watcher, attempts, graph, sums

from inoculate.artifacts.executors.find import find_executor
from inoculate.artifacts.store import Store
from inoculate.core.errors import InputError

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'inoculate[ray]'")
pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster():
    """A head without processors, and nodes with one each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the nodes' workers import the samples too
        yield from started(Cluster)


def started(Cluster):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    yield cluster
    cluster.shutdown()


def make(cluster, folder, nodes=GRAPH, **options):
    store, watcher = Store(folder), Watcher()
    job = SumJob(store, dict(nodes), **options)
    with find_executor(f"ray:{cluster.address}").open(job, watcher) as pool:
        return list(pool.run(nodes)), watcher, store


def test_a_graph_is_made_once_with_progress_and_log(cluster, tmp_path, caplog):
    done, watcher, store = make(cluster, tmp_path, behaviour=((3, "log"), (5, "log"), (1, "threads")))
    order = [node for node, _ in done]
    assert all(order.index(each) < order.index(node) for node in GRAPH for each in GRAPH[node])
    assert sums(store, GRAPH) == SUMS
    assert (store.path("sum", {"node": 1}) / "threads.json").read_text() == "1\n"
    assert set(watcher.begun) == set(GRAPH)
    assert [record.getMessage() for record in caplog.records] == ["node 3 is odd", "node 5 is odd"]


def test_what_a_node_raises_is_raised(cluster, tmp_path):
    with pytest.raises(InputError, match=r"^this node is wrong: mend it$"):
        make(cluster, tmp_path, behaviour=((1, "refuse"),))


def test_a_machine_without_the_folder_gets_inputs_and_returns_artefacts(cluster, tmp_path, monkeypatch):
    from inoculate.artifacts.executors.ray import _Flights

    submit = _Flights.submit

    def hide(flights):
        flights._order = replace(flights._order, identity="of another folder")
        submit(flights)

    monkeypatch.setattr(_Flights, "submit", hide)
    done, _, store = make(cluster, tmp_path)
    assert len(done) == len(GRAPH)
    assert sums(store, GRAPH) == SUMS
    assert not list(tmp_path.glob("sum/*.lock")), "nothing was made in the folder itself"


def test_lost_nodes_cost_what_was_under_way_on_them(cluster, tmp_path):
    """Nodes are killed in the middle of the work, and others started."""
    nodes, store, kills, done = graph(30), Store(tmp_path), 0, []
    random.seed(0)
    job = SumJob(store, dict(nodes), seconds=0.3)
    with find_executor(f"ray:{cluster.address}").open(job, Watcher()) as pool:
        for node, _ in pool.run(nodes):
            done.append(node)
            if len(done) % 8 == 0:
                kills += 1
                victim = cluster.nodes.pop(random.randrange(len(cluster.nodes)))
                cluster.remove_node(victim, allow_graceful=False)
                cluster.nodes.append(cluster.add_node(num_cpus=1))
    assert sorted(done) == sorted(nodes)
    alone = Store(tmp_path / "alone")
    work = SumJob(alone, nodes).start(alone, lambda *_: None)
    for node in nodes:
        work(node)
    assert sums(store, nodes) == sums(alone, nodes)
    assert kills == 3
    assert sum(attempts(store.root).values()) <= len(nodes) + kills


def test_a_cluster_that_does_not_answer_is_refused(tmp_path):
    job, executor = SumJob(Store(tmp_path), GRAPH), find_executor("ray:127.0.0.1:1")
    with pytest.raises(InputError, match="does not answer"), executor.open(job, Watcher()):
        pass
