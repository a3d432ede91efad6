"""A study in several processes: the same numbers as in one, workers killed on the way."""

import os
import signal

import pytest
from executor_samples import attempts
from study_samples import TINY, Recorder, numbers, run, tiny

from inoculate.core.errors import InputError
from inoculate.study.run import run_study

STUDY = tiny(models=["small_cnn"], surrogate="small_cnn", arms=["standard", "transferred"], attacks={"fgsm": {}})


class Killing(Recorder):
    """Kills a worker in the middle of the second training."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.killed = folder, 0

    def progress(self, cell, done, total, facts):
        super().progress(cell, done, total, facts)
        locks = list(self.folder.glob("store/fit/*.lock"))
        if not self.killed and cell.arm == "transferred" and locks:
            self.killed = int(locks[0].read_text().split()[-1])
            os.kill(self.killed, signal.SIGKILL)


def test_processes_measure_what_one_does_while_one_of_them_is_killed(tmp_path):
    alone, _ = run(tmp_path / "alone", STUDY)
    recorder = Killing(tmp_path / "shared")
    shared = run_study(STUDY, out=tmp_path / "shared", executor="processes:2", progress=recorder)
    assert [(row.key, row.correct, row.n) for row in shared] == [(row.key, row.correct, row.n) for row in alone]
    assert [cell["cell"] for cell in shared.manifest["cells"]] == [cell["cell"] for cell in alone.manifest["cells"]]
    assert recorder.killed
    begun = attempts(tmp_path / "shared" / "store")
    assert set(begun) == set(attempts(tmp_path / "alone" / "store"))
    assert sum(begun.values()) == len(begun) + 1, "only the killed worker's cell was begun again"
    assert {cell for cell, *_ in recorder.steps} >= {cell for cell in recorder.made if cell.kind == "fit"}


def test_what_is_in_the_store_starts_no_worker(folder, finished):
    recorder = Recorder()
    again = run_study(TINY, out=folder, executor="processes:2", progress=recorder)
    assert not recorder.made
    assert numbers(again) == numbers(finished)


def test_an_executor_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(InputError, match="executor 'cluster' is not understood"):
        run_study(STUDY, out=tmp_path, executor="cluster")
