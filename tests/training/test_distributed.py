"""Several processes, or one with a batch in parts, train the network that one process trains."""

import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import distributed_worker
import pytest
import torch
from torch import nn
from torch.distributed import TCPStore
from training_samples import RECIPE, blocks, fit_blocks, same_weights

from inoculate.core.errors import InputError
from inoculate.core.threat import Threat
from inoculate.models.loading.load import load_model
from inoculate.training import distributed
from inoculate.training.distributed import SINGLE, ProcessGroup, process_group
from inoculate.training.ema import EMA, RECENT_BATCHES
from inoculate.training.methods.registry import get_method

THREAT = Threat("linf", 0.1)
# In fp32, where sums differ only in their last digits; with bf16, processors that have it round each part by itself.
SHORT = replace(RECIPE, updates=8, rounds=2, batch_size=24, lr=0.005, val_images=30, precision="fp32")


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.GELU(), nn.Flatten(), nn.Linear(72, 3))


def trained(folder, method, **changes):
    return fit_blocks(folder, method, replace(SHORT, **changes), network(), threat=THREAT)[0]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("standard", {}),
        ("pgd_at", {"steps": 2}),
        ("trades", {"steps": 2, "smoothing": 0.1}),
        ("fgsm_rs", {"warmup": 0.5}),
    ],
)
def test_a_batch_in_parts_trains_as_the_whole_does(name, options, tmp_path):
    method = get_method(name, **options)
    whole = weights(trained(tmp_path / "whole", method.begin(THREAT)))
    parts = weights(trained(tmp_path / "parts", method.begin(THREAT), accumulate=3))
    assert (whole - parts).abs().max() < 1e-4
    assert (whole - weights(trained(tmp_path / "other", method.begin(THREAT), batch_size=12))).abs().max() > 1e-3


def test_every_sample_of_a_batch_belongs_to_one_process():
    groups, rows = [ProcessGroup(rank, 3) for rank in range(3)], torch.arange(24)
    seen = torch.cat([rows[part] for group in groups for part in group.parts(24, 2)])
    assert torch.equal(seen, rows)
    with pytest.raises(InputError, match="multiple of 6"):
        groups[0].parts(25, 2)


def test_averaged_weights_see_as_many_samples_when_batches_come_in_parts():
    def statistics(parts):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3))
        average = EMA(model, 0.9, parts)
        with average.recording(model.train()):
            for x in (blocks().images[:].float() / 255).split(4):  # 30 passes
                model(x)
        average.update(model)
        assert len(average._recent) == min(30, RECENT_BATCHES * parts)
        return average.network()[1].running_mean

    assert not torch.allclose(statistics(1), statistics(2), atol=1e-6)


@pytest.mark.parametrize(("name", "options"), [("pgd_at", {"steps": 1, "awp": 0.2}), ("free", {"replays": 3})])
def test_in_bf16_every_pass_sees_the_present_weights(name, options, tmp_path):
    """Autocast would otherwise reuse the bf16 weights of the first pass."""
    once = {"updates": 1, "rounds": 1}
    fp32, bf16 = (
        weights(trained(tmp_path / precision, get_method(name, **options).begin(THREAT), precision=precision, **once))
        for precision in ("fp32", "bf16")
    )
    plain = get_method(name, **{**options, **({"awp": 0.0} if "awp" in options else {"replays": 1})}).begin(THREAT)
    without = weights(trained(tmp_path / "without", plain, **once))
    assert (fp32 - bf16).norm() < 0.5 * (fp32 - without).norm()


def test_one_process_communicates_with_none():
    assert SINGLE.is_main
    assert SINGLE.mean({"a": 2.0}) == {"a": 2.0}
    assert SINGLE.broadcast("x") == "x"
    with process_group("cpu") as group:
        assert group == SINGLE


@pytest.mark.parametrize("name", ["free", "fgsm_pgi", "rrm", "live_surrogate"])
def test_state_from_batch_to_batch_cannot_be_divided(name, tmp_path):
    method = get_method(name).begin(THREAT, (network(),))
    with pytest.raises(InputError, match="one process"):
        trained(tmp_path, method, accumulate=2)


def launch(folder: Path, kill_at: int = 0) -> tuple[list[int], str]:
    """Exit codes and errors of two processes that train, without a launcher that would end the one for the other."""
    port = str(free_port())
    command = [sys.executable, distributed_worker.__file__, str(folder), str(kill_at)]
    common = {**os.environ, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(command, env={**common, "RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    errors = [process.communicate()[1] for process in processes]
    return [process.returncode for process in processes], "\n".join(errors)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("connects", [False, True])
def test_a_process_that_ends_before_it_joins_is_not_waited_for_long(rank, connects, monkeypatch):
    """Whether it had reached the store or not."""
    port = free_port()
    settings = {"WORLD_SIZE": 2, "RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(distributed, "JOIN", timedelta(seconds=1))
    distributed._rendezvous.cache_clear()

    def come() -> None:
        TCPStore("127.0.0.1", port, 2, is_master=rank == 1, timeout=timedelta(seconds=5)).set("other", "1")

    other = threading.Thread(target=come)
    if connects:
        other.start()
    with (
        pytest.raises(InputError, match=r"the 2 processes cannot be joined .* has one of them ended"),
        process_group("cpu"),
    ):
        pass
    if connects:
        other.join()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A training whose process 1 killed itself in round 3 of 4: its folder, the exit codes, the errors, and the files
    that were left, listed now because `two` resumes there."""
    folder = tmp_path_factory.mktemp("two")
    codes, errors = launch(folder, kill_at=6)
    return folder, codes, errors, {path.name for path in folder.rglob("*") if path.is_file()}


def test_a_killed_process_ends_the_other(killed):
    """Process 0 meets a broken connection; the checkpoint of an earlier round is there, a finished model is not."""
    _, codes, errors, files = killed
    assert codes == [1, -9]
    assert "the connection between the 2 processes is broken" in errors
    assert "checkpoint.pt" in files
    assert "model.json" not in files


@pytest.fixture(scope="module")
def two(killed):
    """The same processes again, which resume that training and make another; what each reports."""
    folder, *_ = killed
    codes, errors = launch(folder)
    assert codes == [0, 0], errors
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_an_interrupted_training_of_two_processes_ends_with_the_same_weights(two):
    folder, _ = two
    assert same_weights(load_model(folder / "resumed"), load_model(folder / "whole"))


def test_two_processes_train_what_one_does(two):
    folder, facts = two
    single = distributed_worker.run(None)
    assert (weights(load_model(folder / "whole")) - weights(single.model)).abs().max() < 1e-3
    assert facts[0]["history"] == facts[1]["history"]
    assert facts[0]["history"][-1]["val_accuracy"] == pytest.approx(single.history[-1]["val_accuracy"], abs=0.02)
    files = sorted(path.name for path in (folder / "whole").iterdir())
    assert files == ["history.json", "model.json", "weights.safetensors"]
    for fact in facts:
        assert not fact["reused"]
        assert fact["reused_again"], "the same training again is read from the folder"


def test_no_thread_of_a_process_group_outlives_it(two):
    """One that did could abort the process while the interpreter ends."""
    for fact in two[1]:
        assert not fact["initialized"]
        assert fact["threads"]
        assert not [name for name in fact["threads"] if "gloo" in name], fact["threads"]


def test_every_process_refuses_a_batch_that_cannot_be_divided(two):
    for fact in two[1]:
        assert "a batch of 25 cannot be divided evenly among 2 processes" in fact["error"]
