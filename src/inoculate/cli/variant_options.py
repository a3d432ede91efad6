"""The option `--variants` of `inoculate evaluate`, and what it does instead of an evaluation of one model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inoculate.cli.options import ATTACK, MODEL, topic_option
from inoculate.cli.output import print_notes, print_warnings
from inoculate.cli.parsers import parse_attacks
from inoculate.core.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from inoculate.attacks.base import Attack
    from inoculate.core.threat import Threat
    from inoculate.data.dataset import Dataset
    from inoculate.data.preprocessing import Preprocessing
    from inoculate.evaluation.evaluate import EvaluationOptions
    from inoculate.evaluation.variant_comparison import VariantComparison

Variants = Annotated[
    str | None,
    topic_option(
        "--variants",
        MODEL,
        "Compare what deployment makes of the model: fp32,bf16,onnx,int8,torchscript,pruned:0.5, or files of it.",
    ),
]
Attacks = Annotated[
    str | None,
    topic_option(
        "--attack",
        ATTACK,
        "Attacks, separated by commas: fgsm, pgd, autoattack …, foolbox:PGD, art:…",
        show_default="fgsm,pgd; with --variants autoattack",
    ),
]


def attacks_of(text: str | None, variants: str | None) -> list[str]:
    """The names of the attacks that are given, else of the default ones."""
    return parse_attacks(text or ("fgsm,pgd" if variants is None else "autoattack"))


def parse(text: str | None, **others: Any) -> list[str]:
    """The variants in a list separated by commas; `others` are options that an evaluation of variants does not have.

    Raises `InputError` for one of these that is given, and for variants that are unknown.
    """
    from inoculate.models.export.variants import by_name

    if text is None:
        return []
    if given := [name for name, value in others.items() if value]:
        raise InputError(f"--{given[0].replace('_', '-')} does not go with --variants: leave one of them out")
    names = [name.strip() for name in text.split(",")]
    by_name(names)
    return names


def calibration(
    formats: Iterable[str], data: str, like: Dataset, reading: Preprocessing, data_root: Path | None, seed: int
) -> Dataset | None:
    """Images of the training part that calibrate int8, read as those of `like`; None if it is not among `formats`."""
    from inoculate.evaluation.calibration import CALIBRATION
    from inoculate.evaluation.inputs import load_images

    if "int8" not in formats:
        return None
    alike = replace(reading, channels=like.channels)
    return load_images(data, "train", alike, data_root=data_root, limit=CALIBRATION, seed=seed)


def run(
    names: list[str],
    model: tuple[nn.Module, Dataset],
    attacks: dict[str, Attack],
    threats: list[Threat],
    chosen: Dataset | None,
    class_names: Path | None,
    how: dict[str, Any],
    out: Path | None,
) -> VariantComparison:
    """`evaluate_variants` with the options of an evaluation; the files of the variants go into `out`."""
    from inoculate.cli.progress import Steps
    from inoculate.evaluation.variants import VariantOptions, evaluate_variants

    given: EvaluationOptions = how["options"]
    own = VariantOptions(
        given.precision, given.name, given.device, how["batch_size"], chosen,
        out and out / "variants", given.store, class_names, given.classes,
    )  # fmt: skip
    with Steps() as steps:
        return evaluate_variants(*model, names, attacks, threats, seed=how["seed"], options=own, progress=steps)


def write(found: VariantComparison, rows: Path | None, out: Path | None) -> None:
    """Print a comparison, and write it where a place for it is given."""
    from inoculate.artifacts.rows import write_rows

    print_notes(found.notes)
    print_warnings(found.warnings)
    typer.echo(found)
    if rows is not None:
        write_rows(rows, found.rows)
    if out is not None:
        found.save(out)
