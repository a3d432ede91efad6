"""Weights of the user's: what is read, how names are matched, and what is refused before anything is loaded."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_samples import small_data
from safetensors.torch import save_file
from torch import Tensor, nn

from inoculate.core.errors import InputError
from inoculate.models.build import build_model
from inoculate.models.loading.load import load_model
from inoculate.models.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize, normalized

State = dict[str, Tensor]
X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Names as in many tutorials; for 3×8×8 images and 4 classes."""

    def __init__(self, classes: int = 4, channels: int = 3) -> None:
        super().__init__()
        self.conv1, self.bn1, self.fc = nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.relu(self.bn1(self.conv1(x))).mean((2, 3)))
        return logits


def trained(seed: int = 7, **options: int) -> Net:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        net = Net(**options)
        net.bn1.running_mean.uniform_(-1, 1)
        net.bn1.running_var.uniform_(0.5, 2)
        net.bn1.num_batches_tracked += 12
    return net.eval()


def plain(state: State) -> State:
    return state


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: value for name, value in state.items()}


def with_keys(**others: Any) -> Callable[[State], Any]:
    return lambda state: {**state, **others}


def without(*endings: str) -> Callable[[State], State]:
    return lambda state: {name: value for name, value in state.items() if not name.endswith(endings)}


def under(*keys: str, prefix: str = "") -> Callable[[State], Any]:
    def nest(state: State) -> Any:
        found: Any = prefixed(prefix)(state)
        for key in reversed(keys):
            found = {key: found, "epoch": 3, "best_acc": 0.93, "lr": [0.1, 0.01], "arch": "resnet"}
        return found

    return nest


FORMS: dict[str, Callable[[State], Any]] = {
    "plain": plain,
    "state_dict": under("state_dict"),
    "model": under("model"),
    "net": under("net"),
    "model_state_dict": under("model_state_dict"),
    "a key that nobody knows": under("my_weights"),
    "twice nested": under("checkpoint", "state_dict"),
    "with an optimizer": lambda state: {
        "model": state,
        "optimizer": torch.optim.SGD(trained().parameters(), 0.1, momentum=0.9).state_dict(),
    },
    "flat, with numbers beside": with_keys(epoch=3, best=0.5),
    **{name: prefixed(name) for name in ("module.", "_orig_mod.", "model.", "backbone.", "network.", "net.")},
    **{name: prefixed(name) for name in ("module._orig_mod.", "_orig_mod.module.", "module.model.", "my.own.net.")},
    "nested and prefixed": under("state_dict", prefix="module."),
    "parts in DataParallel": lambda state: {
        name.replace("conv1.", "conv1.module."): value for name, value in state.items()
    },
    "half": lambda state: {name: value.half() if value.is_floating_point() else value for name, value in state.items()},
    "double": lambda state: {name: value.double() for name, value in state.items()},
    "no counters": without("num_batches_tracked"),
    "counts of operations": with_keys(total_ops=torch.zeros(1), **{"conv1.total_params": torch.ones(1)}),
    "averaged by torch": lambda state: {**prefixed("module.")(state), "n_averaged": torch.tensor(5)},
    "of Lightning": lambda state: {
        "state_dict": {**prefixed("model.")(state), "criterion.weight": torch.ones(4)},
        "pytorch-lightning_version": "2.4",
        "optimizer_states": [{"state": {}, "param_groups": []}],
    },
    "parameters": lambda state: {
        name: nn.Parameter(value) if value.is_floating_point() else value for name, value in state.items()
    },
    "a linear layer as a convolution": lambda state: {**state, "fc.weight": state["fc.weight"][..., None, None]},
}


def close(model: nn.Module, expected: nn.Module, tolerance: float = 1e-6) -> bool:
    with torch.no_grad():
        return torch.allclose(model(X), expected(X), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".safetensors"])
def test_every_usual_form_is_loaded(tmp_path: Path, form: str, suffix: str) -> None:
    state, file = FORMS[form](trained().state_dict()), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        if not all(isinstance(value, Tensor) for value in state.values()):
            pytest.skip("safetensors hold tensors alone")
        save_file({name: value.detach().contiguous() for name, value in state.items()}, file)
    else:
        torch.save(state, file)
    model = load_model(Net(), weights=file)
    assert close(model, trained(), 1e-2 if form == "half" else 1e-6)
    assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_the_older_format_of_torch_is_read(tmp_path: Path) -> None:
    torch.save(trained().state_dict(), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    assert close(load_model(Net(), weights=tmp_path / "w.pt"), trained())


def test_bfloat16_and_a_half_network(tmp_path: Path) -> None:
    torch.save({name: value.bfloat16() for name, value in trained().state_dict().items()}, tmp_path / "w.pth")
    assert close(load_model(Net(), weights=tmp_path / "w.pth"), trained(), 0.05)
    half = load_model(Net().bfloat16(), weights=tmp_path / "w.pth")
    assert half.fc.weight.dtype is torch.bfloat16
    torch.testing.assert_close(half.fc.weight.float(), trained().fc.weight.bfloat16().float())


@pytest.mark.parametrize("wrap", [
    lambda net: nn.Sequential(Normalize((0.5,), (0.2,)), net),
    lambda net: normalized(net, (0.5,), (0.2,)),
    lambda net: nn.DataParallel(net),
    lambda net: torch.compile(net, backend="eager"),
    lambda net: nn.Sequential(nn.Sequential(net), nn.Identity()),
])  # fmt: skip
@pytest.mark.parametrize("form", ["plain", "module.", "model", "of Lightning"])
def test_plain_weights_for_a_wrapped_network(tmp_path: Path, wrap: Callable[..., Any], form: str) -> None:
    torch.save(FORMS[form](trained().state_dict()), tmp_path / "w.pth")
    assert close(load_model(wrap(Net()), weights=tmp_path / "w.pth"), wrap(trained()).eval())


def test_statistics_outside_the_parameters_are_not_left_behind(tmp_path: Path) -> None:
    def wrap(net: nn.Module) -> nn.Module:
        return nn.Sequential(nn.BatchNorm2d(3, affine=False), net)

    torch.save(trained().state_dict(), tmp_path / "w.pth")
    assert "do not fit" in refused(wrap(Net()), tmp_path / "w.pth")
    torch.save(wrap(trained()).state_dict(), tmp_path / "w.pth")
    assert close(load_model(wrap(Net()), weights=tmp_path / "w.pth"), wrap(trained()).eval())


class WithBranch(Net):
    def __init__(self) -> None:
        super().__init__()
        self.aux1 = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.aux1(super().forward(x))
        return logits


def test_a_branch_of_the_network_may_not_be_missing(tmp_path: Path) -> None:
    torch.save(trained().state_dict(), tmp_path / "w.pth")
    assert "2 missing (aux1.weight, aux1.bias)" in refused(WithBranch(), tmp_path / "w.pth")


def save_tied(path: Path, lack: str, differ: bool = False) -> None:
    state = {"a.weight": torch.eye(4), "b.weight": torch.eye(4) * (2 if differ else 1)}
    torch.save({name: value for name, value in state.items() if name != lack}, path)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.b(self.a(x))
        return logits


@pytest.mark.parametrize("lack", ["", "a.weight", "b.weight"])
def test_tied_parameters(tmp_path: Path, lack: str) -> None:
    save_tied(tmp_path / "w.pth", lack)
    model = load_model(Tied(), weights=tmp_path / "w.pth")
    assert torch.equal(model(torch.eye(4)), torch.eye(4))
    save_tied(tmp_path / "w.pth", "", differ=True)
    assert "differ where the network has one tensor" in refused(Tied(), tmp_path / "w.pth")


def test_weight_norm_of_the_older_kind(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning):
        older = torch.nn.utils.weight_norm(nn.Linear(4, 4))
    torch.save(older.state_dict(), tmp_path / "w.pth")
    model = load_model(torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), weights=tmp_path / "w.pth")
    torch.testing.assert_close(model(torch.eye(4)), older(torch.eye(4)))


# Which of several.


def several(tmp_path: Path, *keys: str, flat: bool = False) -> Path:
    """A file with a network under each key, trained from another seed each."""
    states = {key: trained(seed).state_dict() for seed, key in enumerate(keys)}
    if flat:
        torch.save({f"{key}.{n}": t for key, state in states.items() for n, t in state.items()}, tmp_path / "w.pth")
    else:
        torch.save({**states, "epoch": 1}, tmp_path / "w.pth")
    return tmp_path / "w.pth"


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize(
    ("keys", "used"),
    [
        (("state_dict", "state_dict_ema"), 1),
        (("model", "ema"), 1),
        (("model_ema", "model"), 0),
        (("net", "state_dict"), 1),
        (("teacher", "model"), 1),
    ],
)
def test_the_choice_among_several_is_said(
    tmp_path: Path, keys: tuple[str, ...], used: int, flat: bool, caplog: pytest.LogCaptureFixture
) -> None:
    file = several(tmp_path, *keys, flat=flat)
    assert close(load_model(Net(), weights=file), trained(used))
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"'{keys[used]}' is used" in said
    other = keys[1 - used]
    assert close(load_model(Net(), weights=f"{file}:{other}"), trained(1 - used))


def test_two_that_nobody_prefers_are_refused_until_one_is_named(tmp_path: Path) -> None:
    file = several(tmp_path, "student", "teacher")
    assert "2 networks that fit (student, teacher): name one" in refused(Net(), file)
    assert close(load_model(Net(), weights=f"{file}:teacher"), trained(1))
    assert "there is no 'nobody', but student, teacher" in refused(Net(), f"{file}:nobody")


def test_the_one_that_fits_is_used_whatever_it_is_called(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save({"state_dict": trained(classes=9).state_dict(), "zz": trained().state_dict()}, tmp_path / "w.pth")
    assert close(load_model(Net(), weights=tmp_path / "w.pth"), trained())
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


def test_what_was_done_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    state = {f"module.{name}": value.half() for name, value in trained().state_dict().items()}
    torch.save({"state_dict": {**state, "loss.weight": torch.ones(4)}, "epoch": 3}, tmp_path / "w.pth")
    load_model(Net(), weights=tmp_path / "w.pth")
    said = caplog.messages[-1]
    for part in ("from 'state_dict'", "prefix 'module.'", "from float16", "1 tensors of other networks (loss.weight)"):
        assert part in said


# Normalisation in the file.


@pytest.mark.parametrize(("mean", "std"), [("mean", "std"), ("mu", "sigma"), ("norm.mean", "norm.std")])
@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (1, 3, 1, 1)])
@pytest.mark.parametrize("scale", [1, 255])
def test_a_normalisation_in_the_file_is_used(
    tmp_path: Path, mean: str, std: str, shape: tuple[int, ...], scale: int, caplog: pytest.LogCaptureFixture
) -> None:
    values = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    extra = {mean: values[0].view(shape) * scale, std: values[1].view(shape) * scale}
    torch.save({**trained().state_dict(), **extra}, tmp_path / "w.pth")
    expected = normalized(trained(), (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    caplog.set_level(logging.INFO)
    assert close(load_model(Net(), weights=tmp_path / "w.pth"), expected)
    assert any("0.1,0.2,0.3/0.5,0.6,0.7" in message for message in caplog.messages)
    assert close(load_model(Net(), weights=tmp_path / "w.pth", normalize="0.1,0.2,0.3/0.5,0.6,0.7"), expected)
    assert "is declared or in the network: leave that out" in refused(Net(), tmp_path / "w.pth", normalize="imagenet")


def test_the_networks_own_normalisation_is_loaded_once(tmp_path: Path) -> None:
    inner = nn.Sequential(Normalize((0.1,) * 3, (0.9,) * 3), trained())
    torch.save(inner.state_dict(), tmp_path / "w.pth")
    assert close(load_model(nn.Sequential(Normalize((0.0,) * 3, (1.0,) * 3), Net()), weights=tmp_path / "w.pth"), inner)


def test_a_normalisation_in_the_file_and_in_the_network_is_one(tmp_path: Path) -> None:
    held = {"mu": torch.full((3,), 0.1), "sigma": torch.full((3,), 0.9)}
    torch.save({**trained().state_dict(), **held}, tmp_path / "w.pth")

    def wrap(net: nn.Module, mean: float) -> nn.Module:
        return nn.Sequential(Normalize((mean,) * 3, (0.9,) * 3), net)

    assert close(load_model(wrap(Net(), 0.1), weights=tmp_path / "w.pth"), wrap(trained(), 0.1).eval())
    assert "in the network" in refused(wrap(Net(), 0.5), tmp_path / "w.pth")


def test_the_same_tensors_are_not_two_networks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inner = normalized(trained(), (0.1,) * 3, (0.9,) * 3)
    torch.save(dict(reversed(inner.state_dict().items())), tmp_path / "w.pth")
    assert close(load_model(normalized(Net(), (0.0,) * 3, (1.0,) * 3), weights=tmp_path / "w.pth"), inner)
    assert not [record for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("std", [0.0, float("nan")])
def test_an_impossible_normalisation_is_refused(tmp_path: Path, std: float) -> None:
    torch.save({**trained().state_dict(), "mean": torch.zeros(3), "std": torch.full((3,), std)}, tmp_path / "w.pth")
    assert "cannot be computed" in refused(Net(), tmp_path / "w.pth")


# Networks by name.

NAMED = {"classes": 4, "channels": 3, "image_size": 32}


def named_file(tmp_path: Path, form: str, **extra: Tensor) -> tuple[Path, nn.Module]:
    model = build_model("resnet10t", seed=5, **NAMED).eval()  # type: ignore[arg-type]
    torch.save(FORMS[form](model[1].state_dict()) | extra, tmp_path / "w.pth")
    return tmp_path / "w.pth", model


@pytest.mark.parametrize("form", ["plain", "nested and prefixed", "network.", "of Lightning"])
def test_the_librarys_own_names_load_into_a_name(tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture) -> None:
    file, expected = named_file(tmp_path, form)
    model, x = load_model("resnet10t", small_data(size=32), weights=file), torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model(x), expected(x))
    assert any("do not say how images are normalised: 0.485,0.456,0.406/" in message for message in caplog.messages)


def test_a_name_takes_the_files_normalisation(tmp_path: Path) -> None:
    mean_std = {"normalize.mean": torch.full((1, 3, 1, 1), 0.3), "normalize.std": torch.full((1, 3, 1, 1), 0.4)}
    for form in ("network.", "plain", "model."):
        file, expected = named_file(tmp_path, form, **mean_std)
        model = load_model("resnet10t", small_data(size=32), weights=file)
        assert model[0].mean.flatten().tolist() == pytest.approx([0.3] * 3)
        assert model[0].std.flatten().tolist() == pytest.approx([0.4] * 3)
        assert torch.equal(model[1].fc.weight, expected[1].fc.weight)
        assert "is declared" in refused("resnet10t", file, small_data(size=32), normalize="imagenet")


def test_harden_and_evaluate_give_a_network_the_same_normalisation(tmp_path: Path) -> None:
    from inoculate.hardening.network import load_network
    from inoculate.hardening.options import HardeningOptions

    file, _ = named_file(tmp_path, "plain")
    network, _ = load_network("resnet10t", small_data(size=32), HardeningOptions(weights=file))
    assert network.spec is not None
    assert network.spec.mean == pytest.approx(IMAGENET_MEAN)
    assert network.spec.std == pytest.approx(IMAGENET_STD)
    assert network.model[0].mean.flatten().tolist() == pytest.approx(IMAGENET_MEAN)  # type: ignore[index,union-attr,operator]


# Refused.


def refused(model: Any, weights: Any, *data: Any, **options: Any) -> str:
    before = {name: value.clone() for name, value in model.state_dict().items()} if isinstance(model, nn.Module) else {}
    with pytest.raises(InputError) as caught:
        load_model(model, *data, weights=weights, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 900
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value), "loaded in part"
    return str(caught.value).replace(str(weights), "FILE")


def _truncated(path: Path) -> None:
    torch.save(trained().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-700])


def _script(path: Path) -> None:
    torch.jit.trace(trained(), X).save(str(path))


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a whole model": (lambda p: torch.save(trained(), p), "pickle that holds more than tensors"),
    "a namespace": (lambda p: torch.save({"model": {}, "args": __import__("argparse").Namespace()}, p), "Namespace"),
    "an older pickle": (lambda p: p.write_bytes(pickle.dumps(Path("x"))), "pickle"),
    "truncated": (_truncated, "damaged"),
    "empty file": (lambda p: p.write_bytes(b""), "empty file"),
    "zeros": (lambda p: p.write_bytes(bytes(4096)), "empty file"),
    "text": (lambda p: p.write_text("hello, these are weights"), "damaged, or no weights"),
    "web page": (lambda p: p.write_text("<!DOCTYPE html><title>404"), "web page"),
    "pointer": (lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), "git lfs pull"),
    "index": (lambda p: p.write_text('{"metadata": {}, "weight_map": {}}'), "index of several files"),
    "empty dictionary": (lambda p: torch.save({}, p), "empty dictionary"),
    "empty state": (lambda p: torch.save({"state_dict": {}}, p), "hold no tensors (state_dict)"),
    "numbers": (lambda p: torch.save({"epoch": 3}, p), "hold no tensors (epoch)"),
    "list": (lambda p: torch.save([torch.ones(2)], p), "hold a list"),
    "tensor": (lambda p: torch.save(torch.ones(2), p), "one tensor"),
    "optimizer": (
        lambda p: torch.save({"optimizer": torch.optim.Adam(trained().parameters()).state_dict(), "epoch": 1}, p),
        "state of an optimizer",
    ),
    "optimizer alone": (lambda p: torch.save(torch.optim.Adam(trained().parameters()).state_dict(), p), "optimizer"),
    "TorchScript": (_script, "give it as --model"),
    "keras": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), "HDF5"),
    "gzip": (lambda p: p.write_bytes(b"\x1f\x8b\x08" + bytes(100)), "gzip"),
    "folder": (lambda p: p.mkdir(), "is a folder"),
    "sparse": (lambda p: torch.save({"fc.weight": torch.eye(4).to_sparse()}, p), "sparse"),
    "without values": (lambda p: torch.save({"fc.weight": torch.empty(4, 4, device="meta")}, p), "without values"),
    "nothing": (lambda p: None, "cannot be read"),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
@pytest.mark.parametrize("kind", FILES)
def test_files_that_hold_no_weights_are_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    write, says = FILES[kind]
    write(tmp_path / "w.pth")
    assert says in refused(Net(), tmp_path / "w.pth")


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.write_text, (tmp_path / "sprung", "!"))

    for name, save in (("a.pth", torch.save), ("b.pth", lambda x, p: p.write_bytes(pickle.dumps(x)))):
        save({"state_dict": Trap()}, tmp_path / name)  # type: ignore[operator]
        assert "pickle" in refused(Net(), tmp_path / name)
        assert "state dict alone" in refused(Net(), tmp_path / name)
        with pytest.raises(InputError):
            load_model(str(tmp_path / name))
    assert not (tmp_path / "sprung").exists()


STATES: dict[str, tuple[Callable[[State], Any], str]] = {
    "missing": (without("bn1.weight", "fc.bias"), "2 missing (bn1.weight, fc.bias)"),
    "unexpected": (with_keys(**{f"head.{i}": torch.ones(1) for i in range(7)}), "7 unexpected (head.0, head.1, head.2, "
                   "head.3, head.4, …)"),
    "another head": (lambda s: trained(classes=9).state_dict(), "classifier head fc of the file has 9 classes and the "
                     "network's 4"),
    "other channels": (lambda s: trained(channels=1).state_dict(), "the file is for 1 channels and the network for 3"),
    "another kernel": (lambda s: {**s, "conv1.weight": torch.ones(4, 3, 5, 5)}, "a 5×5 kernel"),
    "another network": (lambda s: {"a": torch.ones(2), "b": torch.ones(3)}, "none of the 2 names fits"),
    "a part under a prefix": (lambda s: prefixed("module.")(without("fc.bias")(s)), "1 missing (fc.bias)"),
    "not finite": (lambda s: {**s, "fc.bias": torch.full((4,), float("nan"))}, "not finite in 1 tensors (fc.bias)"),
    "quantised": (lambda s: {**s, "fc.weight": s["fc.weight"].to(torch.int8)}, "int8 (fc.weight)"),
    "two normalisations": (with_keys(mean=torch.ones(3), std=torch.ones(3), mu=torch.zeros(3), sigma=torch.ones(3)),
                           "4 unexpected"),
    "a mean alone": (with_keys(mean=torch.ones(3)), "1 unexpected (mean)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", STATES)
def test_what_does_not_fit_is_told_and_nothing_is_loaded(tmp_path: Path, kind: str) -> None:
    change, says = STATES[kind]
    torch.save(change(trained().state_dict()), tmp_path / "w.pth")
    assert says in refused(Net(), tmp_path / "w.pth")


def test_a_network_without_weights(tmp_path: Path) -> None:
    torch.save(trained().state_dict(), tmp_path / "w.pth")
    assert "has no weights of its own" in refused(nn.Flatten(), tmp_path / "w.pth")
    assert "has no weights of its own" in refused(lambda x: x, tmp_path / "w.pth")


def test_weights_given_as_a_model(tmp_path: Path) -> None:
    for name in ("w.pth", "w.pt", "w.ckpt", "w.bin", "w.safetensors"):
        save_file(trained().state_dict(), tmp_path / name) if name.endswith("s") else torch.save(
            {"state_dict": trained().state_dict()}, tmp_path / name
        )
        with pytest.raises(InputError, match=f"--model ARCHITECTURE --weights .*{name}"):
            load_model(str(tmp_path / name), small_data())


def test_two_sets_of_weights(tmp_path: Path) -> None:
    file, _ = named_file(tmp_path, "plain")
    assert "two sets of weights" in refused("resnet10t", file, small_data(size=32), pretrained=True)


def test_weights_on_another_machine() -> None:
    assert "download the file" in refused(Net(), "https://example.org/w.pth")
