"""What a person types wrong: exit code 2 and one line that says what, where and how; nothing is left half-written."""

import errno
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

import inoculate
from inoculate import Dataset, InputError
from inoculate.attribution import explain as explaining
from inoculate.attribution.explanation import Amounts
from inoculate.cli import run
from inoculate.artifacts.output import require_writable as writable
from inoculate.models.loading.checkpoints import ModelSpec, save_model

STUDY = """\
name: small
datasets:
  digits: {image_size: 32}
models: [test_resnet]
eps: [0.01]
attacks: {fgsm: {}}
training: {epochs: 1, max_updates: 2}
limit: 200
"""
EVALUATE = ["evaluate", "--model", "test_resnet", "--data", "digits", "--limit", "20"]


def call(*arguments):
    return run([str(a) for a in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    spec = ModelSpec("test_resnet", tuple("0123456789"), 1, 32)
    save_model(folder, spec.build(), spec)
    return folder


@pytest.fixture
def study(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path / "study.yaml"


def pictures(folder, **classes):
    rng = np.random.default_rng(0)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


def refused(capsys, *arguments):
    """Run a command that must be refused; returns its one line."""
    assert call(*arguments) == 2
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    assert "Traceback" not in captured.err
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--eps", "8"], "did you mean 8/255?"),
        (["--eps", "-1"], "at least 0"),
        (["--eps", "8/0"], "write it like 0.03 or 8/255"),
        (["--eps", "__import__('os')"], "not a number"),
        (["--eps", "nan"], "not a number"),
        (["--eps", ""], "not a number"),
        (["--attack", "fgms"], "did you mean 'fgsm'?"),
        (["--norm", "l7"], "use one of linf, l2, l1"),
        (["--limit", "0"], "--limit"),
        (["--limit", "-3"], "--limit"),
        (["--batch-size", "0"], "--batch-size"),
        (["--seed", "-1"], "--seed"),
        (["--precision", "half"], "fast, exact"),
        (["--split", "tests"], "did you mean 'test'"),
        (["--model", "resnet81"], "did you mean 'resnet"),
        (["--model", "no.such.package:factory"], "cannot be imported"),
        (["--model", "nowhere.py:factory"], "is not there"),
        (["--model", "weights.pth"], "is not there"),
        (["--data", "mnits"], "did you mean 'mnist'?"),
        (["--data", "./no/such/folder"], "check the path"),
        (["--image-size", "0"], "image size"),
        (["--device", "cuda:77"], "choose cpu or auto"),
        (["--weights", "none.safetensors"], "cannot be read"),
        (["--nonsense", "1"], "--nonsense"),
        (["--seed", "x"], "--seed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_evaluate_refuses(capsys, arguments, says):
    assert says in refused(capsys, *EVALUATE, *arguments)


def test_folders_without_a_dataset(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    pictures(tmp_path / "one", cats=4)
    pictures(tmp_path / "two", cats=20, dogs=2)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train.parquet").write_bytes(b"PAR1 nonsense")
    for name, says in [("empty", "empty"), ("one", "one class"), ("two", "dogs"), ("bad", "train.parquet")]:
        line = refused(capsys, *EVALUATE, "--data", tmp_path / name)
        assert says in line


def test_more_than_one_percent_unreadable(capsys, tmp_path):
    folder = pictures(tmp_path / "pets", cats=20, dogs=20)
    (folder / "cats" / "0.png").write_bytes(b"not an image")
    assert "0.png" in refused(capsys, *EVALUATE, "--data", folder)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "pickle", "description", "missing"])
def test_damaged_checkpoints(capsys, tmp_path, damage):
    spec = ModelSpec("test_resnet", tuple("0123456789"), 1, 32)
    model = spec.build()
    save_model(tmp_path, model, spec)
    weights = tmp_path / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    if damage == "truncated":
        weights.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[-100] ^= 1
        weights.write_bytes(content)
    elif damage == "pickle":
        torch.save(model.state_dict(), weights)
    elif damage == "description":
        (tmp_path / "model.json").write_text('{"model": {"name": 3}}')
    else:
        (tmp_path / "model.json").unlink()
    line = refused(capsys, *EVALUATE, "--model", tmp_path)
    assert str(tmp_path) in line


def test_a_pickle_as_weights_is_never_opened(capsys, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save({"x": Trap()}, tmp_path / "w.pt")
    assert "safetensors" in refused(capsys, *EVALUATE, "--weights", tmp_path / "w.pt")
    assert not (tmp_path / "sprung").exists()


def test_model_and_data_that_do_not_fit(capsys, tmp_path, trained):
    folder = pictures(tmp_path / "pets", cats=20, dogs=20)
    assert "choose the data it was trained for" in refused(capsys, *EVALUATE, "--model", trained, "--data", folder)
    (tmp_path / "three.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(1024, 3))\n"
    )
    assert "the model knows 3 classes and the data has 10" in refused(
        capsys, *EVALUATE, "--model", f"{tmp_path}/three.py:net"
    )
    (tmp_path / "wrong.py").write_text("def net(): return 3\ndef broken(): return 1 / 0\n")
    assert "torch.nn.Module" in refused(capsys, *EVALUATE, "--model", f"{tmp_path}/wrong.py:net")
    assert "ZeroDivisionError" in refused(capsys, *EVALUATE, "--model", f"{tmp_path}/wrong.py:broken")
    assert "no function" in refused(capsys, *EVALUATE, "--model", f"{tmp_path}/wrong.py:nothing")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "mnist"], "only 'mnist' is unknown"),
        (["--limit", "0"], "--limit"),
        (["--limit", "12"], "class"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_study_refuses(capsys, tmp_path, study, arguments, says):
    assert says in refused(capsys, "study", "run", study, "--out", tmp_path / "out", *arguments)


def test_study_with_an_unknown_network_stops_before_training(capsys, tmp_path, study):
    study.write_text(STUDY.replace("[test_resnet]", "[test_resnet, resnet81]"))
    assert "did you mean 'resnet" in refused(capsys, "study", "run", study, "--out", tmp_path / "out")
    assert not list((tmp_path / "out").glob("store/fit/*/manifest.json"))


def test_hub_without_network_fails_fast_and_says_what_to_do(capsys, monkeypatch):
    def no_network(*_args, **_options):
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.delenv("INOCULATE_DATA", raising=False)
    assert "--data-root" in refused(capsys, *EVALUATE, "--data", "someone/some-images")


def test_output_folder_that_is_a_file(capsys, tmp_path, study):
    (tmp_path / "taken").write_text("")
    assert "taken" in refused(capsys, "study", "run", study, "--out", tmp_path / "taken")


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC], ids=errno.errorcode.get)
def test_output_folder_read_only_or_full(capsys, tmp_path, study, monkeypatch, code):
    def fail(*_args, **_options):
        raise OSError(code, os.strerror(code), str(tmp_path))

    monkeypatch.setattr("tempfile.NamedTemporaryFile", fail)
    assert os.strerror(code) in refused(capsys, "study", "run", study, "--out", tmp_path / "out")


def test_runs_that_start_together_share_a_folder(tmp_path):
    with ThreadPoolExecutor(8) as several:
        assert list(several.map(writable, [tmp_path / "store"] * 2000)) == [tmp_path / "store"] * 2000
    assert not list((tmp_path / "store").iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_disk_that_fills_up_during_the_run(capsys, tmp_path, study, monkeypatch):
    from inoculate.study.steps import fit

    def fill(*_args, **_options):
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")

    monkeypatch.setattr(fit, "save_model", fill)
    assert "No space left" in refused(capsys, "study", "run", study, "--out", tmp_path / "out")
    assert not list((tmp_path / "out").glob("store/fit/*/manifest.json"))


def test_bad_tensors_are_refused_in_python_too():
    labels = torch.tensor([0, 1] * 4)
    images = torch.rand(8, 1, 4, 4)
    with pytest.raises(InputError, match="uint8"):
        Dataset.from_tensors(images, labels)
    images[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match=r"NaN|nan"):
        Dataset.from_tensors(images, labels)
    with pytest.raises(InputError):
        Dataset.from_tensors((torch.rand(8, 1, 4, 4) * 255).byte(), labels + 5, classes=("a", "b"))


def test_evaluate_works_and_writes_rows(capsys, tmp_path, trained):
    file = tmp_path / "rows" / "out.json"
    assert call(*EVALUATE, "--model", trained, "--attack", "fgsm,bim", "--eps", "0.01,8/255", "--json", file) == 0
    rows = json.loads(file.read_text())
    assert [(r["attack"], r["eps"]) for r in rows] == [
        ("none", 0.0), ("fgsm", 0.01), ("fgsm", 8 / 255), ("bim", 0.01), ("bim", 8 / 255),
    ]  # fmt: skip
    assert all(r["n"] == 20 and r["protocol"] == "white-box" for r in rows)
    assert "clean" in capsys.readouterr().out


def test_own_model_file_and_own_pictures(capsys, tmp_path):
    folder = pictures(tmp_path / "pets", cats=30, dogs=30)
    (tmp_path / "mine.py").write_text(
        "from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(3072, 2))\n"
    )
    assert call("evaluate", "--model", f"{tmp_path}/mine.py:net", "--data", folder, "--norm", "l2", "--eps", "1.5") == 0
    assert "pgd l2 eps 1.5" in capsys.readouterr().out


def test_evaluate_leaves_a_report(capsys, tmp_path, trained, monkeypatch):
    out = tmp_path / "out"
    few = Amounts(images=2, stability=4, fragility=6, steps=4, search=4)
    monkeypatch.setattr(explaining, "explain", partial(explaining.explain, amounts=few))
    quick = ["--model", trained, "--attack", "fgsm", "--eps", "0.05", "--batch-size", "64"]
    assert call(*EVALUATE, *quick, "--out", out) == 0
    assert "report.html" in capsys.readouterr().out
    html = (out / "report.html").read_text()
    for part in ("Accuracy, %", ">Checks<", "Attacked images", "Margin and gradient norm"):
        assert part in html
    assert {path.name for path in out.iterdir()} == {
        *("results.json", "records.npz", "per_image.npz", "evaluation.json", "checks.json"),
        *("tables.md", "tables.csv", "tables.tex", "explanations", "figures", "report.html"),
    }
    assert call("report", out) == 0
    assert (out / "report.html").read_text() == html
    assert call(*EVALUATE, *quick, "--out", out, "--no-explain", "--no-checks") == 0
    html = (out / "report.html").read_text()
    assert "Attacked images" not in html
    assert ">Checks<" not in html


def test_a_report_of_a_file_of_rows(capsys, tmp_path, trained):
    rows, page = tmp_path / "rows.json", tmp_path / "pages" / "page.html"
    assert call(*EVALUATE, "--model", trained, "--attack", "fgsm", "--no-checks", "--json", rows) == 0
    assert call("report", rows) == 0
    assert call("report", rows, "--out", page, "--figures", tmp_path / "figures") == 0
    assert page.read_text() == (tmp_path / "rows.html").read_text()
    assert list((tmp_path / "figures").glob("*.png"))
    assert "results.json" in refused(capsys, "report", tmp_path / "nowhere")
    rows.write_text("[{}]")
    assert "row 1: field 'dataset' is missing" in refused(capsys, "report", rows)


def test_a_report_on_a_model_without_gradients_explains_nothing(capsys, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n"
        "    def forward(self, x): return torch.arange(10.0).repeat(len(x), 1)\n"
        "def net(): return Net()\n"
    )
    arguments = [*EVALUATE, "--model", f"{tmp_path}/mine.py:net", "--attack", "square", "--no-checks"]
    assert call(*arguments, "--out", tmp_path / "out") == 0
    assert "explains nothing" in capsys.readouterr().err
    assert "Attacked images" not in (tmp_path / "out" / "report.html").read_text()


def test_classes_in_another_order_are_refused(capsys, tmp_path):
    spec = ModelSpec("test_resnet", ("dogs", "cats"), 3, 32)
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", spec.build(), spec)
    folder = pictures(tmp_path / "pets", cats=20, dogs=20)
    assert "swapped" in refused(capsys, *EVALUATE, "--model", tmp_path / "model", "--data", folder)


def test_a_model_without_gradients_is_refused(capsys, tmp_path):
    (tmp_path / "step.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def forward(self, x): return torch.arange(10.0).repeat(len(x), 1)\n"
        "def net(): return Net()\n"
    )
    assert "not differentiable" in refused(capsys, *EVALUATE, "--model", f"{tmp_path}/step.py:net")


def test_transfer_writes_its_rows_and_tells_long_names_apart(capsys, tmp_path, trained):
    other = tmp_path / "a-folder-with-a-long-name" / "second"
    spec = ModelSpec("test_resnet", tuple("0123456789"), 1, 32)
    other.mkdir(parents=True)
    save_model(other, spec.build(seed=1), spec)
    arguments = ["transfer", "--model", trained, "--model", other, "--data", "digits", "--limit", "40"]
    assert call(*arguments, "--attack", "fgsm", "--eps", "0.02,0.1", "--json", tmp_path / "rows.json") == 0
    said = capsys.readouterr().out
    assert f"A = {trained}" in said.replace("\n", "")
    assert f"B = {other}" in said.replace("\n", "")
    assert "evaluated on B" in said
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {(row["model"], row["protocol"]) for row in rows if row["eps"] == 0.02} == {
        (str(trained), "white-box"),
        (str(trained), f"transfer:{other}/standard"),
        (str(other), "white-box"),
        (str(other), f"transfer:{trained}/standard"),
    }
    for row in rows:
        if row["eps"]:
            assert f"{row['accuracy']:.1%}" in said
    assert "given twice" in refused(capsys, "transfer", "--model", trained, "--model", trained, "--data", "digits")


def test_train_then_evaluate(capsys, tmp_path):
    arguments = [
        "--model",
        "test_resnet",
        "--data",
        "digits",
        "--limit",
        "300",
        "--epochs",
        "1",
        "--out",
        tmp_path / "m",
    ]
    assert call("train", *arguments) == 0
    assert call("evaluate", "--model", tmp_path / "m", "--data", "digits", "--limit", "20", "--attack", "fgsm") == 0
    assert "fgsm" in capsys.readouterr().out


def test_version_is_one_place():
    from importlib.metadata import version

    assert version("inoculate") == inoculate.__version__
