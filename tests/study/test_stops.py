"""A study whose process is killed goes on where it stopped; told to end, it saves what it has measured."""

import json
import os
import signal
import subprocess
import sys
import threading

from study_samples import numbers, run, tiny

from inoculate.artifacts.rows import read_rows

STUDY = tiny(models=["small_cnn"], surrogate="small_cnn", arms=["standard", "transferred"])
# Counts every event of a study and kills its process at one of them.
SCRIPT = """
import json, os, signal, sys
from inoculate.study.run import run_study

class Killer:
    events = 0

    def count(self, *_):
        self.events += 1
        if self.events == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)

    begin = progress = end = count

run_study(json.loads(sys.argv[1]), out=sys.argv[2], progress=Killer())
"""


def test_killed_and_resumed_gives_the_same_numbers(tmp_path):
    whole, recorder = run(tmp_path / "whole", STUDY)
    out = tmp_path / "out"
    for event in (9, 30):  # in the middle of the first training; after some evaluations
        ended = subprocess.run(
            [sys.executable, "-c", SCRIPT, json.dumps(STUDY), str(out), str(event)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # the number of threads moves the last digits
        )
        assert ended.returncode == -9
    found = {path.parent.parent.name for path in out.glob("store/*/*/manifest.json")}
    assert {"split", "fit", "evaluate"} <= found
    resumed, rest = run(out, STUDY)
    assert 0 < len(rest.made) < len(recorder.made)
    assert numbers(resumed) == numbers(whole) == numbers(read_rows(out / "results.json"))


def test_told_to_end_it_saves_what_was_measured(tmp_path):
    (tmp_path / "study.yaml").write_text(json.dumps(STUDY | {"seeds": list(range(50))}), encoding="utf-8")
    command = ["-m", "inoculate", "study", "run", "study.yaml", "--out", "out", "--device", "cpu"]
    with subprocess.Popen(
        [sys.executable, *command], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as driver:
        late = threading.Timer(120, driver.kill)
        late.start()
        said = ""
        for line in driver.stdout:
            said += line
            if "test small_cnn (standard) clean" in line and said.count("(standard) clean") == 1:
                driver.send_signal(signal.SIGTERM)
        late.cancel()
    assert driver.returncode == 130, said
    assert "interrupted: run the same command again to continue" in said
    assert {row.attack for row in read_rows(tmp_path / "out" / "results.json")} >= {"none"}
