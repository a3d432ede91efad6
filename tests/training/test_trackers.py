import pytest

from inoculate.cli import run
from inoculate.core.errors import InputError
from inoculate.training import trackers as tracking
from inoculate.training.trackers import Tracker

TRAIN = ["train", "--model", "small_cnn", "--data", "digits", "--limit", "100", "--batch-size", "20", "--epochs", "2"]


def scalars(folder):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (place,) = {
        path.parent
        for path in folder.rglob("events.out*")
        if "hparams" not in str(path) and path.parent.name == "inoculate"
    }
    found = events.EventAccumulator(str(place))
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_gets_what_the_history_says(tmp_path):
    pytest.importorskip("tensorboard")
    assert run([*TRAIN, "--out", str(tmp_path)]) == 0
    found = scalars(tmp_path / "logs")
    assert [step for step, _ in found["val_accuracy"]] == [5, 10]
    assert {"loss", "accuracy", "val_loss", "images_per_second"} <= set(found)


def test_unknown_and_missing_trackers_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="did you mean 'tensorboard'"):
        Tracker("tensorbord", tmp_path, {})
    monkeypatch.setattr(tracking, "installed", lambda name: False)
    with pytest.raises(InputError, match="pip install wandb"):
        Tracker("wandb", tmp_path, {})


def test_without_tensorboard_training_goes_on_untracked(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "installed", lambda name: False)
    assert run([*TRAIN, "--out", str(tmp_path)]) == 0
    assert not (tmp_path / "logs").exists()
