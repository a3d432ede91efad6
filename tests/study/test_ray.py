"""A study on a Ray cluster whose nodes, and whose driving process, are killed: the numbers of an undisturbed run."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from executor_samples import attempts
from study_samples import run, tiny

from inoculate.study.load import load_study
from inoculate.study.plan import plan

pytest.importorskip("ray", reason="Ray is not installed: pip install 'inoculate[ray]'")
pytestmark = [pytest.mark.ray, pytest.mark.slow]

NODES, NODE_KILLS, DRIVER_KILLS = 4, 20, 3
STUDY = tiny(
    models=["small_cnn"], surrogate="small_cnn", arms=["standard"], attacks={"fgsm": {}}, eps=[0.05], limit=100,
    seeds=list(range(50)), datasets={"digits": {"image_size": 8}}, training={"epochs": 1, "max_updates": 2},
)  # fmt: skip
DRIVER = """
import json, sys
from inoculate.study.run import run_study

run_study(json.loads(sys.argv[1]), out=sys.argv[2], executor=sys.argv[3])
"""


@pytest.mark.timeout(1800)
def test_killed_nodes_and_drivers_change_nothing(tmp_path):
    from ray.cluster_utils import Cluster

    random.seed(0)
    alone, _ = run(tmp_path / "alone", STUDY)
    cells = len(plan(load_study(STUDY)))
    assert cells >= 200
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    out, store = tmp_path / "out", tmp_path / "out" / "store"
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(NODES)]
        driver = start(out, cluster.address)
        kills = 0
        for number in range(1, NODE_KILLS + 1):
            wait_for(store, number * cells // (NODE_KILLS + 2), driver)
            time.sleep(random.uniform(0, 0.5))
            kills += 1
            cluster.remove_node(nodes.pop(random.randrange(NODES)), allow_graceful=False)
            nodes.append(cluster.add_node(num_cpus=1))
            if number % (NODE_KILLS // DRIVER_KILLS) == 0:
                driver.send_signal(signal.SIGKILL)
                driver.wait()
                kills += NODES  # all of its tasks end
                driver = start(out, cluster.address)
        assert driver.wait(timeout=900) == 0
    finally:
        driver.kill()
        cluster.shutdown()
    again, recorder = run(out, STUDY)
    assert not recorder.made
    assert [(row.key, row.correct, row.n) for row in again] == [(row.key, row.correct, row.n) for row in alone]
    begun, expected = attempts(store), attempts(tmp_path / "alone" / "store")
    assert set(begun) == set(expected)
    assert len([name for name in begun if not name.startswith("split/")]) == cells
    assert sum(begun.values()) <= len(begun) + kills, "only what was under way on what was killed was begun again"


def start(out, address):
    """The driving process."""
    command = [sys.executable, "-c", DRIVER, json.dumps(STUDY), str(out), f"ray:{address}"]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})


def wait_for(store, count, driver):
    """Until so many artefacts are there."""
    while len(list(store.glob("*/*/manifest.json"))) < count:
        assert driver.poll() is None, "the driving process ended"
        time.sleep(0.1)
