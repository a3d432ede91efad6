"""One forward pass and PGD-3 on a small member of every family of timm, and on the classifiers of torchvision.

`python -m benchmarks.architectures [--out docs/reference/architectures.md] [--only NAME ...]`. Random weights, two
random images, at the smallest of `SIZES` that the network takes. No weights are downloaded.
"""

from __future__ import annotations

import argparse
import gc
import re
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import nn

from inoculate import PGD, Threat, build_model, fast
from inoculate.core.errors import InputError, one_line
from inoculate.models.architectures.libraries import torchvision_names
from inoculate.models.architectures.own import OWN_NAMES
from inoculate.models.build import parameter_count
from inoculate.models.pretrained import TORCHVISION

SIZES = (32, 64, 96, 128, 160, 192, 224)
# What names of small networks hold, the smallest first.
SMALL = (
    *("atto", "femto", "pico", "nano", "xxs", "xxt", "xtiny", "tiny", "test_", "_050", "mini", "_xs", "small", "_s0"),
    *("_b0", "_t0", "b0", "10t", "18", "_s_", "_t", "_s", "11", "121", "19", "base", "400mf"),
)
# How the names begin of what has more than 0.6 GB of weights and is left out.
TOO_LARGE = (
    *("vit_h_14", "vit_l_16", "vit_l_32", "deepseek_", "gemma4_", "mobilenetv5_"),
    *("regnet_y_128gf", "regnet_x_32gf", "regnet_y_32gf", "torchvision:convnext_large", "convnext_large"),
    *("wideresnet70_16", "wideresnet70_16_swish", "wideresnet34_20", "wideresnet34_20_swish"),
)
CLASSES, EPS, TOLERANCE = 10, 8 / 255, 1e-4


@dataclass(frozen=True)
class Outcome:
    """What was found for one network; `note` says what is wrong, or why it could not be built."""

    name: str
    size: int | None = None
    parameters: int = 0
    difference: float = 0.0
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.size is not None and not self.note

    def row(self) -> str:
        if self.size is None:
            return f"| `{self.name}` | | | | {self.note} |"
        numbers = f"{self.size} | {self.parameters / 1e6:.1f} | {self.difference:.0e}"
        return f"| `{self.name}` | {numbers} | {self.note or 'yes'} |"


def small_of_timm() -> Iterator[str]:
    """A small member of every family that has one of at most 224 pixels, by what its name promises."""
    for family in timm.list_modules():
        names = [name for name in timm.list_models(module=family) if _takes_small_images(name) and not is_large(name)]
        if names:
            yield min(names, key=_promised_size)


def is_large(name: str) -> bool:
    """Whether this network is left out for its memory."""
    return name.startswith(TOO_LARGE)


def _takes_small_images(name: str) -> bool:
    config = timm.get_pretrained_cfg(name)
    return config is None or not config.fixed_input_size or config.input_size[1] <= SIZES[-1]


def _promised_size(name: str) -> tuple[int, int]:
    """How small a network is by its name; the shorter of two names is the plainer network."""
    return next((at for at, hint in enumerate(SMALL) if hint in name), len(SMALL)), len(name)


def _torchvision() -> list[str]:
    """Every classifier but the largest, those of other families first."""
    names = [name for name in torchvision_names() if not is_large(name)]
    first = {re.split(r"[_0-9]", name)[0]: name for name in sorted(names, key=_promised_size, reverse=True)}
    return [*first.values(), *(name for name in names if name not in first.values())]


def measure(name: str) -> Outcome:
    """Build a network at the smallest size that it takes, attack it, and compare its fast copy with it."""
    note = ""
    for size in SIZES:
        try:
            model = build_model(name, classes=CLASSES, image_size=size)
        except InputError as error:
            note = one_line(error)
            continue
        return _measure(name, model.eval(), size)
    return Outcome(name, note=note)


def _measure(name: str, model: nn.Module, size: int) -> Outcome:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, size, size, generator=generator)
    y = torch.tensor([0, 1])
    with torch.no_grad():
        exact = model(x)
    copy = fast(model, bf16=False)
    with torch.no_grad():
        difference = float((copy(x) - exact).abs().max() / exact.abs().max().clamp_min(1e-6))
    threat, wrong = Threat("linf", EPS), []
    for crafting in (copy, model):
        adversarial = PGD(steps=3)(crafting, x, y, threat, generator=generator)
        if adversarial.shape != x.shape or not adversarial.isfinite().all():
            wrong.append("images of another shape")
        elif float((adversarial - x).abs().max()) > EPS + 1e-6 or adversarial.min() < 0 or adversarial.max() > 1:
            wrong.append("outside the ball")
        elif torch.equal(adversarial, x):
            wrong.append("unchanged images")
    if exact.shape != (2, CLASSES):
        wrong.append(f"logits {tuple(exact.shape)}")
    if difference > TOLERANCE:
        wrong.append("the fast copy differs")
    return Outcome(name, size, parameter_count(model), difference, ", ".join(wrong))


def names() -> Iterator[tuple[str, str]]:
    """(library, name) of every network that is measured."""
    for name in small_of_timm():
        yield "timm", name
    for name in _torchvision():
        yield "torchvision", name if not timm.is_model(name) else TORCHVISION + name
    for name in OWN_NAMES:
        if not is_large(name):
            yield "inoculate", name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--log", type=Path, help="one row per network as it is measured; the same command goes on there"
    )
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    done = arguments.log.read_text().splitlines() if arguments.log and arguments.log.is_file() else []
    known = {line.split("\t")[1] for line in done}
    for library, name in names():
        if (arguments.only and name not in arguments.only) or name in known:
            continue
        began = time.process_time()
        try:
            outcome = measure(name)
        except Exception as error:  # a defect, of ours or of the library
            outcome = Outcome(name, note=f"{type(error).__name__}: {one_line(error)}")
        line = f"{library}\t{name}\t{outcome.passed}\t{outcome.row()}"
        print(line, f"{time.process_time() - began:.0f} s", flush=True)
        done.append(line)
        if arguments.log:
            arguments.log.write_text("\n".join(done) + "\n")
        gc.collect()
    if arguments.out:
        arguments.out.write_text(page(done))


HEAD = """# Architectures

Networks by name, each with random weights and two random images: a forward pass, PGD-3 on the network and on its fast
copy (eps 8/255), images inside the ball. *Size* is the smallest of 32, 64, … 224 pixels that the network takes.
*Difference* is the largest one between the logits of the fast copy and of the network, relative to the largest logit
(0 where the copy falls back to the network). Networks with more than 0.6 GB of weights are left out.

Measured by `python -m benchmarks.architectures --out docs/reference/architectures.md`.
"""
TITLES = {
    "timm": "timm: a small member of each family",
    "torchvision": "torchvision",
    "inoculate": "Networks of the literature",
}


def page(lines: list[str]) -> str:
    """The page of the documentation."""
    rows: dict[str, list[str]] = {title: [] for title in TITLES}
    passed, known = dict.fromkeys(TITLES, 0), {line.split("\t")[1] for line in lines}
    for line in lines:
        library, _, good, row = line.split("\t")
        rows[library].append(row)
        passed[library] += good == "True"
    text = HEAD
    for library, title in TITLES.items():
        text += f"\n## {title}\n\n{passed[library]} of {len(rows[library])} pass.\n\n"
        text += "| name | size | parameters (M) | difference | passes |\n|---|---|---|---|---|\n"
        text += "\n".join(rows[library]) + "\n"
        left = [f"`{name}`" for each, name in names() if each == library and name not in known]
        text += f"\nNot measured: {', '.join(left)}.\n" if left else ""
    return text


if __name__ == "__main__":
    main()
