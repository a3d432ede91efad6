"""Every fenced command and Python snippet of README and docs runs, on small data; every named command can be parsed."""

import contextlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
import yaml
from PIL import Image

import inoculate as ino
from inoculate.cli import app, main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MISSING = typer.BadParameter.__subclasses__()[0]  # MissingParameter, of whichever copy of click this typer uses
CODE = """\
import torch
from torch import nn


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 4))


def probabilities():
    return nn.Sequential(network(), nn.Softmax(dim=1))
"""


def blocks(page):
    """The page's fenced blocks: (language, text)."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def runnable(page):
    return any(language in ("python", "bash") for language, _ in blocks(page))


def quick(text):
    """The same snippet with a training budget of one second and ten test images."""
    text = re.sub(r'(budget=")[^"]+|(--budget )\S+', lambda m: (m[1] or m[2]) + "1s", text)
    return re.sub(r"(test_images=|--test-images )\d+", r"\g<1>10", text)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """A folder with what the snippets name: images in four classes, a file with a network, a trained model."""
    place = tmp_path_factory.mktemp("snippets")
    rng = np.random.default_rng(0)
    for number, name in enumerate(("circles", "lines", "dots", "waves")):
        folder = place / "my_images" / name
        folder.mkdir(parents=True)
        for i in range(10):
            pixels = rng.integers(0, 90, (16, 16, 3))
            pixels[number * 4 : number * 4 + 4, :, number % 3] += 45
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    (place / "my_code.py").write_text(CODE)
    options = ino.TrainingOptions(image_size=32, batch_size=16)
    ino.train("small_cnn", str(place / "my_images"), epochs=6, out=place / "my_model", options=options)
    return place


def run_python(page, text, namespace):
    exec(compile(quick(text), str(page), "exec"), namespace)


def run_command(line):
    words = shlex.split(quick(line), comments=True)
    if not words:
        return
    if words[0] == "inoculate":
        with pytest.raises(SystemExit) as ended:
            main(words[1:])
        assert ended.value.code in (0, None), line
    elif words[0] == "torchrun":
        command = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
        subprocess.run(command, check=True, capture_output=True, timeout=200)
    elif words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"no make target {words[1]}"
    elif words[:2] == ["pip", "install"]:
        check_installation(words[2:])
    else:
        raise AssertionError(f"the test does not know how to run: {line}")


def check_installation(words):
    """What is installed must be this package and extras that it has."""
    known = (ROOT / "pyproject.toml").read_text()
    for word in words:
        name, _, extras = word.rstrip("]").partition("[")
        assert name in ("inoculate", "-e", "."), word
        for extra in extras.split(",") if extras else ():
            assert re.search(rf"^{extra} = \[", known, re.MULTILINE), f"pyproject.toml has no extra {extra}"


@pytest.mark.parametrize("page", [p for p in PAGES if runnable(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_snippets_run(page, workplace, monkeypatch, capsys):
    monkeypatch.chdir(workplace)
    namespace = {"__name__": "snippet"}
    for language, text in blocks(page):
        if language == "python":
            run_python(page, text, namespace)
        elif language == "bash":
            for line in text.replace("\\\n", " ").splitlines():
                run_command(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_yaml_blocks_are_studies(page):
    for language, text in blocks(page):
        value = yaml.safe_load(text) if language == "yaml" else None
        if not value:
            continue
        small = {"datasets": {"digits": {}}, "models": ["resnet18"], "eps": [0.1], "attacks": {"fgsm": {}}}
        surrogate = {"surrogate": "resnet18"} if "surrogate" not in value else {}
        ino.load_study({"name": "page", **small, **surrogate, **value})


def parse(command, words, parent=None):
    """Parse a command line as the program would, without running it."""
    context = command.make_context(command.name, list(words), parent=parent)
    if hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        _, below, rest = command.resolve_command(context, rest)
        parse(below, rest, context)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_named_commands_can_be_parsed(page):
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    for line in re.findall(r"`(inoculate (?:study )?[a-z]+ [^`]+)`", prose):
        if "…" in line or "COMMAND" in line or line.endswith("--help"):
            continue
        with contextlib.suppress(MISSING):  # prose may name a command with one of its options only
            parse(typer.main.get_command(app), shlex.split(line)[1:])


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 90
    assert len((ROOT / "README.md").read_bytes()) <= 8000
