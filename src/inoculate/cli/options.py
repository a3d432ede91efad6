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


def topic_option(flag: str, topic: str, text: str, **settings: Any) -> Any:
    """An option `flag` with a help `text`, listed under a topic of `--help`."""
    return typer.Option(flag, help=text, rich_help_panel=topic, **settings)


Model = Annotated[str, topic_option("--model", MODEL, MODEL_SPEC)]
TrainableModel = Annotated[
    str,
    topic_option(
        "--model", MODEL, "timm name or small_cnn, a trained folder, package.module:factory, file.py:factory."
    ),
]
Models = Annotated[list[str], topic_option("--model", MODEL, f"{MODEL_SPEC} Repeatable.")]
Weights = Annotated[
    Path | None, topic_option("--weights", MODEL, "safetensors file or state dict to load into the model.")
]
Pretrained = Annotated[bool, topic_option("--pretrained/--no-pretrained", MODEL, "Download the pretrained weights.")]
Outputs = Annotated[
    str, topic_option("--outputs", MODEL, "What the model returns: logits, probabilities or single-logit.")
]
Normalize = Annotated[
    str | None,
    topic_option(
        "--normalize", MODEL, "Normalisation put before the model: imagenet, cifar10 or 0.5,0.5,0.5/0.2,0.2,0.2."
    ),
]
Stem = Annotated[
    str, topic_option("--stem", MODEL, "First layer of a new network: imagenet, or small for small images.")
]

Data = Annotated[
    str, topic_option("--data", DATA, "mnist, cifar10, cats_vs_dogs, digits, a hub id owner/name or a folder.")
]
DataRoot = Annotated[
    Path | None, topic_option("--data-root", DATA, "Folder searched for NAME/ before the hub.", envvar="INOCULATE_DATA")
]
Split = Annotated[str, topic_option("--split", DATA, "train, val, test or all.")]
ImageSize = Annotated[int | None, topic_option("--image-size", DATA, "Side in pixels at which images are loaded.")]
Limit = Annotated[
    int | None, topic_option("--limit", DATA, "Use only this many images, balanced over the classes.", min=1)
]

Attacks = Annotated[
    str, topic_option("--attack", ATTACK, "Attacks, separated by commas: fgsm, pgd, autoattack …, foolbox:PGD, art:…")
]
Attack = Annotated[str, topic_option("--attack", ATTACK, "One attack, such as fgsm or mifgsm.")]
Norm = Annotated[str, topic_option("--norm", ATTACK, "linf, l2 or l1.")]
EpsList = Annotated[
    str, topic_option("--eps", ATTACK, "Perturbation sizes in units of [0, 1], separated by commas: 0.01,8/255.")
]
Eps = Annotated[str, topic_option("--eps", ATTACK, "Perturbation size in units of [0, 1]: 8/255.")]
Precision = Annotated[
    str, topic_option("--precision", ATTACK, "How attacks are crafted: fast or exact. Evaluation is always exact.")
]
TimeBudget = Annotated[
    str | None,
    topic_option(
        "--time-budget", ATTACK, "Stop attacking after this time and report bounds: 90s, 5m, 2h. Excludes checks."
    ),
]
Checks = Annotated[bool, topic_option("--checks/--no-checks", ATTACK, "Check whether the numbers can be trusted.")]
OtherModels = Annotated[
    list[str] | None,
    topic_option(
        "--surrogate", ATTACK, "Another model, for a check: its examples must not beat white-box ones. Repeatable."
    ),
]

Method = Annotated[
    str, topic_option("--method", TRAINING, f"standard, {', '.join(METHOD_ARMS[:-1])} or {METHOD_ARMS[-1]}.")
]
OptionalMethod = Annotated[
    str | None, topic_option("--method", TRAINING, "pgd_at, trades, mart, …; by default --budget chooses.")
]
MethodOptions = Annotated[
    list[str] | None,
    topic_option("--option", TRAINING, "An option of the method, such as steps=7, beta=6 or average=0.99. Repeatable."),
]
Teacher = Annotated[Path | None, topic_option("--teacher", TRAINING, "A robust trained folder, for ard and rslad.")]
Surrogates = Annotated[
    list[str] | None,
    topic_option("--surrogate", TRAINING, "For ensemble a trained folder (repeatable), for live_surrogate a network."),
]
Fallback = Annotated[
    str | None,
    topic_option("--fallback", TRAINING, "Method to continue with, once, after an alarm: pgd_at. It may take longer."),
]
Epochs = Annotated[int, topic_option("--epochs", TRAINING, "Passes over the training split.", min=1)]
OptionalEpochs = Annotated[
    int | None, topic_option("--epochs", TRAINING, "Passes over the training split, in place of a budget.", min=1)
]
Budget = Annotated[str, topic_option("--budget", TRAINING, "Training time: 90s, 30m or 1h30m.")]
LearningRate = Annotated[float | None, topic_option("--lr", TRAINING, "Peak learning rate.", min=1e-9)]
Augment = Annotated[str, topic_option("--augment", TRAINING, "Augmentation: none, digits, photos, shifts or auto.")]
TrainingPrecision = Annotated[
    str, topic_option("--precision", TRAINING, "auto (bf16 where the processor has it), bf16 or fp32.")
]
Accumulate = Annotated[int, topic_option("--accumulate", TRAINING, "Split each batch into this many parts.", min=1)]

BatchSize = Annotated[int, topic_option("--batch-size", RUN, "Images per batch.", min=1)]
Seed = Annotated[int, topic_option("--seed", RUN, "Seed of every random draw.", min=0)]
Device = Annotated[str, topic_option("--device", RUN, "cpu, cuda, mps …; auto picks the fastest available.")]

Out = Annotated[Path, topic_option("--out", OUTPUT, "Folder for the results.")]
OptionalOut = Annotated[Path | None, topic_option("--out", OUTPUT, "Folder for the results and the page report.html.")]
TestImages = Annotated[
    int, topic_option("--test-images", OUTPUT, "Test images that are attacked for the card.", min=10)
]
Onnx = Annotated[bool, topic_option("--onnx", OUTPUT, "Write model.onnx and check it on adversarial images.")]
Json = Annotated[Path | None, topic_option("--json", OUTPUT, "Write the rows to this file.")]


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
