"""A study of two very small networks on real digits, and an observer that remembers what was computed."""

from copy import deepcopy
from typing import Any

from inoculate.study.result import StudyRun
from inoculate.study.run import run_study

TINY: dict[str, Any] = {
    "name": "tiny",
    "datasets": {"digits": {"image_size": 12, "augment": "none"}},
    "models": ["small_cnn", "test_resnet"],
    "surrogate": "most_vulnerable",
    "eps": [0.02, "8/255"],
    "attacks": {"fgsm": {}, "pgd": {"steps": 2, "step": 0.5, "images": 15}},
    "training": {"epochs": 2, "batch_size": 16, "lr": 0.005},
    "explanations": False,
    "limit": 120,
}


def tiny(**changes: Any) -> dict[str, Any]:
    """The study with other values of some keys; a value of None removes the key."""
    study = deepcopy(TINY) | changes
    return {key: value for key, value in study.items() if value is not None}


class Recorder:
    """A `StudyObserver` that remembers cells, made or found, the estimates of the time left, and every progress."""

    def __init__(self):
        self.made, self.found, self.estimates, self.steps = [], [], [], []

    def begin(self, cell, number, total, left):
        self.estimates.append((cell, left))

    def progress(self, cell, done, total, facts):
        self.steps.append((cell, done, total, dict(facts)))

    def end(self, cell, seconds, made, measured):
        (self.made if made else self.found).append(cell)


def run(folder, study, **options) -> tuple[StudyRun, Recorder]:
    """Run a study in `folder`."""
    recorder = Recorder()
    return run_study(study, out=folder, progress=recorder, **options), recorder


def numbers(rows):
    """What was measured, without the time that it took."""
    return {row.key: (row.correct, row.n) for row in rows}
