"""Command-line options shared by the commands: one name, one help text and one parser each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inoculate.core.errors import InputError
from inoculate.training.methods.names import METHOD_ARMS

if TYPE_CHECKING:
    from inoculate.core.threat import Threat

# Topics of `--help`.
MODEL, DATA, ATTACK, TRAINING, RUN, OUTPUT = "Model", "Data", "Attack", "Training", "Run", "Output"

MODEL_SPEC = (
    "timm or torchvision name, hf-hub:owner/name, package.module:factory, file.py:factory, a trained folder, "
    "a TorchScript or an ONNX file."
)


def _option(flag: str, topic: str, text: str, **settings: Any) -> Any:
    return typer.Option(flag, help=text, rich_help_panel=topic, **settings)


Model = Annotated[str, _option("--model", MODEL, MODEL_SPEC)]
TrainableModel = Annotated[
    str, _option("--model", MODEL, "timm name or small_cnn, a trained folder, package.module:factory, file.py:factory.")
]
Models = Annotated[list[str], _option("--model", MODEL, f"{MODEL_SPEC} Repeatable.")]
Weights = Annotated[Path | None, _option("--weights", MODEL, "safetensors file or state dict to load into the model.")]
Pretrained = Annotated[bool, _option("--pretrained/--no-pretrained", MODEL, "Download the pretrained weights.")]
Outputs = Annotated[str, _option("--outputs", MODEL, "What the model returns: logits, probabilities or single-logit.")]
Normalize = Annotated[
    str | None,
    _option("--normalize", MODEL, "Normalisation put before the model: imagenet, cifar10 or 0.5,0.5,0.5/0.2,0.2,0.2."),
]
Stem = Annotated[str, _option("--stem", MODEL, "First layer of a new network: imagenet, or small for small images.")]

Data = Annotated[str, _option("--data", DATA, "mnist, cifar10, cats_vs_dogs, digits, a hub id owner/name or a folder.")]
DataRoot = Annotated[
    Path | None, _option("--data-root", DATA, "Folder searched for NAME/ before the hub.", envvar="INOCULATE_DATA")
]
Split = Annotated[str, _option("--split", DATA, "train, val, test or all.")]
ImageSize = Annotated[int | None, _option("--image-size", DATA, "Side in pixels at which images are loaded.")]
Limit = Annotated[int | None, _option("--limit", DATA, "Use only this many images, balanced over the classes.", min=1)]

Attacks = Annotated[
    str, _option("--attack", ATTACK, "Attacks, separated by commas: fgsm, pgd, autoattack …, foolbox:PGD, art:…")
]
Attack = Annotated[str, _option("--attack", ATTACK, "One attack, such as fgsm or mifgsm.")]
Norm = Annotated[str, _option("--norm", ATTACK, "linf, l2 or l1.")]
EpsList = Annotated[
    str, _option("--eps", ATTACK, "Perturbation sizes in units of [0, 1], separated by commas: 0.01,8/255.")
]
Eps = Annotated[str, _option("--eps", ATTACK, "Perturbation size in units of [0, 1]: 8/255.")]
Precision = Annotated[
    str, _option("--precision", ATTACK, "How attacks are crafted: fast or exact. Evaluation is always exact.")
]
TimeBudget = Annotated[
    str | None,
    _option("--time-budget", ATTACK, "Stop attacking after this time and report bounds: 90s, 5m, 2h. Excludes checks."),
]
Checks = Annotated[bool, _option("--checks/--no-checks", ATTACK, "Check whether the numbers can be trusted.")]
OtherModels = Annotated[
    list[str] | None,
    _option(
        "--surrogate", ATTACK, "Another model, for a check: its examples must not beat white-box ones. Repeatable."
    ),
]

Method = Annotated[str, _option("--method", TRAINING, f"standard, {', '.join(METHOD_ARMS[:-1])} or {METHOD_ARMS[-1]}.")]
OptionalMethod = Annotated[
    str | None, _option("--method", TRAINING, "pgd_at, trades, mart, …; by default --budget chooses.")
]
MethodOptions = Annotated[
    list[str] | None,
    _option("--option", TRAINING, "An option of the method, such as steps=7, beta=6 or average=0.99. Repeatable."),
]
Teacher = Annotated[Path | None, _option("--teacher", TRAINING, "A robust trained folder, for ard and rslad.")]
Surrogates = Annotated[
    list[str] | None,
    _option("--surrogate", TRAINING, "For ensemble a trained folder (repeatable), for live_surrogate a network."),
]
Fallback = Annotated[
    str | None,
    _option("--fallback", TRAINING, "Method to continue with, once, after an alarm: pgd_at. It may take longer."),
]
Epochs = Annotated[int, _option("--epochs", TRAINING, "Passes over the training split.", min=1)]
OptionalEpochs = Annotated[
    int | None, _option("--epochs", TRAINING, "Passes over the training split, in place of a budget.", min=1)
]
Budget = Annotated[str, _option("--budget", TRAINING, "Training time: 90s, 30m or 1h30m.")]
LearningRate = Annotated[float | None, _option("--lr", TRAINING, "Peak learning rate.", min=1e-9)]
Augment = Annotated[str, _option("--augment", TRAINING, "Augmentation: none, digits, photos, shifts or auto.")]
TrainingPrecision = Annotated[
    str, _option("--precision", TRAINING, "auto (bf16 where the processor has it), bf16 or fp32.")
]
Accumulate = Annotated[int, _option("--accumulate", TRAINING, "Split each batch into this many parts.", min=1)]

BatchSize = Annotated[int, _option("--batch-size", RUN, "Images per batch.", min=1)]
Seed = Annotated[int, _option("--seed", RUN, "Seed of every random draw.", min=0)]
Device = Annotated[str, _option("--device", RUN, "cpu, cuda, mps …; auto picks the fastest available.")]

Out = Annotated[Path, _option("--out", OUTPUT, "Folder for the results.")]
OptionalOut = Annotated[Path | None, _option("--out", OUTPUT, "Folder for the results and the page report.html.")]
TestImages = Annotated[int, _option("--test-images", OUTPUT, "Test images that are attacked for the card.", min=10)]
Onnx = Annotated[bool, _option("--onnx", OUTPUT, "Write model.onnx and check it on adversarial images.")]
Json = Annotated[Path | None, _option("--json", OUTPUT, "Write the rows to this file.")]


def pick_device(name: str) -> str:
    """The device called `name`, or for `auto` the fastest available. Raises `InputError` if it cannot be used."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device '{name}' cannot be used here: choose cpu or auto") from error
    return name


def parse_attacks(text: str) -> list[str]:
    """The attack names in a list separated by commas."""
    return [name.strip() for name in text.split(",")]


def parse_threats(norm: str, eps: str) -> list[Threat]:
    """A `Threat` for each eps in a list separated by commas, such as `0.01,8/255`."""
    from inoculate.core.threat import Threat, parse_eps

    return [Threat(norm, parse_eps(text)) for text in eps.split(",")]  # type: ignore[arg-type]
