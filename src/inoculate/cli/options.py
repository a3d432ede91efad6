"""Options of the commands: each has one name and one help text wherever it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

# Topics of `--help`.
MODEL, DATA, ATTACK, TRAINING, RUN, OUTPUT = "Model", "Data", "Attack", "Training", "Run", "Output"

MODEL_SPEC = (
    "timm or torchvision name, wideresnet28_10 …, hf-hub:owner/name, hf:folder, package.module:factory, "
    "file.py:factory, a trained folder, a TorchScript or an ONNX file, http://127.0.0.1:8000/predict."
)


def topic_option(flag: str, topic: str, text: str, **settings: Any) -> Any:
    """An option `flag` with a help `text`, listed under a topic of `--help`."""
    return typer.Option(flag, help=text, rich_help_panel=topic, **settings)


Model = Annotated[str, topic_option("--model", MODEL, MODEL_SPEC)]
Models = Annotated[list[str], topic_option("--model", MODEL, f"{MODEL_SPEC} Repeatable.")]
Weights = Annotated[
    Path | None,
    topic_option("--weights", MODEL, "safetensors or state dict (.pth) to load into the model; FILE:KEY picks one."),
]
Pretrained = Annotated[bool, topic_option("--pretrained/--no-pretrained", MODEL, "Download the pretrained weights.")]
Outputs = Annotated[
    str,
    topic_option(
        "--outputs",
        MODEL,
        "What the model returns: logits, probabilities, log-probabilities, sigmoid, single-logit, labels, "
        "background-first or background-last.",
    ),
]
Normalize = Annotated[
    str | None,
    topic_option(
        "--normalize", MODEL, "Normalisation put before the model: imagenet, cifar10 or 0.5,0.5,0.5/0.2,0.2,0.2."
    ),
]
ClassNames = Annotated[
    Path | None,
    topic_option(
        "--class-names", MODEL, "Names of the model's outputs, to match the data's classes: a line each, or JSON."
    ),
]
Classes = Annotated[
    str, topic_option("--classes", MODEL, "Of more outputs than classes, those that compete: all or subset.")
]

Data = Annotated[
    str, topic_option("--data", DATA, "mnist, cifar10, cats_vs_dogs, digits, a hub id owner/name or a folder.")
]
DataRoot = Annotated[
    Path | None, topic_option("--data-root", DATA, "Folder searched for NAME/ before the hub.", envvar="INOCULATE_DATA")
]
Split = Annotated[str, topic_option("--split", DATA, "train, val, test or all.")]
Limit = Annotated[
    int | None, topic_option("--limit", DATA, "Use only this many images, balanced over the classes.", min=1)
]
By = Annotated[
    str | None,
    topic_option(
        "--by", DATA, "Accuracy by group of images too: a column of the data, or of metadata.csv in a folder."
    ),
]

Sources = Annotated[
    list[str] | None,
    topic_option(
        "--source", ATTACK, "What examples are crafted on: a --model, or several as a+b (mean logits). Repeatable."
    ),
]
Attacks = Annotated[
    str, topic_option("--attack", ATTACK, "Attacks, separated by commas: fgsm, pgd, autoattack …, foolbox:PGD, art:…")
]
Attack = Annotated[str, topic_option("--attack", ATTACK, "One attack, such as fgsm or mifgsm.")]
Norm = Annotated[str, topic_option("--norm", ATTACK, "linf, l2, l1 or l0 (pixels).")]
Norms = Annotated[
    str, topic_option("--norm", ATTACK, "linf, l2, l1 or l0 (pixels); or several, with an eps for each: linf,l2.")
]
EpsList = Annotated[
    str,
    topic_option("--eps", ATTACK, "Sizes in units of [0, 1] (l0: pixels), separated by commas: 0.01,8/255."),
]
Eps = Annotated[str, topic_option("--eps", ATTACK, "Perturbation size in units of [0, 1] (l0: pixels): 8/255.")]
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

BatchSize = Annotated[int, topic_option("--batch-size", RUN, "Images per batch.", min=1)]
AutoBatchSize = Annotated[
    int | None, topic_option("--batch-size", RUN, "Images per batch.", min=1, show_default="as many as fit into 1 GiB")
]
Seed = Annotated[int, topic_option("--seed", RUN, "Seed of every random draw.", min=0)]
Executor = Annotated[
    str, topic_option("--executor", RUN, "Where the work is done: local, processes:N, ray or ray:ADDRESS.")
]
Device = Annotated[str, topic_option("--device", RUN, "cpu, cuda, mps …; auto picks the fastest available.")]

Out = Annotated[Path, topic_option("--out", OUTPUT, "Folder for the results.")]
OptionalOut = Annotated[Path | None, topic_option("--out", OUTPUT, "Folder for the results and the page report.html.")]
Store = Annotated[
    Path | None, topic_option("--store", OUTPUT, "Folder for finished work, shared between runs [default: OUT/store].")
]
Json = Annotated[Path | None, topic_option("--json", OUTPUT, "Write the rows to this file.")]
Records = Annotated[Path | None, topic_option("--records", OUTPUT, "Write one line per image to this .parquet file.")]
SaveImages = Annotated[
    Path | None, topic_option("--save-images", OUTPUT, "Write adversarial images to this folder as PNG.")
]
Explain = Annotated[bool, topic_option("--explain/--no-explain", OUTPUT, "With --out: explain the model too.")]
