"""Trackers receive what the history says."""

import pytest
from training_samples import blocks

from inoculate.core.errors import InputError
from inoculate.core.extras import is_installed
from inoculate.training.options import TrainingOptions
from inoculate.training.trackers import TRACKERS, Tracker, default_tracker
from inoculate.training.train import train


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


def test_tensorboard_receives_the_history(tmp_path):
    pytest.importorskip("tensorboard")
    options = TrainingOptions(batch_size=20, tracker="tensorboard")
    result = train("small_cnn", blocks(), epochs=2, out=tmp_path, options=options)
    found = scalars(tmp_path / "logs")
    expected = [(entry["update"], pytest.approx(entry["val_accuracy"])) for entry in result.history]
    assert found["val_accuracy"] == expected
    assert {"loss", "accuracy", "val_loss", "images_per_second"} <= set(found)


def test_unknown_and_missing_trackers_are_one_line(tmp_path):
    with pytest.raises(InputError, match="did you mean 'tensorboard'"):
        Tracker("tensorbord", tmp_path, {})
    for name in TRACKERS:
        if not is_installed(name):
            with pytest.raises(InputError, match=f"pip install {name}"):
                Tracker(name, tmp_path, {})


def test_without_a_tracker_nothing_is_logged(tmp_path):
    train("small_cnn", blocks(), epochs=1, out=tmp_path, options=TrainingOptions(batch_size=20))
    assert not (tmp_path / "logs").exists()
    assert default_tracker() in (None, "tensorboard")
