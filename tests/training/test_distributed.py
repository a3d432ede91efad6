"""Several processes, or one with a batch in parts, train the network that one process trains."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from test_trainer import split  # noqa: F401 (a fixture)
from torch import nn

from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.models.loading.load import load_model
from inoculate.training.distributed import SINGLE, ProcessGroup
from inoculate.training.ema import RECENT, Average
from inoculate.training.methods.base import standard
from inoculate.training.methods.registry import get_method
from inoculate.training.samples import training_set
from inoculate.training.trainer import Recipe, fit

THREAT = Threat("linf", 0.1)
# In fp32, where sums differ in their last digits alone; with bf16, processors that have it round each part by itself.
RECIPE = Recipe(updates=8, rounds=2, batch_size=24, lr=0.005, augment="digits", val_images=30, precision="fp32")


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.GELU(), nn.Flatten(), nn.Linear(72, 3))


def trained(split, folder, method, **changes):  # noqa: F811
    folder.mkdir()
    model = network()
    recipe = Recipe(**{**RECIPE.__dict__, **changes})
    fit(model, training_set("standard", split, (), seed=0), split, method, recipe, seed=5, folder=folder, threat=THREAT)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    "method", [None, ("pgd_at", {"steps": 2}), ("trades", {"steps": 2, "smoothing": 0.1}), ("fgsm_rs", {"warmup": 0.5})],
    ids=["standard", "pgd_at", "trades", "fgsm_rs"],
)  # fmt: skip
def test_a_batch_in_parts_trains_as_the_whole_does(split, tmp_path, method):  # noqa: F811
    def update():
        return get_method(method[0], **method[1]).begin(THREAT) if method else standard

    whole = trained(split, tmp_path / "whole", update())
    parts = trained(split, tmp_path / "parts", update(), accumulate=3)
    assert (whole - parts).abs().max() < 1e-4
    assert (whole - trained(split, tmp_path / "other", update(), batch_size=12)).abs().max() > 1e-3


def test_every_sample_of_a_batch_belongs_to_one_process():
    teams = [ProcessGroup(rank, 3) for rank in range(3)]
    rows = torch.arange(24)
    seen = torch.cat([rows[share] for team in teams for share in team.parts(24, 2)])
    assert torch.equal(seen, rows)
    with pytest.raises(InputError, match="multiple of 6"):
        teams[0].parts(25, 2)


def test_mean_weights_know_as_many_samples_when_batches_come_in_parts(split, tmp_path):  # noqa: F811
    def statistics(parts):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
        average = Average(model, 0.9, parts)
        with average.watching(model.train()):
            for x in (split.images[:].float() / 255).split(4):  # 30 passes
                model(x)
        average.update(model)
        assert len(average._seen) == min(30, RECENT * parts)
        return average.network[1].running_mean

    assert not torch.allclose(statistics(1), statistics(2), atol=1e-6)


@pytest.mark.parametrize(("name", "options"), [("pgd_at", {"steps": 1, "awp": 0.2}), ("free", {"replays": 3})])
def test_in_bf16_every_pass_sees_the_weights_of_the_moment(split, tmp_path, name, options):  # noqa: F811
    """Autocast would go on using the bf16 weights it made for the first pass."""
    once = {"updates": 1, "rounds": 1}
    ends = [
        trained(split, tmp_path / precision, get_method(name, **options).begin(THREAT), precision=precision, **once)
        for precision in ("fp32", "bf16")
    ]
    plain = get_method(name, **{**options, **({"awp": 0.0} if "awp" in options else {"replays": 1})}).begin(THREAT)
    without = trained(split, tmp_path / "without", plain, precision="fp32", **once)
    assert (ends[0] - ends[1]).norm() < 0.5 * (ends[0] - without).norm()


def test_alone_nothing_is_averaged():
    assert SINGLE.is_main
    assert SINGLE.mean({"a": 2.0}) == {"a": 2.0}
    assert SINGLE.broadcast("x") == "x"


@pytest.mark.parametrize("name", ["free", "live_surrogate"])
def test_what_is_carried_over_batches_cannot_be_shared(split, tmp_path, name):  # noqa: F811
    method = get_method(name).begin(THREAT, (network(),))
    with pytest.raises(InputError, match="one process"):
        trained(split, tmp_path / "a", method, accumulate=2)


TRAIN = ["-m", "inoculate", "train", "--model", "small_cnn", "--data", "digits", "--limit", "240", "--batch-size", "24"]
TRAIN += ["--method", "pgd_at", "--eps", "0.1", "--option", "steps=2", "--precision", "fp32", "--epochs", "2"]
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


def weights(folder):
    model = load_model(folder)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_two_processes_train_what_one_does_and_one_of_them_writes(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run([sys.executable, *TRAIN, "--out", str(one)], check=True, env=ONE_THREAD, capture_output=True)
    said = subprocess.run(
        [sys.executable, *TWO, *TRAIN, "--out", str(two)], check=True, env=ONE_THREAD, capture_output=True, text=True
    ).stdout
    assert said.count("validation accuracy") == 1
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in two.iterdir())
    assert (weights(one) - weights(two)).abs().max() < 1e-3
    assert (weights(one) - weights(two)).abs().mean() < 1e-5


def finish(*arguments):
    """Two processes that end well; what they said, if they do not."""
    found = subprocess.run([sys.executable, *TWO, *arguments], env=ONE_THREAD, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_killed_process_ends_the_others_and_the_training_resumes(tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    long = [*TRAIN[:-1], "8"]  # epochs: it must not end between its first checkpoint and the kill
    finish(*long, "--out", str(whole))
    process = subprocess.Popen(
        [sys.executable, *TWO, *long, "--out", str(out)], env=ONE_THREAD, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(out.glob(".unfinished-*/checkpoint.pt")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
    os.kill(int(listed.split()[-1]), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not (out / "model.json").exists()
    finish(*long, "--out", str(out))
    assert torch.equal(weights(out), weights(whole))


def test_bad_input_is_said_once(tmp_path):
    bad = [*TRAIN, "--out", str(tmp_path / "a")]
    bad[bad.index("24")] = "25"
    found = subprocess.run([sys.executable, *TWO, *bad], env=ONE_THREAD, capture_output=True, text=True)
    assert found.returncode != 0
    assert found.stderr.count("error: a batch of 25 cannot be divided evenly among 2 processes") == 1


def test_only_training_is_shared():
    env = {**os.environ, "WORLD_SIZE": "2", "RANK": "0"}
    found = subprocess.run(
        [sys.executable, "-m", "inoculate", "study", "plan", "x.yaml"], env=env, capture_output=True, text=True
    )
    assert found.returncode == 2
    assert found.stderr == "error: study works in one process: only train shares its work with others\n"
